//! Tuned lenses in files: safetensors with `<i>.weight` and `<i>.bias`, the keys of the reference's parameters.

use std::path::Path;

use meden_engine::{EngineError, Model};
use meden_files::hash::Hash;
use meden_files::safetensors_file::{Safetensors, SafetensorsWriter};
use meden_kernels::dtype::DType;
use meden_kernels::weights::dequantize;

use super::{Translator, TunedLens};
use crate::error::LensError;

const FORMAT: &str = "meden-tuned-lens";

impl TunedLens {
    /// Reads a lens for a model: a safetensors file, or a folder with `params.safetensors` in it (the reference's
    /// `params.pt`, converted).
    ///
    /// # Errors
    /// A file without the translators, or with those of another shape.
    pub fn load(path: &Path, model: &Model) -> Result<TunedLens, LensError> {
        let path = if path.is_dir() { path.join("params.safetensors") } else { path.to_owned() };
        let file = Safetensors::open(&path)?;
        let c = model.config();
        let prefixes = ["", "layer_translators."];
        let prefix = prefixes.into_iter().find(|p| file.tensor(&format!("{p}0.bias")).is_ok()).unwrap_or("");
        let beyond = format!("{prefix}{}.bias", c.layers);
        if file.tensor(&beyond).is_ok() {
            let why =
                format!("it has more translators than the model has layers ({}): it is another model's", c.layers);
            return Err(LensError::Unfit { path, why });
        }
        let read = |name: String, shape: &[usize]| -> Result<Vec<f32>, LensError> {
            let tensor = file.tensor(&name)?;
            if tensor.shape != shape {
                let why = format!("`{name}` has shape {:?}, this model needs {shape:?}", tensor.shape);
                return Err(LensError::Unfit { path: path.clone(), why });
            }
            let mut values = vec![0f32; tensor.elements()];
            dequantize(tensor.dtype, &file.read(tensor)?, &mut values).map_err(EngineError::from)?;
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                let why = format!("value {at} of `{name}` is not a number: train the lens again");
                return Err(LensError::Unfit { path: path.clone(), why });
            }
            Ok(values)
        };
        let mut translators = Vec::with_capacity(c.layers);
        for i in 0..c.layers {
            let weight = read(format!("{prefix}{i}.weight"), &[c.hidden, c.hidden])?;
            let bias = read(format!("{prefix}{i}.bias"), &[c.hidden])?;
            translators.push(Translator::new(model.isa(), weight, bias)?);
        }
        let unembedding = file.metadata().iter().find(|(key, _)| key == "unembedding_sha256");
        Ok(TunedLens { translators, hidden: c.hidden, unembedding: unembedding.map(|(_, hash)| hash.clone()) })
    }

    /// Writes the lens; `notes` are pairs for its head.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path, notes: &[(&str, String)]) -> Result<(), LensError> {
        let mut file = SafetensorsWriter::new().meta("format", FORMAT).meta("version", "1");
        if let Some(hash) = &self.unembedding {
            file = file.meta("unembedding_sha256", hash);
        }
        for (key, value) in notes {
            file = file.meta(key, value);
        }
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        for (i, translator) in self.translators.iter().enumerate() {
            let mut weight = vec![0f32; self.hidden * self.hidden];
            if let Some(matrix) = &translator.weight {
                weight.chunks_exact_mut(self.hidden).enumerate().for_each(|(r, row)| matrix.row(r, row));
            }
            let shape = [self.hidden, self.hidden];
            file = file.tensor(&format!("{i}.weight"), DType::F32, &shape, bytes(&weight));
            file = file.tensor(&format!("{i}.bias"), DType::F32, &[self.hidden], bytes(&translator.bias));
        }
        Ok(file.write(path)?)
    }
}

/// SHA-256 of a model's unembedding as f32, row by row, in hexadecimal: what a lens is bound to.
pub fn unembedding_sha256(model: &Model) -> String {
    let mut hash = Hash::sha256();
    let mut row = vec![0f32; model.config().hidden];
    for id in 0..model.config().vocab as u32 {
        // every id below the vocabulary has a row
        if model.unembedding_row(id, &mut row).is_ok() {
            let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
            hash.update(&bytes);
        }
    }
    hash.hex()
}
