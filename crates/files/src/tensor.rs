//! What a file says about one tensor: name, element type, shape and place.

use std::path::Path;

use meden_kernels::dtype::DType;

use crate::error::FileError;
use crate::storage::Storage;

/// One tensor that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name (GGUF's in [`crate::gguf::Gguf`], Hugging Face's in [`crate::ModelFiles`]).
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Row-major, outermost first: a weight is `[outputs, inputs]`. Empty for a scalar.
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub bytes: usize,
    pub(crate) offset: u64,
    pub(crate) file: usize,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where the tensor's bytes begin in its file.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// One tensor whose element type cannot be read: listed for inspection, refused when it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedTensor {
    /// Name, as in [`TensorInfo::name`].
    pub name: String,
    /// Element type as the format names it, or `type 77` for an unknown number.
    pub type_name: String,
    /// Row-major, outermost first.
    pub shape: Vec<usize>,
    /// Offset, bytes and file, where the format says them.
    pub(crate) span: Option<(u64, u64, usize)>,
}

/// Bytes of a tensor, or why that number does not exist.
pub(crate) fn byte_len(dtype: DType, shape: &[usize]) -> Result<usize, String> {
    let cols = shape.last().copied().unwrap_or(1);
    let rows = shape[..shape.len().saturating_sub(1)]
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .ok_or_else(|| format!("the product of its dimensions {shape:?} overflows"))?;
    let row = dtype.row_bytes(cols).ok_or_else(|| {
        format!("rows of {cols} elements do not divide into {} blocks of {}", dtype.name(), dtype.block_len())
    })?;
    rows.checked_mul(row).ok_or_else(|| format!("the size of {shape:?} in {} overflows", dtype.name()))
}

/// Whole rows of a tensor of two (or more, flattened) dimensions.
pub(crate) fn read_rows(storage: &Storage, t: &TensorInfo, rows: std::ops::Range<usize>) -> Result<Vec<u8>, FileError> {
    let bad = |problem: String| FileError::BadRead { path: storage.path().to_owned(), tensor: t.name.clone(), problem };
    let cols = t.shape.last().copied().unwrap_or(1);
    let count = if t.shape.len() < 2 { 1 } else { t.shape[..t.shape.len() - 1].iter().product() };
    if rows.start > rows.end || rows.end > count {
        return Err(bad(format!("rows {}..{} were asked of {count}", rows.start, rows.end)));
    }
    let row = t.dtype.row_bytes(cols).ok_or_else(|| bad(format!("rows of {cols} elements are no whole blocks")))?;
    storage.read_vec(t.offset + (rows.start * row) as u64, (rows.len() * row) as u64, &t.name)
}

/// A tensor by name, or the error that says why it cannot be had.
pub(crate) fn find<'a>(
    path: &Path,
    tensors: &'a [TensorInfo],
    unsupported: &[UnsupportedTensor],
    name: &str,
) -> Result<&'a TensorInfo, FileError> {
    if let Some(t) = tensors.iter().find(|t| t.name == name) {
        return Ok(t);
    }
    Err(absent(path, tensors, unsupported, name))
}

/// Why the tensor is not among those that can be read.
pub(crate) fn absent(path: &Path, tensors: &[TensorInfo], unsupported: &[UnsupportedTensor], name: &str) -> FileError {
    if let Some(u) = unsupported.iter().find(|u| u.name == name) {
        return FileError::UnsupportedType {
            path: path.to_owned(),
            tensor: name.to_owned(),
            type_name: u.type_name.clone(),
        };
    }
    // "Alike" is the longest common beginning: a layer too many, or `.bias` for `.weight`.
    let common = |t: &TensorInfo| t.name.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    let near = tensors.iter().max_by_key(|t| common(t)).filter(|t| common(t) >= 4);
    FileError::MissingTensor {
        path: path.to_owned(),
        tensor: name.to_owned(),
        count: tensors.len() + unsupported.len(),
        near: near.map(|t| t.name.clone()),
    }
}
