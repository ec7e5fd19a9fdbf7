//! Rotary position embedding, half rotation (Su et al., RoFormer, 2021; the "neox" order of channels).

use super::{by_rows, compiled_twice};
use crate::isa::Isa;
use crate::pool::Pool;

/// Rotates the first `rot` channels of every head in place: channel `i` pairs with `i + rot / 2`,
/// `(a, b) <- (a cos - b sin, b cos + a sin)`; the other channels stay.
///
/// `x` is (m, heads, head_dim), `cos` and `sin` are (m, rot / 2): one angle row a token, made by the caller for the
/// tokens' true positions.
///
/// # Panics
/// If `rot` is odd or above `head_dim`, or the lengths do not agree on `m`.
pub fn rope(pool: &Pool, isa: Isa, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], rot: usize) {
    assert!(rot <= head_dim && rot.is_multiple_of(2), "rope: {rot} of {head_dim} channels");
    assert_eq!(cos.len(), sin.len(), "rope: cosines and sines");
    if rot == 0 || x.is_empty() {
        return;
    }
    let half = rot / 2;
    let m = cos.len() / half;
    assert!(
        m > 0 && cos.len() == m * half && x.len().is_multiple_of(m * head_dim),
        "rope: {} values, heads of {head_dim}, {} angles of {half}",
        x.len(),
        cos.len()
    );
    let row = x.len() / m;
    by_rows(pool, x, row, |first, x| {
        let angles = first * half..first * half + x.len() / row * half;
        let angles = Angles { cos: &cos[angles.clone()], sin: &sin[angles], half };
        rotate(isa, x, Heads { row, head_dim }, angles);
    });
}

#[derive(Clone, Copy)]
struct Heads {
    row: usize,
    head_dim: usize,
}

#[derive(Clone, Copy)]
struct Angles<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
}

fn rotate(isa: Isa, x: &mut [f32], heads: Heads, angles: Angles<'_>) {
    compiled_twice!(isa, body(x: &mut [f32], heads: Heads, angles: Angles<'_>))
}

#[inline(always)]
fn body(x: &mut [f32], heads: Heads, angles: Angles<'_>) {
    let rows = angles.cos.chunks_exact(angles.half).zip(angles.sin.chunks_exact(angles.half));
    for (x, (cos, sin)) in x.chunks_exact_mut(heads.row).zip(rows) {
        for head in x.chunks_exact_mut(heads.head_dim) {
            let (low, high) = head[..2 * angles.half].split_at_mut(angles.half);
            for ((a, b), (c, s)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    }
}
