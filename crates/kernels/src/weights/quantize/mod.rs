//! From floats to weight formats, one format a file.
//!
//! Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 follow the definition that the `gguf` Python package gives, to the bit
//! (`tests/quantize.rs`). For the formats with packed scales and for the two IQ4 ones only the layout is
//! defined; what goes in is found by a search for the least weighted squared error (`search`). Every block
//! comes out finite: a scale beyond the range of f16 is held at its end, and the integers follow the scale
//! as it was stored.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Format, dequantize, float, with_format};
use crate::{DType, Isa, KernelError, Pool};
use half::f16;

mod affine;
mod iq4_nl;
mod iq4_xs;
#[cfg(test)]
mod plain;
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

/// The largest f16: what a scale or a minimum is stored as at most.
const HALF_MAX: f32 = 65504.0;

/// The way into a format.
pub(crate) trait Quantize: Format {
    /// The least and the largest value that a block of the format can hold beside zeros: its integers' ends times
    /// those of its scales. Beyond them a value is held at the end.
    const RANGE: (f32, f32);

    /// Blocks that a call takes at most.
    const TOGETHER: usize = 1;

    /// One block, or up to [`Self::TOGETHER`] of them, of finite values into their bytes. `block` may hold anything
    /// before. Inlined, so that it is compiled for the instruction set of the caller.
    fn quantize(values: &[f32], block: &mut [u8]);
}

/// Rounds `values` to `dtype` in the file's layout. Whole rows may follow one another: no block reaches from one
/// row into the next, as long as a row is a whole number of blocks.
///
/// Returns how many values lie beyond what the format can hold; they were held at its end.
///
/// # Errors
/// `values` is no whole number of blocks, `out` has another length than these blocks take, or a value is NaN or
/// infinite ([`KernelError::NotFinite`] with its index).
pub fn quantize(dtype: DType, values: &[f32], out: &mut [u8]) -> Result<usize, KernelError> {
    let cols = values.len();
    let Some(expected) = dtype.row_bytes(cols) else {
        return Err(KernelError::Columns { dtype, block: dtype.block_len(), cols });
    };
    if out.len() != expected {
        let got = out.len();
        return Err(KernelError::Length { what: "the room for quantised data", unit: "bytes", expected, got });
    }
    let (least, most) = with_format!(dtype, F => <F as Quantize>::RANGE, float => float::range(dtype));
    let beyond = values.iter().filter(|&&v| !(least <= v && v <= most)).count();
    if beyond > 0 {
        check_finite(values)?;
    }
    with_format!(dtype, F => blocks::<F>(values, out), float => float::narrow(dtype, values, out));
    Ok(beyond)
}

/// The first value that is NaN or infinite, as an error.
fn check_finite(values: &[f32]) -> Result<(), KernelError> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(KernelError::NotFinite { index, value: values[index].to_string() }),
        None => Ok(()),
    }
}

/// One source for every processor: no operation is fused or reordered by the wider registers, so the bytes are the same.
fn blocks<F: Quantize>(values: &[f32], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,f16c")]
        fn avx2<F: Quantize>(values: &[f32], out: &mut [u8]) {
            portable::<F>(values, out);
        }
        if Isa::Avx2.runs_avx2() {
            // SAFETY: `runs_avx2` has just said that the processor has AVX2 and F16C.
            return unsafe { avx2::<F>(values, out) };
        }
    }
    portable::<F>(values, out);
}

#[inline(always)]
fn portable<F: Quantize>(values: &[f32], out: &mut [u8]) {
    let (len, bytes) = (F::DTYPE.block_len() * F::TOGETHER, F::DTYPE.block_bytes() * F::TOGETHER);
    for (values, block) in values.chunks(len).zip(out.chunks_mut(bytes)) {
        F::quantize(values, block);
    }
}

/// Rows of `cols` values from one format into another, on all threads. Beside the two buffers it needs a few
/// hundred kB a thread. Bytes that are in the wanted format already are copied as they are, once they have been
/// looked at.
///
/// Returns how many values lie beyond what the format can hold; they were held at its end.
///
/// # Errors
/// `cols` is no whole number of blocks of either format, a buffer has not the length of its rows, or a value (the
/// product of a stored scale, where the bytes are quantised) is not finite; its index counts from the first value of
/// `bytes`.
pub fn convert(
    pool: &Pool,
    (from, to): (DType, DType),
    cols: usize,
    bytes: &[u8],
    out: &mut [u8],
) -> Result<usize, KernelError> {
    let (source, target) = (whole_row(from, cols)?, whole_row(to, cols)?);
    let rows = bytes.len() / source;
    check_length("the data to convert", rows * source, bytes.len())?;
    check_length("the room for converted data", rows * target, out.len())?;
    if from == to {
        check(pool, from, cols, bytes)?;
        out.copy_from_slice(bytes);
        return Ok(0);
    }
    let step = (TASK_VALUES / cols).max(1);
    let (first, beyond) = (FirstError::default(), AtomicUsize::new(0));
    pool.chunks(out, step * target, |task, out| {
        let start = task * step;
        let count = out.len() / target;
        let mut values = vec![0.0; count * cols];
        let done = dequantize(from, &bytes[start * source..(start + count) * source], &mut values)
            .and_then(|()| quantize(to, &values, out));
        match done {
            Ok(0) => {}
            Ok(count) => drop(beyond.fetch_add(count, Ordering::Relaxed)),
            Err(error) => first.put(start * cols, error),
        }
    });
    first.into_result().map(|()| beyond.into_inner())
}

/// Looks whether every value of rows of `cols` values is finite, on all threads.
///
/// # Errors
/// As [`convert`].
pub fn check(pool: &Pool, dtype: DType, cols: usize, bytes: &[u8]) -> Result<(), KernelError> {
    let row = whole_row(dtype, cols)?;
    let rows = bytes.len() / row;
    check_length("the data to check", rows * row, bytes.len())?;
    let step = (TASK_VALUES / cols).max(1);
    let first = FirstError::default();
    pool.run(rows.div_ceil(step), &|task| {
        let rows = task * step..rows.min((task + 1) * step);
        let mut values = vec![0.0; rows.len() * cols];
        let looked = dequantize(dtype, &bytes[rows.start * row..rows.end * row], &mut values);
        if let Err(error) = looked.and_then(|()| check_finite(&values)) {
            first.put(rows.start * cols, error);
        }
    });
    first.into_result()
}

fn whole_row(dtype: DType, cols: usize) -> Result<usize, KernelError> {
    match dtype.row_bytes(cols) {
        Some(row) if row > 0 => Ok(row),
        _ => Err(KernelError::Columns { dtype, block: dtype.block_len(), cols }),
    }
}

fn check_length(what: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if expected == got { Ok(()) } else { Err(KernelError::Length { what, unit: "bytes", expected, got }) }
}

/// What is wrong first in a tensor, whichever task met something first. The index counts from the tensor's start.
#[derive(Default)]
struct FirstError(Mutex<Option<(usize, KernelError)>>);

impl FirstError {
    /// `start` is the first value of the task.
    fn put(&self, start: usize, error: KernelError) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|(at, _)| start < *at) {
            *first = Some((start, error));
        }
    }

    fn into_result(self) -> Result<(), KernelError> {
        match self.0.into_inner().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some((start, KernelError::NotFinite { index, value })) => {
                Err(KernelError::NotFinite { index: start + index, value })
            }
            Some((_, error)) => Err(error),
        }
    }
}

/// The range of a format whose largest magnitude is stored with either sign.
const fn even(steps: f32) -> (f32, f32) {
    (-steps * HALF_MAX, steps * HALF_MAX)
}

/// The nearest f16 that is finite.
fn finite_half(value: f32) -> f16 {
    f16::from_f32(value.clamp(-HALF_MAX, HALF_MAX))
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
    let step = (max - min) / (levels - 1.0);
    // within f16 nothing changes; beyond it the integers follow what can be stored
    (step.min(HALF_MAX), min.clamp(-HALF_MAX, HALF_MAX))
}

/// Step of levels around zero where the value of largest magnitude becomes `-half`: the asymmetric range
/// `-half ..= half - 1` is then used in full.
fn centred_step(values: &[f32], half: f32) -> f32 {
    let extreme = values.iter().fold(0f32, |best, &v| if v.abs() > best.abs() { v } else { best });
    (extreme / -half).clamp(-HALF_MAX, HALF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every format's bytes with the instruction set of this processor are those of the portable build.
    #[test]
    fn wider_registers_change_no_byte() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 2f32.powi((state >> 30 & 31) as i32 - 16)
        };
        let values: Vec<f32> = (0..256 * 200).map(|_| next()).collect();
        for dtype in DType::ALL {
            let mut bytes = vec![0; dtype.row_bytes(values.len()).expect("whole blocks")];
            quantize(dtype, &values, &mut bytes).expect("finite");
            let mut twin = vec![0xff; bytes.len()];
            with_format!(dtype, F => portable::<F>(&values, &mut twin), float => float::narrow(dtype, &values, &mut twin));
            assert!(bytes == twin, "{dtype}");
        }
    }
}
