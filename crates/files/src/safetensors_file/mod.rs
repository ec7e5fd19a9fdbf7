//! safetensors: one file, or several that an index ties together.
//!
//! Heads are read when the file is opened, tensors one at a time. Tensors of types other than F32, F16
//! and BF16 are listed but not read.

mod header;
mod index;
mod write;

use std::ops::Range;
use std::path::Path;

pub use write::SafetensorsWriter;

use crate::error::FileError;
use crate::storage::Storage;
use crate::tensor::{TensorInfo, UnsupportedTensor, absent, find, read_rows};

/// One open file, or all shards of a model.
#[derive(Debug)]
pub struct Safetensors {
    files: Vec<Shard>,
    metadata: Vec<(String, String)>,
    tensors: Vec<TensorInfo>,
    unsupported: Vec<UnsupportedTensor>,
}

#[derive(Debug)]
struct Shard {
    storage: Storage,
    data_start: u64,
}

impl Safetensors {
    /// Opens a `.safetensors` file, or all files of a `.safetensors.index.json`.
    pub fn open(path: &Path) -> Result<Safetensors, FileError> {
        if path.extension().is_some_and(|e| e == "json") { Self::open_index(path) } else { Self::open_file(path) }
    }

    fn open_file(path: &Path) -> Result<Safetensors, FileError> {
        let storage = Storage::open(path)?;
        let h = header::read(&storage, 0)?;
        let files = vec![Shard { storage, data_start: h.data_start }];
        Ok(Safetensors { files, metadata: h.metadata, tensors: h.tensors, unsupported: h.unsupported })
    }

    /// The index decides: a tensor is read from the shard it names, and one that is not there is an error.
    fn open_index(path: &Path) -> Result<Safetensors, FileError> {
        let index = index::read(path)?;
        let mut all =
            Safetensors { files: Vec::new(), metadata: Vec::new(), tensors: Vec::new(), unsupported: Vec::new() };
        for (i, file) in index.files.iter().enumerate() {
            let storage = Storage::open(file)?;
            let h = header::read(&storage, i)?;
            let here = |name: &str| index.tensors.get(name) == Some(&i);
            let found: std::collections::HashSet<&str> = h
                .tensors
                .iter()
                .map(|t| t.name.as_str())
                .chain(h.unsupported.iter().map(|u| u.name.as_str()))
                .collect();
            if let Some((name, _)) = index.tensors.iter().find(|(n, f)| **f == i && !found.contains(n.as_str())) {
                return Err(absent(file, &h.tensors, &h.unsupported, name));
            }
            all.tensors.extend(h.tensors.into_iter().filter(|t| here(&t.name)));
            all.unsupported.extend(h.unsupported.into_iter().filter(|u| here(&u.name)));
            if i == 0 {
                all.metadata = h.metadata;
            }
            all.files.push(Shard { storage, data_start: h.data_start });
        }
        Ok(all)
    }

    /// Pairs of `__metadata__` (of the first shard).
    pub fn metadata(&self) -> &[(String, String)] {
        &self.metadata
    }

    /// Tensors that can be read, in the order of the data.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Tensors of element types that cannot be read.
    pub fn unsupported(&self) -> &[UnsupportedTensor] {
        &self.unsupported
    }

    /// A tensor by name; typed error when it is missing or of a type that is not read.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, FileError> {
        find(self.files[0].storage.path(), &self.tensors, &self.unsupported, name)
    }

    /// All bytes of a tensor.
    pub fn read(&self, t: &TensorInfo) -> Result<Vec<u8>, FileError> {
        self.storage(t)?.read_vec(t.offset, t.bytes as u64, &t.name)
    }

    /// Bytes of whole rows of a tensor.
    pub fn read_rows(&self, t: &TensorInfo, rows: Range<usize>) -> Result<Vec<u8>, FileError> {
        read_rows(self.storage(t)?, t, rows)
    }

    /// A tensor of 32- or 64-bit integers: its shape and its numbers, row by row.
    ///
    /// # Errors
    /// A tensor that is missing or of another type.
    pub fn read_integers(&self, name: &str) -> Result<(Vec<usize>, Vec<i64>), FileError> {
        let found = self.unsupported.iter().find(|u| u.name == name);
        let Some((t, (offset, bytes, file))) = found.and_then(|t| Some((t, t.span?))) else {
            return Err(absent(self.files[0].storage.path(), &self.tensors, &self.unsupported, name));
        };
        let storage = &self.files[file].storage;
        let read = || storage.read_vec(offset, bytes, name);
        let values = match t.type_name.as_str() {
            "I32" => read()?.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
            "I64" => read()?.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            other => {
                return Err(FileError::BadRead {
                    path: storage.path().to_owned(),
                    tensor: name.to_owned(),
                    problem: format!("it is of type {other}; I32 or I64 is needed"),
                });
            }
        };
        Ok((t.shape.clone(), values))
    }

    /// The file that a tensor lies in; an error when it is another model's.
    fn storage(&self, t: &TensorInfo) -> Result<&Storage, FileError> {
        match self.files.get(t.file) {
            Some(shard) => Ok(&shard.storage),
            None => Err(FileError::BadRead {
                path: self.files[0].storage.path().to_owned(),
                tensor: t.name.clone(),
                problem: format!("it names file {} of {}; it is another model's", t.file, self.files.len()),
            }),
        }
    }

    /// Path, length and head length of every file.
    pub(crate) fn storages(&self) -> impl Iterator<Item = (&Storage, u64)> {
        self.files.iter().map(|s| (&s.storage, s.data_start))
    }
}
