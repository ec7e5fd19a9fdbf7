//! Root-mean-square norm (Zhang & Sennrich, Root Mean Square Layer Normalization, 2019) and the L2 norm.

use super::{by_rows, compiled_twice};
use crate::isa::Isa;
use crate::pool::Pool;

/// `out = x / sqrt(mean(x^2) + eps) * weight`, for each row of `weight.len()` values.
///
/// `weight` is what is multiplied: where a model stores it minus one (Gemma), one has been added.
///
/// # Panics
/// If `x` and `out` differ in length, or are no whole number of rows.
pub fn rms_norm(pool: &Pool, isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "norm: input and output");
    let row = check(x, weight);
    by_rows(pool, out, row, |first, out| {
        let x = &x[first * row..][..out.len()];
        rms_norm_rows(isa, x, weight, eps, out);
    });
}

/// [`rms_norm`] that overwrites its input.
pub fn rms_norm_inplace(pool: &Pool, isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    let row = check(x, weight);
    by_rows(pool, x, row, |_, x| norm_rows(isa, x, weight, eps));
}

fn check(x: &[f32], weight: &[f32]) -> usize {
    let row = weight.len();
    assert!(x.is_empty() || (row > 0 && x.len().is_multiple_of(row)), "norm: {} values in rows of {row}", x.len());
    row
}

/// [`rms_norm`] of some rows, by the thread that calls.
pub(crate) fn rms_norm_rows(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    compiled_twice!(isa, copy_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]))
}

#[inline(always)]
fn copy_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let inverse = inverse_rms(x, eps);
        for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
            *o = x * inverse * w;
        }
    }
}

fn norm_rows(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    compiled_twice!(isa, norm_body(x: &mut [f32], weight: &[f32], eps: f32))
}

#[inline(always)]
fn norm_body(x: &mut [f32], weight: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(weight.len()) {
        let inverse = inverse_rms(x, eps);
        for (x, w) in x.iter_mut().zip(weight) {
            *x = *x * inverse * w;
        }
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt()
}

/// The Euclidean norm. The same bits on every processor, because scores that presses compare come from it.
pub fn l2_norm(x: &[f32]) -> f32 {
    sum_of_squares(x).sqrt()
}

/// In 32 interleaved partial sums, folded in halves: an order that vector code of any width can keep.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sums = [0f32; 32];
    let (whole, rest) = x.as_chunks::<32>();
    for x in whole {
        for (s, x) in sums.iter_mut().zip(x) {
            *s += x * x;
        }
    }
    for (s, x) in sums.iter_mut().zip(rest) {
        *s += x * x;
    }
    let mut width = 16;
    while width > 0 {
        let (low, high) = sums.split_at_mut(width);
        for (l, h) in low.iter_mut().zip(&*high) {
            *l += h;
        }
        width /= 2;
    }
    sums[0]
}
