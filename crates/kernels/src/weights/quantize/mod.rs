//! From floats to weight formats, one format a file.
//!
//! Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 follow the definition that the `gguf` Python package gives, to the bit
//! (`tests/quantize.rs`). For the formats with packed scales and for the two IQ4 ones only the layout is
//! defined; what goes in is found by a search for the least weighted squared error (`search`). Every block
//! comes out finite: a scale beyond the range of f16 is held at its end, and the integers follow the scale
//! as it was stored.

use std::sync::{Mutex, PoisonError};

use super::{Format, dequantize, float, with_format};
use crate::{DType, KernelError, Pool};
use half::f16;

mod affine;
mod iq4_nl;
mod iq4_xs;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
mod symmetric;

/// Values that one task converts: large enough to hide the pool, small enough to stay in the caches.
const TASK_VALUES: usize = 1 << 15;

/// The way into a format.
pub(crate) trait Quantize: Format {
    /// One block of finite values into its bytes. `block` may hold anything before.
    fn quantize(values: &[f32], block: &mut [u8]);
}

/// Rounds `values` to `dtype` in the file's layout. Whole rows may follow one another: no block reaches from one
/// row into the next, as long as a row is a whole number of blocks.
///
/// # Errors
/// `values` is no whole number of blocks, `out` has another length than these blocks take, or a value is NaN or
/// infinite ([`KernelError::NotFinite`] with its index).
pub fn quantize(dtype: DType, values: &[f32], out: &mut [u8]) -> Result<(), KernelError> {
    let cols = values.len();
    let Some(expected) = dtype.row_bytes(cols) else {
        return Err(KernelError::Columns { dtype, block: dtype.block_len(), cols });
    };
    if out.len() != expected {
        let got = out.len();
        return Err(KernelError::Length { what: "the room for quantised data", unit: "bytes", expected, got });
    }
    if let Some(index) = values.iter().position(|v| !v.is_finite()) {
        return Err(KernelError::NotFinite { index, value: values[index].to_string() });
    }
    with_format!(dtype, F => blocks::<F>(values, out), float => float::narrow(dtype, values, out));
    Ok(())
}

fn blocks<F: Quantize>(values: &[f32], out: &mut [u8]) {
    let values = values.chunks_exact(F::DTYPE.block_len());
    for (values, block) in values.zip(out.chunks_exact_mut(F::DTYPE.block_bytes())) {
        F::quantize(values, block);
    }
}

/// Rows of `cols` values from one format into another, on all threads. Beside the two buffers it needs a few
/// hundred kB a thread. Bytes that are in the wanted format already are copied as they are.
///
/// # Errors
/// `cols` is no whole number of blocks of either format, a buffer has not the length of its rows, or a value is not
/// finite; its index counts from the first value of `bytes`.
pub fn convert(
    pool: &Pool,
    (from, to): (DType, DType),
    cols: usize,
    bytes: &[u8],
    out: &mut [u8],
) -> Result<(), KernelError> {
    let row = |dtype: DType| match dtype.row_bytes(cols) {
        Some(row) if row > 0 => Ok(row),
        _ => Err(KernelError::Columns { dtype, block: dtype.block_len(), cols }),
    };
    let (source, target) = (row(from)?, row(to)?);
    let rows = bytes.len() / source;
    for (what, expected, got) in
        [("the data to convert", rows * source, bytes.len()), ("the room for converted data", rows * target, out.len())]
    {
        if expected != got {
            return Err(KernelError::Length { what, unit: "bytes", expected, got });
        }
    }
    if from == to {
        out.copy_from_slice(bytes);
        return Ok(());
    }
    let step = (TASK_VALUES / cols).max(1);
    let first: Mutex<Option<(usize, KernelError)>> = Mutex::new(None);
    pool.chunks(out, step * target, |task, out| {
        let start = task * step;
        let count = out.len() / target;
        let mut values = vec![0.0; count * cols];
        let done = dequantize(from, &bytes[start * source..(start + count) * source], &mut values)
            .and_then(|()| quantize(to, &values, out));
        if let Err(error) = done {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            // the first value of the tensor that is wrong, whichever task met one first
            if first.as_ref().is_none_or(|(at, _)| start < *at) {
                *first = Some((start, error));
            }
        }
    });
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(()),
        Some((start, KernelError::NotFinite { index, value })) => {
            Err(KernelError::NotFinite { index: start * cols + index, value })
        }
        Some((_, error)) => Err(error),
    }
}

/// The nearest f16 that is finite.
fn finite_half(value: f32) -> f16 {
    let most = f16::MAX.to_f32();
    f16::from_f32(value.clamp(-most, most))
}

/// Writes a scale at byte `at`.
fn put_half(block: &mut [u8], at: usize, value: f16) {
    block[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// One over a step; 0 for a step of 0, so that every integer becomes that of zero.
fn inverse(step: f32) -> f32 {
    if step == 0.0 { 0.0 } else { 1.0 / step }
}

/// Step and start of `levels` even levels that cover the values: what is divided by, and what is stored.
fn even_levels(values: &[f32], levels: f32) -> (f32, f32) {
    let min = values.iter().copied().fold(f32::INFINITY, f32::min);
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let most = f16::MAX.to_f32();
    let step = (max - min) / (levels - 1.0);
    // within f16 nothing changes; beyond it the integers follow what can be stored
    (step.min(most), min.clamp(-most, most))
}

/// Step of levels around zero where the value of largest magnitude becomes `-half`: the asymmetric range
/// `-half ..= half - 1` is then used in full.
fn centred_step(values: &[f32], half: f32) -> f32 {
    let extreme = values.iter().fold(0f32, |best, &v| if v.abs() > best.abs() { v } else { best });
    let most = f16::MAX.to_f32();
    (extreme / -half).clamp(-most, most)
}
