//! Writing a safetensors file: the crate's serialiser behind our atomic rename.

use std::io::Write;
use std::path::Path;

use meden_kernels::dtype::DType;
use safetensors::tensor::{Dtype, TensorView};

use crate::atomic::AtomicFile;
use crate::error::FileError;

/// Collects float tensors, then writes them. Errors are those of [`SafetensorsWriter::write`].
#[derive(Debug, Default)]
pub struct SafetensorsWriter {
    metadata: std::collections::HashMap<String, String>,
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
        self.metadata.insert(key.to_owned(), value.to_owned());
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
        let mut views: Vec<(&str, TensorView)> = Vec::with_capacity(self.tensors.len());
        let mut names = std::collections::HashSet::new();
        for (name, dtype, shape, bytes) in &self.tensors {
            let bad = |problem: String| FileError::malformed(path, format!("tensor {name}"), problem);
            if !names.insert(name) {
                return Err(bad("this name was given twice".into()));
            }
            let dtype = match dtype {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::BF16,
                other => return Err(bad(format!("safetensors has no type {}", other.name()))),
            };
            views.push((name, TensorView::new(dtype, shape.clone(), bytes).map_err(|e| bad(e.to_string()))?));
        }
        let metadata = (!self.metadata.is_empty()).then(|| self.metadata.clone());
        let bytes = safetensors::serialize(views, metadata)
            .map_err(|e| FileError::malformed(path, "the header", e.to_string()))?;
        let mut file = AtomicFile::create(path)?;
        file.write_all(&bytes).map_err(|e| FileError::io(path, "write", e))?;
        file.commit()
    }
}
