//! A small GGUF writer: metadata and tensors to a file.
//!
//! For tests that need a tiny model and for tools that convert one. The file appears under its name
//! only when it is whole: it is written under a temporary name in the same folder and renamed.

use std::io::Write;
use std::path::Path;

use meden_kernels::dtype::DType;

use super::{Array, Value};
use crate::atomic::AtomicFile;
use crate::error::FileError;
use crate::tensor::byte_len;

/// Collects metadata and tensors, then writes them as GGUF version 3.
#[derive(Debug, Default)]
pub struct GgufWriter {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, DType, Vec<usize>, Vec<u8>)>,
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
        self.tensors.push((name.to_owned(), dtype, shape.to_vec(), bytes));
        self
    }

    /// Writes the file. Errors when a tensor's bytes do not fit its type and shape, a name is there
    /// twice, or the alignment is no power of two.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        let alignment = self.check(path)?;
        let mut head = Vec::new();
        head.extend_from_slice(b"GGUF");
        head.extend_from_slice(&3u32.to_le_bytes());
        head.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        head.extend_from_slice(&(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_str(&mut head, key);
            head.extend_from_slice(&value.type_id().to_le_bytes());
            put_value(&mut head, value);
        }
        let mut offset = 0;
        for (name, dtype, shape, bytes) in &self.tensors {
            put_str(&mut head, name);
            head.extend_from_slice(&(shape.len() as u32).to_le_bytes());
            for &d in shape.iter().rev() {
                head.extend_from_slice(&(d as u64).to_le_bytes());
            }
            head.extend_from_slice(&dtype.gguf_id().to_le_bytes());
            head.extend_from_slice(&(offset as u64).to_le_bytes());
            offset += bytes.len().next_multiple_of(alignment);
        }
        head.resize(head.len().next_multiple_of(alignment), 0);

        let mut file = AtomicFile::create(path)?;
        let fail = |e| FileError::io(path, "write", e);
        file.write_all(&head).map_err(fail)?;
        for (_, _, _, bytes) in &self.tensors {
            file.write_all(bytes).map_err(fail)?;
            let pad = bytes.len().next_multiple_of(alignment) - bytes.len();
            file.write_all(&vec![0; pad]).map_err(fail)?;
        }
        file.commit()
    }

    /// The alignment, once everything was found to be writable.
    fn check(&self, path: &Path) -> Result<usize, FileError> {
        let mut names = std::collections::HashSet::new();
        for (key, _) in &self.metadata {
            if !names.insert(key) {
                return Err(FileError::malformed(path, key, "this metadata key was given twice"));
            }
        }
        names.clear();
        for (name, dtype, shape, bytes) in &self.tensors {
            let bad = |problem| FileError::malformed(path, format!("tensor {name}"), problem);
            if !names.insert(name) {
                return Err(bad("this name was given twice".into()));
            }
            let need = byte_len(*dtype, shape).map_err(bad)?;
            if need != bytes.len() {
                return Err(bad(format!(
                    "{shape:?} in {} takes {need} bytes, {} were given",
                    dtype.name(),
                    bytes.len()
                )));
            }
        }
        match self.metadata.iter().find(|(k, _)| k == "general.alignment") {
            None => Ok(32),
            Some((_, Value::U32(n))) if n.is_power_of_two() => Ok(*n as usize),
            Some((k, v)) => Err(FileError::malformed(path, k, format!("{v:?} is not a u32 that is a power of two"))),
        }
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
