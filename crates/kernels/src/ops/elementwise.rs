//! Sums, factors and the logit cap.

use super::exp::tanh;
use super::{by_rows, compiled_twice};
use crate::isa::Isa;
use crate::pool::Pool;

/// `x <- x + y`.
///
/// # Panics
/// If the lengths differ.
pub fn add(pool: &Pool, isa: Isa, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "add: two operands");
    by_rows(pool, x, 1, |first, x| add_values(isa, x, &y[first..][..x.len()]));
}

/// Adds `bias` to each row of `bias.len()` values.
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn add_bias(pool: &Pool, isa: Isa, x: &mut [f32], bias: &[f32]) {
    let row = bias.len();
    assert!(x.is_empty() || (row > 0 && x.len().is_multiple_of(row)), "bias: {} values in rows of {row}", x.len());
    by_rows(pool, x, row, |_, x| {
        for row in x.chunks_exact_mut(row) {
            add_values(isa, row, bias);
        }
    });
}

pub(super) fn add_values(isa: Isa, x: &mut [f32], y: &[f32]) {
    compiled_twice!(isa, add_body(x: &mut [f32], y: &[f32]))
}

#[inline(always)]
fn add_body(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// `x <- x * s`.
pub fn scale(pool: &Pool, isa: Isa, x: &mut [f32], s: f32) {
    by_rows(pool, x, 1, |_, x| scale_values(isa, x, s));
}

fn scale_values(isa: Isa, x: &mut [f32], s: f32) {
    compiled_twice!(isa, scale_body(x: &mut [f32], s: f32))
}

#[inline(always)]
fn scale_body(x: &mut [f32], s: f32) {
    for x in x {
        *x *= s;
    }
}

/// `x <- cap * tanh(x / cap)` (Gemma 2's logit cap).
pub fn softcap(pool: &Pool, isa: Isa, x: &mut [f32], cap: f32) {
    by_rows(pool, x, 1, |_, x| softcap_values(isa, x, cap));
}

fn softcap_values(isa: Isa, x: &mut [f32], cap: f32) {
    compiled_twice!(isa, softcap_body(x: &mut [f32], cap: f32))
}

#[inline(always)]
fn softcap_body(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * tanh(*x / cap);
    }
}
