//! Control vectors in the form that repeng writes and llama.cpp reads: one direction a layer, added to the stream.
//!
//! A GGUF file of architecture `controlvector` with the tensors `direction.N` (f32), N from 1 on: what is added behind
//! block N (counted from 0), so block 0 never has one.

use std::collections::BTreeMap;
use std::path::Path;

use meden_files::FileError;
use meden_files::gguf::{Gguf, GgufWriter};
use meden_kernels::DType;
use meden_kernels::weights::dequantize;

use crate::error::LensError;

/// Directions by block, counted from 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControlVector {
    /// Architecture of the model.
    pub model: String,
    /// Directions.
    pub directions: BTreeMap<usize, Vec<f32>>,
}

impl ControlVector {
    /// Writes the file.
    ///
    /// # Errors
    /// A direction of block 0, for which the format has no name; directions of different lengths; none at all.
    pub fn write(&self, path: &Path) -> Result<(), LensError> {
        let unfit = |why: &str| LensError::Unfit { path: path.to_owned(), why: why.to_owned() };
        let Some(width) = self.directions.values().next().map(Vec::len) else {
            return Err(unfit("no direction to write"));
        };
        if self.directions.contains_key(&0) {
            return Err(unfit("the format has no place for block 0: steer a later block"));
        }
        if self.directions.values().any(|d| d.len() != width) {
            return Err(unfit("its directions have different lengths"));
        }
        let mut file = GgufWriter::new()
            .meta("general.architecture", "controlvector".to_owned())
            .meta("controlvector.model_hint", self.model.clone())
            .meta("controlvector.layer_count", self.directions.len() as u32);
        for (block, direction) in &self.directions {
            let bytes = bytemuck::cast_slice::<f32, u8>(direction).to_vec();
            file = file.tensor(&format!("direction.{block}"), DType::F32, &[width], bytes);
        }
        Ok(file.write(path)?)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Another kind of file; names or lengths that make no sense.
    pub fn read(path: &Path) -> Result<ControlVector, LensError> {
        let file = Gguf::open(path)?;
        let unfit = |why: String| LensError::Unfit { path: path.to_owned(), why };
        let architecture = file.str("general.architecture")?.to_owned();
        if architecture != "controlvector" {
            return Err(unfit(format!("its architecture is {architecture}, not controlvector")));
        }
        let model = file.str("controlvector.model_hint").map(str::to_owned).unwrap_or_default();
        let mut directions = BTreeMap::new();
        for tensor in file.tensors() {
            let block: Option<usize> = tensor.name.strip_prefix("direction.").and_then(|n| n.parse().ok());
            let block = block.filter(|b| *b > 0 && *b < 1024);
            let block = block.ok_or_else(|| unfit(format!("{} is no direction of a block", tensor.name)))?;
            let mut values = vec![0f32; tensor.elements()];
            let bytes: Result<Vec<u8>, FileError> = file.read(tensor);
            dequantize(tensor.dtype, &bytes?, &mut values).map_err(meden_engine::EngineError::from)?;
            directions.insert(block, values);
        }
        let widths: Vec<usize> = directions.values().map(Vec::len).collect();
        if widths.is_empty() || widths.windows(2).any(|w| w[0] != w[1]) {
            return Err(unfit("it has no directions, or some of different lengths".into()));
        }
        Ok(ControlVector { model, directions })
    }
}
