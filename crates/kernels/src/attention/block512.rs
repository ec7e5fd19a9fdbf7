//! The products of `block` with AVX-512: two panels of sixteen columns at a time, so that six rows are twelve
//! independent sums. Every sum has the order it has there, so its bits are the same.

// As in `block`.
#![allow(clippy::needless_range_loop)]

use super::block::{Block, ROWS, TILE, Weights};
use super::tile::{Sixteen, Tile};
use std::arch::x86_64::*;
use std::ops::Range;

/// As `block::all_logits`; up to sixteen slots more, beside those that are used, get their logits too.
///
/// # Safety
/// AVX-512 F is there.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn all_logits<const R: usize>(block: &Block, tile: &Tile, queries: &[[f32; ROWS]], to: &mut Weights) {
    let pairs = tile.keys.chunks_exact(2 * tile.key_dim.max(1)).enumerate();
    for (pair, keys) in pairs.take(block.used.end.div_ceil(32)).skip(block.used.start / 32) {
        logits::<R>(queries, keys.split_at(tile.key_dim), to, pair);
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn logits<const R: usize>(
    queries: &[[f32; ROWS]],
    (low, high): (&[Sixteen], &[Sixteen]),
    weights: &mut Weights,
    pair: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for ((q, low), high) in queries.iter().zip(low).zip(high) {
        let (a, b) = (load(&low.0), load(&high.0));
        for r in 0..R {
            let q = _mm512_set1_ps(q[r]);
            sums[r] = [_mm512_fmadd_ps(q, a, sums[r][0]), _mm512_fmadd_ps(q, b, sums[r][1])];
        }
    }
    for r in 0..R {
        let to = &mut weights[r].as_chunks_mut::<16>().0[2 * pair..][..2];
        store(&mut to[0], sums[r][0]);
        store(&mut to[1], sums[r][1]);
    }
}

/// As `block::mix`, for all panels of values.
///
/// # Safety
/// AVX-512 F is there.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn mix_all<const R: usize>(
    weights: &Weights,
    tile: &Tile,
    used: Range<usize>,
    decay: &[f32; 8],
    sums: &mut [[[f32; 16]; ROWS]],
) {
    let (pairs, single) = sums.as_chunks_mut::<2>();
    let mut panels = tile.values.as_chunks::<TILE>().0.iter();
    for [low, high] in pairs {
        let (Some(a), Some(b)) = (panels.next(), panels.next()) else { return };
        mix::<R, 2>(weights, [a, b], used.clone(), (decay, [low, high]));
    }
    for (sums, values) in single.iter_mut().zip(panels) {
        mix::<R, 1>(weights, [values], used.clone(), (decay, [sums]));
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn mix<const R: usize, const P: usize>(
    weights: &Weights,
    values: [&[Sixteen; TILE]; P],
    used: Range<usize>,
    (decay, sums): (&[f32; 8], [&mut [[f32; 16]; ROWS]; P]),
) {
    let mut acc = [[_mm512_setzero_ps(); R]; P];
    for p in 0..P {
        for r in 0..R {
            acc[p][r] = _mm512_mul_ps(_mm512_set1_ps(decay[r]), load(&sums[p][r]));
        }
    }
    for slot in used.start..used.end.min(TILE) {
        let values: [__m512; P] = std::array::from_fn(|p| load(&values[p][slot].0));
        for r in 0..R {
            let w = _mm512_set1_ps(weights[r][slot]);
            for p in 0..P {
                acc[p][r] = _mm512_fmadd_ps(w, values[p], acc[p][r]);
            }
        }
    }
    for (acc, sums) in acc.iter().zip(sums) {
        for (acc, sum) in acc.iter().zip(sums) {
            store(sum, *acc);
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(x: &[f32; 16]) -> __m512 {
    // SAFETY: the array has the 64 bytes that are read; the load needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(x: &mut [f32; 16], v: __m512) {
    // SAFETY: the array has the 64 bytes that are written; the store needs no alignment.
    unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) }
}
