//! GGUF: one file that holds a model's settings, its vocabulary and its tensors.
//!
//! Layout (versions 2 and 3): magic, version, two counts, metadata as key-value pairs, one record a
//! tensor, padding up to the alignment, data. Only the head is read when a file is opened; tensors are
//! read one at a time. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

mod cursor;
mod get;
mod parse;
mod types;
mod value;
mod write;

use std::ops::Range;
use std::path::Path;

pub use value::{Array, Value};
pub use write::{GgufStream, GgufWriter, TensorHead};

use crate::error::FileError;
use crate::storage::Storage;
use crate::tensor::{TensorInfo, UnsupportedTensor, read_rows};

/// Metadata in the order of the file.
#[derive(Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    index: std::collections::HashMap<String, usize>,
}

impl Metadata {
    /// Value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// All pairs in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The key given back when it is there already.
    fn insert(&mut self, key: String, value: Value) -> Option<String> {
        if self.index.contains_key(&key) {
            return Some(key);
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        None
    }
}

/// An open GGUF file: its head, and the file to read tensors from.
#[derive(Debug)]
pub struct Gguf {
    storage: Storage,
    version: u32,
    alignment: u64,
    data_start: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    unsupported: Vec<UnsupportedTensor>,
}

impl Gguf {
    /// Opens a file and reads its head. Every count, length and offset is checked against the file.
    pub fn open(path: &Path) -> Result<Gguf, FileError> {
        parse::open(Storage::open(path)?)
    }

    /// Path as given.
    pub fn path(&self) -> &Path {
        self.storage.path()
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensor data in bytes, a power of two.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Length of the whole file in bytes.
    pub fn file_len(&self) -> u64 {
        self.storage.len()
    }

    /// Length of the head: everything before the tensors' data.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Keys and values in the order of the file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Tensors that can be read, under GGUF names, in the order of the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Tensors of element types that cannot be read.
    pub fn unsupported(&self) -> &[UnsupportedTensor] {
        &self.unsupported
    }

    /// `general.architecture`: "llama", "qwen2", …
    pub fn architecture(&self) -> Result<&str, FileError> {
        self.str("general.architecture")
    }

    /// A tensor by its GGUF name; typed error when it is missing or of a type that is not read.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, FileError> {
        crate::tensor::find(self.path(), &self.tensors, &self.unsupported, name)
    }

    /// All bytes of a tensor.
    pub fn read(&self, t: &TensorInfo) -> Result<Vec<u8>, FileError> {
        self.storage.read_vec(t.offset, t.bytes as u64, &t.name)
    }

    /// Bytes of whole rows of a tensor.
    pub fn read_rows(&self, t: &TensorInfo, rows: Range<usize>) -> Result<Vec<u8>, FileError> {
        read_rows(&self.storage, t, rows)
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }
}
