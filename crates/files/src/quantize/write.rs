//! The file, row by row: a few megabytes of one tensor are in memory at a time.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use meden_kernels::{DType, KernelError, Pool, weights};

use super::plan::{Change, Item};
use super::{Clamped, Plan, QuantizeError};
use crate::gguf::GgufStream;

/// Values that are read, converted and written at once.
const PIECE: usize = 1 << 22;

/// What may watch and stop the work.
#[derive(Default)]
pub struct Watch<'a> {
    /// Told bytes read, of all.
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
    /// Looked at between pieces.
    pub cancel: Option<&'a AtomicBool>,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Done {
    /// Bytes of the files that were read.
    pub source_file_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Values that their formats could not hold.
    pub clamped: Clamped,
}

/// Writes a planned file. It appears under its name when it is whole. One that is there already is an error, but with
/// `replace`; a file of the model itself is one always.
pub fn write(
    plan: &Plan<'_>,
    out: &Path,
    replace: bool,
    pool: &Pool,
    mut watch: Watch<'_>,
) -> Result<Done, QuantizeError> {
    let source_file_bytes = check_target(plan, out, replace)?;
    let total = plan.source_bytes();
    let mut done = 0;
    let mut step = |bytes: u64| {
        if watch.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Err(QuantizeError::Cancelled { done, total });
        }
        done += bytes;
        if let Some(progress) = &mut watch.progress {
            progress(done, total);
        }
        Ok(())
    };
    let mut stream = GgufStream::create(out, &plan.metadata, &plan.heads)?;
    let mut clamped = Clamped::default();
    for (item, head) in plan.items.iter().zip(&plan.heads) {
        let beyond = tensor(plan, item, head.dtype, pool, &mut stream, &mut step)?;
        clamped.count(&item.source.name, head.dtype, beyond);
    }
    for values in &plan.vectors {
        stream.put(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    step(0)?;
    stream.finish()?;
    let file_bytes = std::fs::metadata(out).map_or(0, |m| m.len());
    Ok(Done { source_file_bytes, file_bytes, clamped })
}

/// Refuses an output that must not be written; the bytes of the files that are read.
fn check_target(plan: &Plan<'_>, out: &Path, replace: bool) -> Result<u64, QuantizeError> {
    let target = std::fs::canonicalize(out).ok();
    let mut seen: Vec<&Path> = Vec::new();
    for item in &plan.items {
        let path = plan.files.location(&item.source).0;
        if !seen.contains(&path) {
            seen.push(path);
        }
    }
    if target.is_some() && seen.iter().any(|path| std::fs::canonicalize(path).ok() == target) {
        return Err(QuantizeError::SameFile { path: out.to_owned() });
    }
    if out.exists() && !replace {
        return Err(QuantizeError::Exists { path: out.to_owned() });
    }
    Ok(seen.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|m| m.len()).sum())
}

/// Writes one tensor; how many of its values the format could not hold.
fn tensor(
    plan: &Plan<'_>,
    item: &Item,
    to: DType,
    pool: &Pool,
    stream: &mut GgufStream,
    step: &mut dyn FnMut(u64) -> Result<(), QuantizeError>,
) -> Result<usize, QuantizeError> {
    let info = &item.source;
    let vector = info.shape.len() < 2;
    let cols = if vector { info.elements() } else { info.shape[info.shape.len() - 1] };
    if cols == 0 || info.bytes == 0 {
        return Ok(0);
    }
    let rows = info.elements() / cols;
    // a head's rows change places among themselves, so a piece holds whole heads
    let unit = match item.change {
        Change::Interleave(head) if !vector => head,
        _ => 1,
    };
    let piece = (PIECE / (cols * unit)).max(1) * unit;
    let mut beyond = 0;
    for start in (0..rows).step_by(piece) {
        let count = piece.min(rows - start);
        let mut bytes = plan.files.read_rows(info, start..start + count)?;
        step(bytes.len() as u64)?;
        let fail = |source: KernelError| {
            let source = match source {
                KernelError::NotFinite { index, value } => {
                    KernelError::NotFinite { index: start * cols + unmoved(item.change, vector, cols, index), value }
                }
                other => other,
            };
            QuantizeError::Tensor { tensor: info.name.clone(), source }
        };
        let mut from = info.dtype;
        match item.change {
            Change::None => {}
            Change::PlusOne => {
                bytes = plus_one(from, cols * count, &bytes).map_err(fail)?;
                from = DType::F32;
            }
            Change::Interleave(head) => bytes = interleave(&bytes, if vector { cols } else { count }, head),
        }
        let mut out = vec![0; to.row_bytes(cols).unwrap_or(0) * count];
        beyond += weights::convert(pool, (from, to), cols, &bytes, &mut out).map_err(fail)?;
        stream.put(&out)?;
    }
    Ok(beyond)
}

/// Where a value of a piece stood before the rows of its head changed places.
fn unmoved(change: Change, vector: bool, cols: usize, index: usize) -> usize {
    match change {
        Change::Interleave(head) if vector => interleaved_from(index, head),
        Change::Interleave(head) => interleaved_from(index / cols, head) * cols + index % cols,
        Change::None | Change::PlusOne => index,
    }
}

fn plus_one(dtype: DType, count: usize, bytes: &[u8]) -> Result<Vec<u8>, KernelError> {
    let mut values = vec![0.0; count];
    weights::dequantize(dtype, bytes, &mut values)?;
    Ok(values.iter().flat_map(|v| (v + 1.0).to_le_bytes()).collect())
}

/// Rows `i` and `i + head / 2` of each head side by side.
fn interleave(bytes: &[u8], rows: usize, head: usize) -> Vec<u8> {
    let row_bytes = bytes.len() / rows;
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let source = interleaved_from(row, head);
        out.extend_from_slice(&bytes[source * row_bytes..(source + 1) * row_bytes]);
    }
    out
}

/// The row that [`interleave`] puts at `row`.
fn interleaved_from(row: usize, head: usize) -> usize {
    let (first, at) = (row / head * head, row % head);
    first + at / 2 + (at % 2) * (head / 2)
}
