//! A model's folder: configuration, transforms and weights, read and written.

use std::io::Write;
use std::path::{Path, PathBuf};

use meden_files::safetensors_file::{Safetensors, SafetensorsWriter};
use meden_files::{AtomicFile, FileError, read_json};
use meden_kernels::DType;
use serde_json::Value;

use super::config::VitConfig;
use super::params::{Params, Part};
use super::{config_file, preprocess_file};
use crate::error::VisionError;
use crate::image::Preprocess;

/// Largest config.json; one with 21,000 class names takes a megabyte.
const CONFIG_MAX: u64 = 16 << 20;

/// An open image model whose weights are not read yet.
#[derive(Debug)]
pub struct VitFiles {
    /// The folder.
    pub folder: PathBuf,
    /// The shape.
    pub config: VitConfig,
    /// config.json as it stands, to be written again beside changed weights.
    pub raw_config: Value,
    /// How images become pixels.
    pub preprocess: Preprocess,
    /// Nothing beside the weights says how images become pixels, so the usual was taken.
    pub preprocess_assumed: bool,
    weights: Safetensors,
    path: PathBuf,
}

impl VitFiles {
    /// Opens a folder with config.json and model.safetensors (or its index), or a `.safetensors` beside a config.json.
    ///
    /// # Errors
    /// Files that are missing, damaged, or of a model that is not run here.
    pub fn open(path: &Path) -> Result<VitFiles, VisionError> {
        let weights_path = find(path)?;
        let folder = weights_path.parent().unwrap_or(Path::new(".")).to_owned();
        let config_path = folder.join("config.json");
        let raw_config: Value = read_json(&config_path, CONFIG_MAX)?;
        let weights = Safetensors::open(&weights_path)?;
        let config = config_file::read(&config_path, &raw_config, &weights)?;
        let transforms = folder.join("preprocessor_config.json");
        let timm = raw_config.get("pretrained_cfg").is_some();
        let preprocess = if transforms.exists() {
            let value: Value = read_json(&transforms, CONFIG_MAX)?;
            preprocess_file::from_hf(&transforms, &value, &config)?
        } else if timm {
            preprocess_file::from_timm(&config_path, &raw_config, &config)?
        } else {
            preprocess_file::assumed(&config)
        };
        let preprocess_assumed = !transforms.exists() && !timm;
        Ok(VitFiles { folder, config, raw_config, preprocess, preprocess_assumed, weights, path: weights_path })
    }

    /// Reads all weights as f32.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape, or of a type that is not read.
    pub fn params(&self) -> Result<Params, VisionError> {
        let mut params = Params::new();
        for part in self.config.parts() {
            params.insert(part, self.part(part)?);
        }
        Ok(params)
    }

    fn part(&self, part: Part) -> Result<Vec<f32>, VisionError> {
        let shape = self.config.shape(part);
        let mut values = Vec::new();
        for tensor in self.config.tensors(part) {
            let info = self.weights.tensor(&tensor.name)?;
            let needed: Vec<usize> = std::iter::once(tensor.rows.len()).chain(shape[1..].iter().copied()).collect();
            if info.shape != needed {
                let (path, name, found) = (self.path.clone(), tensor.name, info.shape.clone());
                return Err(VisionError::TensorShape { path, name, found, needed });
            }
            let bytes = self.weights.read(info)?;
            let from = values.len();
            values.resize(from + info.elements(), 0.0);
            meden_kernels::weights::dequantize(info.dtype, &bytes, &mut values[from..])
                .map_err(|e| VisionError::config(&self.path, &tensor.name, e.to_string()))?;
        }
        Ok(values)
    }
}

fn find(path: &Path) -> Result<PathBuf, VisionError> {
    let is_dir = std::fs::metadata(path).map_err(|source| FileError::Io {
        path: path.to_owned(),
        action: "open".into(),
        source,
    })?;
    if !is_dir.is_dir() {
        return Ok(path.to_owned());
    }
    let names = ["model.safetensors.index.json", "model.safetensors"];
    names.into_iter().map(|name| path.join(name)).find(|p| p.exists()).ok_or_else(|| {
        FileError::NotAModel {
            path: path.to_owned(),
            problem: "there is no model.safetensors in this folder".into(),
            fix: "give the folder of an image model: config.json and model.safetensors".into(),
        }
        .into()
    })
}

/// Writes config.json, preprocessor_config.json and model.safetensors into `folder`, which is made if it is not there;
/// `config_json` is what config.json shall say. Each file appears whole or not at all, the weights last.
///
/// # Errors
/// A folder that cannot be written.
pub fn save(
    folder: &Path,
    config: &VitConfig,
    params: &Params,
    config_json: &Value,
    preprocess: &Preprocess,
) -> Result<(), VisionError> {
    let fail =
        |path: &Path, action: &str, source| FileError::Io { path: path.to_owned(), action: action.into(), source };
    std::fs::create_dir_all(folder).map_err(|e| fail(folder, "create", e))?;
    for (name, value) in
        [("config.json", config_json), ("preprocessor_config.json", &preprocess_file::to_hf(preprocess))]
    {
        let path = folder.join(name);
        let mut file = AtomicFile::create(&path)?;
        let text = format!("{value:#}\n");
        file.write_all(text.as_bytes()).map_err(|e| fail(&path, "write", e))?;
        file.commit()?;
    }
    let mut writer = SafetensorsWriter::new().meta("format", "pt");
    for (part, values) in params.iter() {
        let shape = config.shape(part);
        let row: usize = shape[1..].iter().product();
        for tensor in config.tensors(part) {
            let shape: Vec<usize> = std::iter::once(tensor.rows.len()).chain(shape[1..].iter().copied()).collect();
            let rows = &values[tensor.rows.start * row..tensor.rows.end * row];
            let bytes = rows.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer = writer.tensor(&tensor.name, DType::F32, &shape, bytes);
        }
    }
    Ok(writer.write(&folder.join("model.safetensors"))?)
}
