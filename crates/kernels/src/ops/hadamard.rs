//! The Walsh-Hadamard transform of rows: a rotation that spreads one large channel over all of them.

use super::{by_rows, compiled_twice};
use crate::isa::Isa;
use crate::pool::Pool;

/// Multiplies every row of `dim` values with the normalised Hadamard matrix of Sylvester's construction, in place.
///
/// The matrix is orthogonal and its own inverse: products of two transformed rows are those of the rows, and a second
/// transform undoes the first, both up to rounding. It takes `dim log2 dim` additions a row.
///
/// # Panics
/// If `dim` is no power of two, or `x` no whole number of rows.
pub fn hadamard(pool: &Pool, isa: Isa, x: &mut [f32], dim: usize) {
    assert!(dim.is_power_of_two() && x.len().is_multiple_of(dim), "hadamard: {} values, rows of {dim}", x.len());
    by_rows(pool, x, dim, |_, x| rows(isa, x, dim));
}

/// [`hadamard`] of one row, with the same bits.
///
/// # Panics
/// If the length is no power of two.
pub fn hadamard_row(x: &mut [f32]) {
    assert!(x.len().is_power_of_two(), "hadamard: a row of {}", x.len());
    body(x, x.len());
}

fn rows(isa: Isa, x: &mut [f32], dim: usize) {
    compiled_twice!(isa, body(x: &mut [f32], dim: usize))
}

#[inline(always)]
fn body(x: &mut [f32], dim: usize) {
    let norm = 1.0 / (dim as f32).sqrt();
    for row in x.chunks_exact_mut(dim) {
        let mut half = 1;
        while half < dim {
            for block in row.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        for v in row {
            *v *= norm;
        }
    }
}
