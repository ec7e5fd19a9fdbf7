//! Writing a safetensors file.
//!
//! The format is eight bytes of length and a JSON head, so we write it ourselves: the `safetensors` crate
//! would bring its own temporary-file machinery into every build. The tests read the result with it.

use std::io::Write;
use std::path::Path;

use meden_kernels::dtype::DType;
use serde_json::{Map, Value, json};

use crate::atomic::AtomicFile;
use crate::error::FileError;
use crate::tensor::byte_len;

/// Collects float tensors, then writes them. Errors are those of [`SafetensorsWriter::write`].
#[derive(Debug, Default)]
pub struct SafetensorsWriter {
    metadata: Map<String, Value>,
    tensors: Vec<(String, DType, Vec<usize>, Vec<u8>)>,
}

impl SafetensorsWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pair to `__metadata__`.
    #[must_use]
    pub fn meta(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a tensor (F32, F16 or BF16); `shape` is row-major, `bytes` little-endian.
    #[must_use]
    pub fn tensor(mut self, name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Self {
        self.tensors.push((name.to_owned(), dtype, shape.to_vec(), bytes));
        self
    }

    /// Writes the file. Errors when a type is quantised, bytes and shape do not fit, or a name comes twice.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let mut head = Map::new();
        if !self.metadata.is_empty() {
            head.insert("__metadata__".into(), Value::Object(self.metadata.clone()));
        }
        let mut at = 0;
        for (name, dtype, shape, bytes) in &self.tensors {
            let bad = |problem: String| FileError::malformed(path, format!("tensor {name}"), problem);
            if !dtype.is_float() {
                return Err(bad(format!("safetensors has no type {}", dtype.name())));
            }
            let need = byte_len(*dtype, shape).map_err(bad)?;
            if need != bytes.len() {
                return Err(bad(format!("{shape:?} in {dtype} takes {need} bytes, {} were given", bytes.len())));
            }
            let entry = json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [at, at + need]});
            if head.insert(name.clone(), entry).is_some() {
                return Err(bad("this name was given twice".into()));
            }
            at += need;
        }
        // Spaces behind the JSON bring the data to a multiple of eight bytes.
        let mut text = Value::Object(head).to_string();
        let padded = text.len().next_multiple_of(8);
        text.extend(std::iter::repeat_n(' ', padded - text.len()));

        let mut file = AtomicFile::create(path)?;
        let fail = |e| FileError::io(path, "write", e);
        file.write_all(&(text.len() as u64).to_le_bytes()).map_err(fail)?;
        file.write_all(text.as_bytes()).map_err(fail)?;
        for (_, _, _, bytes) in &self.tensors {
            file.write_all(bytes).map_err(fail)?;
        }
        file.commit()
    }
}
