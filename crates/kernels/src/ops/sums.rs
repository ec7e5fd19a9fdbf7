//! Sums in 32 interleaved parts, folded in halves: an order that vector code of any width can keep, so that every
//! processor and every number of threads gives the same bits.

use super::{by_rows, compiled_twice};
use crate::isa::Isa;
use crate::pool::{Pool, SendPtr};

const LANES: usize = 32;
/// Rows of a part of a column sum; fixed, so that threads change no bit.
const PART: usize = 32;

#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        let (low, high) = lanes.split_at_mut(width);
        low.iter_mut().zip(&*high).for_each(|(l, h)| *l += h);
        width /= 2;
    }
    lanes[0]
}

macro_rules! laned {
    ($($x:ident),+ => $term:expr) => {{
        let mut lanes = [0f32; LANES];
        let len = [$($x.len()),+].into_iter().min().unwrap_or(0);
        let whole = len / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            $(let $x: &[f32] = &$x[at..at + LANES];)+
            for i in 0..LANES {
                $(let $x = $x[i];)+
                lanes[i] += $term;
            }
        }
        for i in whole..len {
            $(let $x = $x[i];)+
            lanes[i - whole] += $term;
        }
        fold(lanes)
    }};
}

#[inline(always)]
pub(crate) fn sum_body(x: &[f32]) -> f32 {
    laned!(x => x)
}

#[inline(always)]
pub(crate) fn dot_body(x: &[f32], y: &[f32]) -> f32 {
    laned!(x, y => x * y)
}

#[inline(always)]
fn sum_into(x: &[f32], out: &mut [f32; 1]) {
    out[0] = sum_body(x);
}

/// The sum of `x`, into `out`.
pub(crate) fn sum(isa: Isa, x: &[f32], out: &mut [f32; 1]) {
    compiled_twice!(isa, sum_into(x: &[f32], out: &mut [f32; 1]))
}

#[inline(always)]
fn squares_into(x: &[f32], mean: f32, out: &mut [f32; 1]) {
    out[0] = laned!(x => (x - mean) * (x - mean));
}

/// The sum of `(x - mean)^2`, into `out`.
pub(crate) fn sum_of_squares_about(isa: Isa, x: &[f32], mean: f32, out: &mut [f32; 1]) {
    compiled_twice!(isa, squares_into(x: &[f32], mean: f32, out: &mut [f32; 1]))
}

/// The sums of the columns of `x`: (rows, out.len()), added to `out`: the gradient of a bias.
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn add_column_sums(pool: &Pool, isa: Isa, x: &[f32], out: &mut [f32]) {
    let cols = out.len();
    assert!(x.is_empty() || (cols > 0 && x.len().is_multiple_of(cols)), "sums: {} values in rows of {cols}", x.len());
    let rows = x.len() / cols.max(1);
    let mut parts = vec![0f32; rows.div_ceil(PART) * cols];
    let sums = SendPtr(parts.as_mut_ptr());
    pool.run(rows.div_ceil(PART), &|part| {
        // SAFETY: each part has its own `cols` sums.
        let sums = unsafe { std::slice::from_raw_parts_mut(sums.get().add(part * cols), cols) };
        for row in x[part * PART * cols..x.len().min((part + 1) * PART * cols)].chunks_exact(cols) {
            super::elementwise::add_values(isa, sums, row);
        }
    });
    for (c, out) in out.iter_mut().enumerate() {
        *out += parts.chunks_exact(cols).map(|p| f64::from(p[c])).sum::<f64>() as f32;
    }
}

/// `x <- x * factors` in every row of `factors.len()` values.
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn scale_columns(pool: &Pool, isa: Isa, x: &mut [f32], factors: &[f32]) {
    let cols = factors.len();
    assert!(x.is_empty() || (cols > 0 && x.len().is_multiple_of(cols)), "scale: {} values in rows of {cols}", x.len());
    by_rows(pool, x, cols, |_, x| x.chunks_exact_mut(cols).for_each(|row| multiply(isa, row, factors)));
}

fn multiply(isa: Isa, x: &mut [f32], y: &[f32]) {
    compiled_twice!(isa, multiply_body(x: &mut [f32], y: &[f32]))
}

#[inline(always)]
fn multiply_body(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x *= y;
    }
}

/// `x <- x + y * factors` (a row): the residual of a layer-scaled branch.
///
/// # Panics
/// If lengths differ.
pub fn add_scaled(isa: Isa, x: &mut [f32], y: &[f32], factors: &[f32]) {
    assert!(x.len() == y.len() && y.len() == factors.len(), "add: three operands");
    compiled_twice!(isa, add_scaled_body(x: &mut [f32], y: &[f32], factors: &[f32]))
}

#[inline(always)]
fn add_scaled_body(x: &mut [f32], y: &[f32], factors: &[f32]) {
    for ((x, y), f) in x.iter_mut().zip(y).zip(factors) {
        *x += y * f;
    }
}
