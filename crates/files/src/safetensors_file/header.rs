//! The head of one safetensors file: eight bytes of length, then JSON.
//!
//! The `safetensors` crate reads from the bytes of a whole file; ours reads the head alone, because
//! tensors are fetched one at a time, and keeps tensors of types that we do not compute with as listed
//! ones. The rules are the crate's own: tensors tile the data without holes or overlap.
//! Format: <https://github.com/huggingface/safetensors#format>

use std::fmt;

use meden_kernels::dtype::DType;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::FileError;
use crate::json::Pairs;
use crate::storage::Storage;
use crate::tensor::{TensorInfo, UnsupportedTensor, byte_len};

/// The format's own limit of the head.
const HEAD_MAX: u64 = 100_000_000;
/// Ten times the tensors of the largest models, and texts that nobody has needed so many of.
const TENSORS_MAX: usize = 1 << 18;
const METADATA_MAX: usize = 1 << 16;
/// More dimensions than any model's tensor has.
const DIMS_MAX: usize = 8;

/// What one file's head says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: Vec<(String, String)>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) unsupported: Vec<UnsupportedTensor>,
    pub(super) data_start: u64,
}

/// Reads and checks the head; `file` is the number that the tensors carry.
pub(super) fn read(storage: &Storage, file: usize) -> Result<Header, FileError> {
    let path = storage.path();
    let mut length = [0; 8];
    storage.read_at(0, &mut length, "the header length")?;
    let length = u64::from_le_bytes(length);
    if length > HEAD_MAX {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            field: "the header length".into(),
            value: length,
            limit: HEAD_MAX,
        });
    }
    let json = storage.read_vec(8, length, "the header")?;
    if json.first() != Some(&b'{') {
        return Err(FileError::malformed(path, "the header", "it is not a JSON object; is this a safetensors file?"));
    }
    if let Err(e) = std::str::from_utf8(&json) {
        return Err(FileError::malformed(path, "the header", format!("not UTF-8 at byte {}", 8 + e.valid_up_to())));
    }
    let raw: RawHeader =
        serde_json::from_slice(&json).map_err(|source| FileError::Json { path: path.to_owned(), source })?;
    drop(json);
    let data_start = 8 + length;
    place(storage, raw, data_start, file)
}

/// Checks that the tensors tile the data, and sorts them into readable and listed.
fn place(storage: &Storage, mut raw: RawHeader, data_start: u64, file: usize) -> Result<Header, FileError> {
    let path = storage.path();
    raw.entries.sort_by_key(|(_, e)| (e.data_offsets.0, e.data_offsets.1));
    let mut header = Header { metadata: raw.metadata.0, tensors: Vec::new(), unsupported: Vec::new(), data_start };
    let mut next = 0;
    for (name, entry) in raw.entries {
        let bad = |problem: String| FileError::malformed(path, format!("tensor {name}"), problem);
        let (start, end) = entry.data_offsets;
        if start != next || end < start {
            return Err(bad(format!(
                "its data_offsets are [{start}, {end}], but the tensor before it ends at {next}: tensors follow one another without hole or overlap"
            )));
        }
        next = end;
        let room = storage.len() - data_start;
        if end > room {
            return Err(FileError::Truncated {
                path: path.to_owned(),
                field: format!("tensor {name}"),
                offset: data_start.saturating_add(start),
                need: end - start,
                len: storage.len(),
            });
        }
        let (size, shape) = (end - start, entry.shape.0);
        let Some(dtype) = dtype(&entry.dtype) else {
            check_other(&entry.dtype, &shape, size).map_err(bad)?;
            let span = Some((data_start + start, size, file));
            header.unsupported.push(UnsupportedTensor { name, type_name: entry.dtype, shape, span });
            continue;
        };
        let bytes = byte_len(dtype, &shape).map_err(bad)?;
        if bytes as u64 != size {
            return Err(bad(format!(
                "{} of shape {shape:?} takes {bytes} bytes, but its data_offsets [{start}, {end}] hold {size}",
                entry.dtype
            )));
        }
        header.tensors.push(TensorInfo { name, dtype, shape, bytes, offset: data_start + start, file });
    }
    if data_start + next != storage.len() {
        let problem = format!("the tensors end at byte {}, but the file has {}", data_start + next, storage.len());
        return Err(FileError::malformed(path, "the data", problem));
    }
    Ok(header)
}

fn dtype(name: &str) -> Option<DType> {
    match name {
        "F32" => Some(DType::F32),
        "F16" => Some(DType::F16),
        "BF16" => Some(DType::BF16),
        _ => None,
    }
}

/// Size check of the types that we list and do not read; unknown ones pass.
fn check_other(dtype: &str, shape: &[usize], size: u64) -> Result<(), String> {
    let element: u64 = match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => 1,
        "U16" | "I16" => 2,
        "U32" | "I32" => 4,
        "U64" | "I64" | "F64" | "C64" => 8,
        _ => return Ok(()),
    };
    let need = shape.iter().try_fold(element, |n, &d| n.checked_mul(d as u64));
    match need {
        None => Err(format!("the size of {shape:?} in {dtype} overflows")),
        Some(need) if need != size => Err(format!("{dtype} of shape {shape:?} takes {need} bytes, not {size}")),
        Some(_) => Ok(()),
    }
}

/// The head as JSON, in the order of the file; a name that comes twice is an error, not the last one's.
#[derive(Default)]
struct RawHeader {
    metadata: Pairs<String, METADATA_MAX>,
    entries: Vec<(String, Entry)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "an object of at most {TENSORS_MAX} tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut names = std::collections::HashSet::new();
                let mut raw = RawHeader::default();
                while let Some(name) = map.next_key::<String>()? {
                    if raw.entries.len() == TENSORS_MAX {
                        return Err(de::Error::invalid_length(TENSORS_MAX + 1, &self));
                    }
                    // The one member that is no tensor, which is why this is no plain list of pairs.
                    if name == "__metadata__" {
                        raw.metadata = map.next_value()?;
                    } else {
                        raw.entries.push((name.clone(), map.next_value()?));
                    }
                    if let Some(name) = names.replace(name) {
                        return Err(de::Error::custom(format!("the name {name:?} stands in the header twice")));
                    }
                }
                Ok(raw)
            }
        }
        d.deserialize_map(V)
    }
}

/// At most [`DIMS_MAX`] dimensions: a list of fifty million of them never becomes memory.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a list of at most {DIMS_MAX} dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut dims = Vec::new();
                while let Some(d) = seq.next_element::<u64>()? {
                    if dims.len() == DIMS_MAX {
                        return Err(de::Error::invalid_length(DIMS_MAX + 1, &self));
                    }
                    let d = usize::try_from(d).ok().filter(|&d| d <= isize::MAX as usize);
                    dims.push(d.ok_or_else(|| de::Error::custom("a dimension does not fit this machine"))?);
                }
                Ok(Shape(dims))
            }
        }
        d.deserialize_seq(V)
    }
}
