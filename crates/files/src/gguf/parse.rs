//! The head of a GGUF file, read with suspicion.

use meden_kernels::dtype::DType;

use super::cursor::{Cursor, HEAD_MAX};
use super::{Array, Gguf, Metadata, Value, types};
use crate::error::FileError;
use crate::storage::Storage;
use crate::tensor::{TensorInfo, UnsupportedTensor, byte_len};

/// The format's own limit for keys, 2^16 - 1 bytes.
const KEY_MAX: u64 = 65_535;
/// Tensor names are at most 64 bytes in the reference implementation; we are a little more patient.
const NAME_MAX: u64 = 1024;
/// Keys and tensors: a hundred times what the largest models have.
const KEYS_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 18;
/// Dimensions a tensor: the format has at most 4.
const DIMS_MAX: u32 = 4;
/// Arrays in arrays: no known file has more than 2.
const DEPTH_MAX: usize = 8;
/// Least bytes of a key-value pair (empty key, u8 value) and of a tensor record (no dimensions).
const LEAST_PAIR: u64 = 8 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 4 + 4 + 8;
/// Alignment of a file that does not name one.
const ALIGNMENT: u64 = 32;

pub(super) fn open(storage: Storage) -> Result<Gguf, FileError> {
    let mut c = Cursor::new(&storage);
    let version = preamble(&storage, &mut c)?;
    let tensors = c.u64("tensor_count")?;
    let pairs = c.u64("metadata_kv_count")?;
    let pairs = c.claim(pairs, LEAST_PAIR, KEYS_MAX, "metadata_kv_count")?;
    c.claim(tensors, LEAST_TENSOR, TENSORS_MAX, "tensor_count")?;

    let mut metadata = Metadata::default();
    for i in 0..pairs {
        let key = c.string(KEY_MAX, &format!("metadata key {i}"))?;
        let id = c.u32(&key)?;
        let value = value(&storage, &mut c, id, &key)?;
        if let Some(key) = metadata.insert(key, value) {
            return Err(FileError::malformed(storage.path(), key, "this metadata key stands in the file twice"));
        }
    }
    let alignment = alignment(&storage, &metadata)?;

    // Counted again: the metadata has eaten into the bytes that were left.
    let count = c.claim(tensors, LEAST_TENSOR, TENSORS_MAX, "tensor_count")?;
    let mut records = Vec::with_capacity(count);
    for i in 0..count {
        records.push(record(&storage, &mut c, i)?);
    }
    let head = c.pos();
    let data_start = head.next_multiple_of(alignment);
    let (tensors, unsupported) = place(&storage, records, data_start, alignment)?;
    Ok(Gguf { version, alignment, data_start: data_start.min(storage.len()), metadata, tensors, unsupported, storage })
}

/// Magic and version.
fn preamble(storage: &Storage, c: &mut Cursor) -> Result<u32, FileError> {
    let path = || storage.path().to_owned();
    let magic = c.take::<4>("magic")?;
    if &magic != b"GGUF" {
        return Err(FileError::NotGguf { path: path(), magic });
    }
    match c.u32("version")? {
        version @ 2..=3 => Ok(version),
        version if version & 0xffff == 0 && version != 0 => Err(FileError::BigEndian { path: path(), version }),
        version => Err(FileError::Version { path: path(), version }),
    }
}

fn value(storage: &Storage, c: &mut Cursor, id: u32, key: &str) -> Result<Value, FileError> {
    Ok(match id {
        0 => Value::U8(c.take::<1>(key)?[0]),
        1 => Value::I8(i8::from_le_bytes(c.take(key)?)),
        2 => Value::U16(u16::from_le_bytes(c.take(key)?)),
        3 => Value::I16(i16::from_le_bytes(c.take(key)?)),
        4 => Value::U32(c.u32(key)?),
        5 => Value::I32(i32::from_le_bytes(c.take(key)?)),
        6 => Value::F32(f32::from_le_bytes(c.take(key)?)),
        7 => Value::Bool(truth(storage, c.take::<1>(key)?[0], key)?),
        8 => Value::String(c.string(HEAD_MAX, key)?),
        9 => Value::Array(array(storage, c, key, 1)?),
        10 => Value::U64(c.u64(key)?),
        11 => Value::I64(i64::from_le_bytes(c.take(key)?)),
        12 => Value::F64(f64::from_le_bytes(c.take(key)?)),
        _ => return Err(bad_type(storage, id, key)),
    })
}

fn truth(storage: &Storage, byte: u8, key: &str) -> Result<bool, FileError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(FileError::malformed(storage.path(), key, format!("a bool is 0 or 1, not {byte}"))),
    }
}

fn bad_type(storage: &Storage, id: u32, key: &str) -> FileError {
    FileError::malformed(storage.path(), key, format!("value type {id} is not one of 0 to 12"))
}

fn array(storage: &Storage, c: &mut Cursor, key: &str, depth: usize) -> Result<Array, FileError> {
    if depth > DEPTH_MAX {
        let problem = format!("arrays are nested more than {DEPTH_MAX} deep");
        return Err(FileError::malformed(storage.path(), key, problem));
    }
    let id = c.u32(key)?;
    let count = c.u64(key)?;
    let field = || format!("the length of array {key}");
    // Fixed-size elements come in one read, sized by bytes that were found to be in the file.
    macro_rules! fixed {
        ($variant:ident, $t:ty) => {{
            const SIZE: usize = size_of::<$t>();
            let n = c.claim(count, SIZE as u64, HEAD_MAX, &field())?;
            let (chunks, _) = c.bytes((n * SIZE) as u64, key)?.as_chunks::<SIZE>();
            Array::$variant(chunks.iter().map(|b| <$t>::from_le_bytes(*b)).collect())
        }};
    }
    Ok(match id {
        0 => fixed!(U8, u8),
        1 => fixed!(I8, i8),
        2 => fixed!(U16, u16),
        3 => fixed!(I16, i16),
        4 => fixed!(U32, u32),
        5 => fixed!(I32, i32),
        6 => fixed!(F32, f32),
        7 => {
            let n = c.claim(count, 1, HEAD_MAX, &field())?;
            let bytes = c.bytes(n as u64, key)?;
            Array::Bool(bytes.iter().map(|&b| truth(storage, b, key)).collect::<Result<_, _>>()?)
        }
        8 => {
            let n = c.claim_items(count, 8, &field())?;
            let mut out = Vec::with_capacity(n);
            for _ in 0..n {
                out.push(c.string(HEAD_MAX, key)?);
            }
            Array::String(out)
        }
        9 => {
            let n = c.claim_items(count, 4 + 8, &field())?;
            let mut out = Vec::with_capacity(n);
            for _ in 0..n {
                out.push(array(storage, c, key, depth + 1)?);
            }
            Array::Array(out)
        }
        10 => fixed!(U64, u64),
        11 => fixed!(I64, i64),
        12 => fixed!(F64, f64),
        _ => return Err(bad_type(storage, id, key)),
    })
}

fn alignment(storage: &Storage, metadata: &Metadata) -> Result<u64, FileError> {
    const KEY: &str = "general.alignment";
    match metadata.get(KEY) {
        None => Ok(ALIGNMENT),
        Some(Value::U32(n)) if n.is_power_of_two() => Ok(u64::from(*n)),
        Some(Value::U32(n)) => Err(FileError::malformed(storage.path(), KEY, format!("{n} is not a power of two"))),
        Some(other) => Err(FileError::KeyType {
            path: storage.path().to_owned(),
            key: KEY.to_owned(),
            expected: "u32",
            found: other.type_name().to_owned(),
        }),
    }
}

/// A tensor's record as it stands in the head.
struct Record {
    name: String,
    shape: Vec<usize>,
    type_id: u32,
    offset: u64,
}

fn record(storage: &Storage, c: &mut Cursor, i: usize) -> Result<Record, FileError> {
    let name = c.string(NAME_MAX, &format!("the name of tensor {i}"))?;
    let bad = |problem: String| FileError::malformed(storage.path(), format!("tensor {name}"), problem);
    let dims = c.u32(&name)?;
    if dims > DIMS_MAX {
        return Err(bad(format!("it has {dims} dimensions; the format allows {DIMS_MAX}")));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        let d = c.u64(&name)?;
        match usize::try_from(d) {
            Ok(d) if d > 0 && d <= isize::MAX as usize => shape.push(d),
            _ => return Err(bad(format!("a dimension is {d}"))),
        }
    }
    // The file stores the innermost dimension first.
    shape.reverse();
    let type_id = c.u32(&name)?;
    let offset = c.u64(&name)?;
    Ok(Record { name, shape, type_id, offset })
}

/// Checks where the tensors lie: aligned, inside the file, not over one another, no name twice.
fn place(
    storage: &Storage,
    records: Vec<Record>,
    data_start: u64,
    alignment: u64,
) -> Result<(Vec<TensorInfo>, Vec<UnsupportedTensor>), FileError> {
    let mut names = std::collections::HashSet::with_capacity(records.len());
    let mut tensors = Vec::with_capacity(records.len());
    let mut unsupported = Vec::new();
    for r in records {
        let bad = |problem: String| FileError::malformed(storage.path(), format!("tensor {}", r.name), problem);
        if !names.insert(r.name.clone()) {
            return Err(bad("this name stands in the file twice".into()));
        }
        if r.offset % alignment != 0 {
            return Err(bad(format!("its offset {} is no multiple of the alignment {alignment}", r.offset)));
        }
        let offset =
            data_start.checked_add(r.offset).ok_or_else(|| bad(format!("its offset {} overflows", r.offset)))?;
        let Some(dtype) = DType::from_gguf_id(r.type_id) else {
            storage.check(offset, 0, &format!("tensor {}", r.name))?;
            let type_name = types::type_name(r.type_id);
            unsupported.push(UnsupportedTensor { name: r.name, type_name, shape: r.shape, span: None });
            continue;
        };
        let bytes = byte_len(dtype, &r.shape).map_err(bad)?;
        storage.check(offset, bytes as u64, &format!("tensor {}", r.name))?;
        tensors.push(TensorInfo { name: r.name, dtype, shape: r.shape, bytes, offset, file: 0 });
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        let end = pair[0].offset + pair[0].bytes as u64;
        if end > pair[1].offset {
            let problem = format!(
                "it begins at byte {} of the file, inside tensor {}, which ends at {end}",
                pair[1].offset, pair[0].name
            );
            return Err(FileError::malformed(storage.path(), format!("tensor {}", pair[1].name), problem));
        }
    }
    Ok((tensors, unsupported))
}
