//! Writing GGUF: metadata and tensors to a file.
//!
//! [`GgufWriter`] holds everything, for tests that need a tiny model; [`GgufStream`] takes the tensors' bytes
//! as they come. The file appears under its name
//! only when it is whole: it is written under a temporary name in the same folder and renamed.

use std::io::Write;
use std::path::{Path, PathBuf};

use meden_kernels::dtype::DType;

use super::{Array, Value};
use crate::atomic::AtomicFile;
use crate::error::FileError;
use crate::tensor::byte_len;

/// Collects metadata and tensors, then writes them as GGUF version 3.
#[derive(Debug, Default)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(TensorHead, Vec<u8>)>,
}

impl GgufWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metadata pair. `general.alignment` (a u32) also sets the alignment of this file.
    #[must_use]
    pub fn meta(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a tensor; `shape` is row-major, outermost first, `bytes` its data in the file's layout.
    #[must_use]
    pub fn tensor(mut self, name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Self {
        self.tensors.push((TensorHead { name: name.to_owned(), dtype, shape: shape.to_vec() }, bytes));
        self
    }

    /// Writes the file. Errors when a tensor's bytes do not fit its type and shape, a name is there
    /// twice, or the alignment is no power of two.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let heads: Vec<TensorHead> = self.tensors.iter().map(|(head, _)| head.clone()).collect();
        for (head, bytes) in &self.tensors {
            let need = head.bytes(path)?;
            if need != bytes.len() {
                let (shape, dtype) = (&head.shape, head.dtype.name());
                let problem = format!("{shape:?} in {dtype} takes {need} bytes, {} were given", bytes.len());
                return Err(FileError::malformed(path, format!("tensor {}", head.name), problem));
            }
        }
        let mut stream = GgufStream::create(path, &self.metadata, &heads)?;
        self.tensors.iter().try_for_each(|(_, bytes)| stream.put(bytes))?;
        stream.finish()
    }
}

/// What the head of a file says of one tensor that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorHead {
    /// GGUF name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major, outermost first.
    pub shape: Vec<usize>,
}

impl TensorHead {
    /// Bytes of its data; an error where the type and the shape do not fit each other.
    fn bytes(&self, path: &Path) -> Result<usize, FileError> {
        byte_len(self.dtype, &self.shape)
            .map_err(|problem| FileError::malformed(path, format!("tensor {}", self.name), problem))
    }
}

/// Writes a file whose tensors are too large to be held at once: the head first, then their bytes in any pieces.
pub struct GgufStream {
    path: PathBuf,
    file: AtomicFile,
    alignment: usize,
    /// Name and bytes of each tensor.
    tensors: Vec<(String, usize)>,
    /// The tensor that the next bytes belong to, and how many of them are there.
    at: (usize, usize),
}

impl GgufStream {
    /// Writes the head. Errors as [`GgufWriter::write`].
    pub fn create(path: &Path, metadata: &[(String, Value)], tensors: &[TensorHead]) -> Result<GgufStream, FileError> {
        let alignment = check(path, metadata, tensors)?;
        let mut head = Vec::new();
        head.extend_from_slice(b"GGUF");
        head.extend_from_slice(&3u32.to_le_bytes());
        head.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        head.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_str(&mut head, key);
            head.extend_from_slice(&value.type_id().to_le_bytes());
            put_value(&mut head, value);
        }
        let (mut offset, mut places) = (0u64, Vec::with_capacity(tensors.len()));
        for tensor in tensors {
            let bytes = tensor.bytes(path)?;
            put_str(&mut head, &tensor.name);
            head.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for &d in tensor.shape.iter().rev() {
                head.extend_from_slice(&(d as u64).to_le_bytes());
            }
            head.extend_from_slice(&tensor.dtype.gguf_id().to_le_bytes());
            head.extend_from_slice(&offset.to_le_bytes());
            offset += bytes.next_multiple_of(alignment) as u64;
            places.push((tensor.name.clone(), bytes));
        }
        head.resize(head.len().next_multiple_of(alignment), 0);
        let mut file = AtomicFile::create(path)?;
        file.write_all(&head).map_err(|e| FileError::io(path, "write", e))?;
        let mut stream = GgufStream { path: path.to_owned(), file, alignment, tensors: places, at: (0, 0) };
        stream.close_full()?;
        Ok(stream)
    }

    /// The next bytes, in the order of the head; they may end inside a tensor, but not reach into the next.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some((name, need)) = self.tensors.get(self.at.0) else {
            let problem = format!("{} bytes more than its tensors take", bytes.len());
            return Err(FileError::malformed(&self.path, "tensor data", problem));
        };
        if self.at.1 + bytes.len() > *need {
            let problem = format!("it takes {need} bytes, {} were given", self.at.1 + bytes.len());
            return Err(FileError::malformed(&self.path, format!("tensor {name}"), problem));
        }
        self.file.write_all(bytes).map_err(|e| FileError::io(&self.path, "write", e))?;
        self.at.1 += bytes.len();
        self.close_full()
    }

    /// Gives the file its name. Errors when bytes are missing.
    pub fn finish(self) -> Result<(), FileError> {
        if let Some((name, need)) = self.tensors.get(self.at.0) {
            let problem = format!("it takes {need} bytes, {} were given", self.at.1);
            return Err(FileError::malformed(&self.path, format!("tensor {name}"), problem));
        }
        self.file.commit()
    }

    /// Pads tensors that are complete and goes on to the next.
    fn close_full(&mut self) -> Result<(), FileError> {
        while let Some((_, need)) = self.tensors.get(self.at.0).filter(|(_, need)| *need == self.at.1) {
            let pad = need.next_multiple_of(self.alignment) - need;
            self.file.write_all(&vec![0; pad]).map_err(|e| FileError::io(&self.path, "write", e))?;
            self.at = (self.at.0 + 1, 0);
        }
        Ok(())
    }
}

/// The alignment, once everything was found to be writable.
fn check(path: &Path, metadata: &[(String, Value)], tensors: &[TensorHead]) -> Result<usize, FileError> {
    let mut names = std::collections::HashSet::new();
    for (key, _) in metadata {
        if !names.insert(key) {
            return Err(FileError::malformed(path, key, "this metadata key was given twice"));
        }
    }
    names.clear();
    for TensorHead { name, .. } in tensors {
        if !names.insert(name) {
            return Err(FileError::malformed(path, format!("tensor {name}"), "this name was given twice"));
        }
    }
    match metadata.iter().find(|(k, _)| k == "general.alignment") {
        None => Ok(32),
        Some((_, Value::U32(n))) if n.is_power_of_two() => Ok(*n as usize),
        Some((k, v)) => Err(FileError::malformed(path, k, format!("{v:?} is not a u32 that is a power of two"))),
    }
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(&(s.len() as u64).to_le_bytes());
    out.extend_from_slice(s.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_str(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend_from_slice(&array.type_id().to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    macro_rules! each {
        ($items:expr) => {
            $items.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()))
        };
    }
    match array {
        Array::U8(a) => out.extend_from_slice(a),
        Array::I8(a) => each!(a),
        Array::U16(a) => each!(a),
        Array::I16(a) => each!(a),
        Array::U32(a) => each!(a),
        Array::I32(a) => each!(a),
        Array::F32(a) => each!(a),
        Array::Bool(a) => out.extend(a.iter().map(|&b| u8::from(b))),
        Array::String(a) => a.iter().for_each(|s| put_str(out, s)),
        Array::Array(a) => a.iter().for_each(|inner| put_array(out, inner)),
        Array::U64(a) => each!(a),
        Array::I64(a) => each!(a),
        Array::F64(a) => each!(a),
    }
}
