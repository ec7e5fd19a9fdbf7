//! Trained or calibrated numbers of a press, from a safetensors file: read by name, held against the shape they need.

use std::path::Path;

use meden_files::safetensors_file::Safetensors;

use crate::error::EngineError;
use crate::model::Model;

/// A tensor that has been read.
#[derive(Clone, Debug)]
pub struct Data {
    /// Where it came from, for refusals.
    pub source: String,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub values: Vec<f32>,
}

impl Data {
    /// Refuse another shape than the model needs. `what` names the axes.
    ///
    /// Errors: the file, the tensor, both shapes.
    pub fn expect(&self, press: &str, shape: &[usize], what: &str) -> Result<(), EngineError> {
        if self.shape == shape {
            return Ok(());
        }
        let why = format!("{} has the shape {:?}, this model needs {shape:?} {what}", self.source, self.shape);
        Err(EngineError::Press { press: press.to_string(), why })
    }

    /// The `index`-th part along the first axes, when each part has `size` numbers.
    pub fn part(&self, index: usize, size: usize) -> &[f32] {
        &self.values[index * size..(index + 1) * size]
    }
}

/// A file of tensors with what is written in its header.
pub struct DataFile {
    file: Safetensors,
    name: String,
}

impl DataFile {
    /// Open a file.
    ///
    /// Errors: it cannot be read.
    pub fn open(path: &Path) -> Result<DataFile, EngineError> {
        Ok(DataFile { file: Safetensors::open(path)?, name: path.display().to_string() })
    }

    /// A word of the header's metadata.
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.file.metadata().iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Does it hold that tensor?
    pub fn has(&self, tensor: &str) -> bool {
        self.file.tensors().iter().any(|t| t.name == tensor)
    }

    /// Read a tensor as f32.
    ///
    /// Errors: no such tensor, a type that is not read, a number that is not finite.
    pub fn read(&self, press: &str, tensor: &str) -> Result<Data, EngineError> {
        let info = self.file.tensor(tensor)?;
        let mut values = vec![0f32; info.elements()];
        meden_kernels::weights::dequantize(info.dtype, &self.file.read(info)?, &mut values)?;
        let source = format!("{}, tensor `{tensor}`", self.name);
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let why = format!("{source}: number {at} is not finite; the file is damaged");
            return Err(EngineError::Press { press: press.to_string(), why });
        }
        Ok(Data { source, shape: info.shape.clone(), values })
    }

    /// What was calibrated here, for [`Calibrated::fits`].
    pub fn calibrated(&self) -> Calibrated {
        Calibrated {
            source: self.name.clone(),
            press: self.meta("press").map(str::to_string),
            model: self.meta("model").map(str::to_string),
        }
    }
}

/// The refusal of a press that has no file.
pub(crate) fn no_file(press: &str, how: &str) -> EngineError {
    EngineError::Press { press: press.to_string(), why: format!("it needs the parameter `file`: {how}") }
}

/// For which press and model a file was made; published files do not say it.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The file, for refusals.
    pub source: String,
    /// The press it names.
    pub press: Option<String>,
    /// The fingerprint of the model it names, in hex.
    pub model: Option<String>,
}

impl Calibrated {
    /// Refuse the file of another press or another model, where it names them.
    pub fn fits(&self, press: &str, model: &Model) -> Result<(), EngineError> {
        let refuse = |why: String| Err(EngineError::Press { press: press.to_string(), why });
        if let Some(other) = self.press.as_ref().filter(|p| *p != press) {
            return refuse(format!("{} was calibrated for the press `{other}`", self.source));
        }
        let mine: String = model.fingerprint().iter().map(|b| format!("{b:02x}")).collect();
        match &self.model {
            Some(other) if *other != mine => refuse(format!(
                "{} was calibrated with another model (its fingerprint begins {}, this model's {}); calibrate again with `meden kv calibrate`",
                self.source,
                other.get(..8).unwrap_or(other),
                &mine[..8]
            )),
            _ => Ok(()),
        }
    }
}
