//! A run's state on disk: weights, moments and counters, all or nothing.

use std::io::Write;
use std::path::Path;

use meden_files::safetensors_file::{Safetensors, SafetensorsWriter};
use meden_files::{AtomicFile, FileError, read_json};
use meden_kernels::DType;
use meden_vision::vit::{Params, Part, VitConfig};
use serde::{Deserialize, Serialize};

use super::alast::Budgets;
use super::error::TrainError;
use super::optimizer::Optimizer;
use super::trainer::Trainer;

/// Largest state.json.
const JSON_MAX: u64 = 64 << 20;

/// What is no tensor.
#[derive(Debug, Serialize, Deserialize)]
struct Counters {
    step: u64,
    /// The tensors' file that belongs to these counters.
    tensors: String,
    /// Updates of each weight, by name.
    updates: Vec<(String, u64)>,
    budgets: Option<Budgets>,
    best: Option<(f64, u64)>,
}

/// A weight's name here: these files are no model.
fn name(part: Part) -> String {
    match part {
        Part::Block(layer, part) => format!("block.{layer}.{part:?}"),
        other => format!("{other:?}"),
    }
}

/// Writes the state of `trainer` and the best validation so far (accuracy, step). Tensors go to a new file first, then
/// state.json names it, then the old one is removed: whatever happens, one whole state is there.
///
/// # Errors
/// A folder that cannot be written.
pub fn save_state(folder: &Path, trainer: &Trainer, best: Option<(f64, u64)>) -> Result<(), TrainError> {
    let io = |path: &Path, action: &str, source| FileError::Io { path: path.to_owned(), action: action.into(), source };
    std::fs::create_dir_all(folder).map_err(|e| io(folder, "create", e))?;
    let tensors = format!("step-{:08}.safetensors", trainer.step);
    let mut writer = SafetensorsWriter::new();
    let sets = [("w", &trainer.network.params), ("m", &trainer.optimizer.first), ("v", &trainer.optimizer.second)];
    let average = trainer.average.iter().map(|a| ("e", a));
    for (set, params) in sets.into_iter().chain(average) {
        for (part, values) in params.iter() {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer = writer.tensor(&format!("{set}.{}", name(part)), DType::F32, &[values.len()], bytes);
        }
    }
    writer.write(&folder.join(&tensors))?;
    let updates = trainer.optimizer.updates.iter().map(|(p, n)| (name(*p), *n)).collect();
    let counters =
        Counters { step: trainer.step, tensors: tensors.clone(), updates, budgets: trainer.budgets.clone(), best };
    let path = folder.join("state.json");
    let text = serde_json::to_string(&counters).map_err(|source| FileError::Json { path: path.clone(), source })?;
    let mut file = AtomicFile::create(&path)?;
    file.write_all(text.as_bytes()).map_err(|e| io(&path, "write", e))?;
    file.commit()?;
    for entry in std::fs::read_dir(folder).map_err(|e| io(folder, "list", e))?.flatten() {
        let other = entry.file_name().to_string_lossy().into_owned();
        if other.starts_with("step-") && other != tensors {
            // What cannot be removed only takes room.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Puts `trainer`, which has the run's shape and settings, into the state on disk; answers the best validation so far.
/// `None` where there is no state yet.
///
/// # Errors
/// A state that is damaged or belongs to another model.
pub fn load_state(folder: &Path, trainer: &mut Trainer) -> Result<Option<Option<(f64, u64)>>, TrainError> {
    let path = folder.join("state.json");
    if !path.exists() {
        return Ok(None);
    }
    let counters: Counters = read_json(&path, JSON_MAX)?;
    let bad = |why: String| TrainError::State { path: path.clone(), why };
    if counters.tensors.contains(['/', '\\']) {
        return Err(bad(format!("{:?} is no file name", counters.tensors)));
    }
    if counters.budgets.as_ref().map(|b| b.values.len()) != trainer.budgets.as_ref().map(|b| b.values.len()) {
        return Err(bad("its budgets are another method's or model's; start a new run".into()));
    }
    let file = Safetensors::open(&folder.join(&counters.tensors))?;
    let config = trainer.network.config.clone();
    let read = |set: &str, wanted: &dyn Fn(Part) -> bool| -> Result<Params, TrainError> {
        let mut params = Params::new();
        for part in config.parts().into_iter().filter(|p| wanted(*p)) {
            params.insert(part, values(&file, &format!("{set}.{}", name(part)), &config, part)?);
        }
        Ok(params)
    };
    let count = |part: Part| counters.updates.iter().find(|(n, _)| *n == name(part)).map(|(_, n)| *n);
    let updated = |part: Part| count(part).is_some();
    let params = read("w", &|_| true)?;
    let (first, second) = (read("m", &updated)?, read("v", &updated)?);
    let updates = config.parts().into_iter().filter_map(|p| count(p).map(|n| (p, n))).collect();
    if trainer.average.is_some() {
        trainer.average = Some(read("e", &|_| true)?);
    }
    trainer.network.params = params;
    trainer.optimizer = Optimizer { first, second, updates };
    trainer.budgets = counters.budgets;
    trainer.step = counters.step;
    Ok(Some(counters.best))
}

fn values(file: &Safetensors, name: &str, config: &VitConfig, part: Part) -> Result<Vec<f32>, TrainError> {
    let info = file.tensor(name)?;
    let needed: usize = config.shape(part).iter().product();
    let bytes = file.read(info)?;
    if info.dtype != DType::F32 || info.elements() != needed {
        let why = format!("{name} holds {} values, the model has {needed}; start a new run", info.elements());
        return Err(TrainError::State { path: name.into(), why });
    }
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}
