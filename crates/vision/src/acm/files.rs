//! `acm.json` and `acm.safetensors`, beside a model's own files.

use std::path::Path;

use meden_files::safetensors_file::{Safetensors, SafetensorsWriter};
use meden_files::{AtomicFile, FileError, read_json};
use meden_kernels::DType;

use super::{AcmBlock, AcmConfig, AcmParams};
use crate::error::VisionError;
use crate::vit::VitConfig;

/// Largest acm.json.
const JSON_MAX: u64 = 1 << 20;

/// Reads the modules of a model's folder; `None` where it has no `acm.json`.
///
/// # Errors
/// Files that are damaged, or do not fit the model or each other, naming field or tensor.
pub fn load(folder: &Path, vit: &VitConfig) -> Result<Option<(AcmConfig, AcmParams)>, VisionError> {
    let path = folder.join("acm.json");
    if !path.exists() {
        return Ok(None);
    }
    let config: AcmConfig = read_json(&path, JSON_MAX)?;
    config.check(&path, vit)?;
    let path = folder.join("acm.safetensors");
    let file = Safetensors::open(&path)?;
    let mut params = AcmParams::default();
    for layer in 0..vit.layers {
        let mut block = AcmBlock::zeros(&config, vit);
        let needed: Vec<_> =
            block.tensors(layer, vit.width).into_iter().map(|(name, shape, _)| (name, shape)).collect();
        let mut values = Vec::with_capacity(needed.len());
        for (name, needed) in needed {
            let info = file.tensor(&name)?;
            if info.shape != needed || info.dtype != DType::F32 {
                let found = info.shape.clone();
                return Err(VisionError::TensorShape { path: path.clone(), name, found, needed });
            }
            let bytes = file.read(info)?;
            values.push(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>());
        }
        let mut next = values.into_iter();
        let mut fill = |to: &mut Vec<f32>| {
            if !to.is_empty() {
                *to = next.next().unwrap_or_default();
            }
        };
        for n in 0..config.learners {
            fill(&mut block.w1[n]);
            fill(&mut block.b1[n]);
            fill(&mut block.w2[n]);
        }
        fill(&mut block.bias);
        if let Some(gate) = &mut block.gate {
            [&mut gate.w1, &mut gate.b1, &mut gate.w2, &mut gate.b2].into_iter().for_each(&mut fill);
        }
        params.blocks.push(block);
    }
    Ok(Some((config, params)))
}

/// Writes `acm.safetensors`, then `acm.json`, each whole or not at all.
///
/// # Errors
/// A folder that cannot be written.
pub fn save(folder: &Path, config: &AcmConfig, params: &AcmParams, width: usize) -> Result<(), VisionError> {
    let mut writer = SafetensorsWriter::new().meta("meden.acm.version", &config.version.to_string());
    for (layer, block) in params.blocks.iter().enumerate() {
        for (name, shape, values) in block.tensors(layer, width) {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer = writer.tensor(&name, DType::F32, &shape, bytes);
        }
    }
    writer.write(&folder.join("acm.safetensors"))?;
    let path = folder.join("acm.json");
    let text = serde_json::to_string_pretty(config).map_err(|source| FileError::Json { path: path.clone(), source })?;
    Ok(AtomicFile::whole(&path, format!("{text}\n").as_bytes())?)
}
