//! Bounds of a page's keys: how large a logit can any slot of the page have, without reading its keys?
//!
//! For a query q and keys between m and M in each channel, `q·k <= sum_i max(q_i m_i, q_i M_i)` (Tang et al., Quest,
//! arXiv 2406.10774). A reader that attends to the pages of largest bound only reads `2 key_dim` numbers of every
//! other page.

use super::PageLayout;
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// The smallest, then the largest value of each channel over the keys of the first `slots` slots of a page:
/// (2, key_dim), overwritten. A channel with a value that is not a number has NaN for both, so that damage is not
/// hidden by a page that is never read.
///
/// # Panics
/// Where [`PageLayout::read_key`] does.
pub fn key_bounds(layout: &PageLayout, page: &[u8], slots: usize, bounds: &mut Vec<f32>) {
    let dim = layout.key_dim();
    let mut key = vec![0.0; dim];
    bounds.clear();
    bounds.resize(dim, f32::INFINITY);
    bounds.resize(2 * dim, f32::NEG_INFINITY);
    let (least, most) = bounds.split_at_mut(dim);
    for slot in 0..slots {
        layout.read_key(page, slot, &mut key);
        for ((least, most), x) in least.iter_mut().zip(&mut *most).zip(&key) {
            // Written so that a NaN on either side stays.
            *least = if *least < *x || least.is_nan() { *least } else { *x };
            *most = if *most > *x || most.is_nan() { *most } else { *x };
        }
    }
}

/// The largest, over `queries` (rows of key_dim), of the upper bound of `q·k` over keys within `bounds` (2, key_dim);
/// NaN if a bound is.
///
/// # Panics
/// If `bounds` is not twice as wide as `queries` are, or the queries are no whole number of rows.
pub fn largest_logit(isa: Isa, queries: &[f32], bounds: &[f32]) -> f32 {
    let dim = bounds.len() / 2;
    assert!(bounds.len() == 2 * dim && queries.len().is_multiple_of(dim.max(1)), "bounds of {dim} channels");
    let (least, most) = bounds.split_at(dim);
    let rows = queries.chunks_exact(dim.max(1));
    #[cfg(target_arch = "x86_64")]
    if isa.runs_avx2() {
        // SAFETY: the processor has AVX2, FMA and F16C.
        return rows.map(|q| unsafe { bound_avx2(q, least, most) }).fold(f32::NEG_INFINITY, larger);
    }
    let _ = isa;
    rows.map(|q| bound(q, least, most)).fold(f32::NEG_INFINITY, larger)
}

/// The larger one; NaN if either is.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

fn bound(q: &[f32], least: &[f32], most: &[f32]) -> f32 {
    q.iter().zip(least).zip(most).map(|((q, m), n)| larger(q * m, q * n)).sum()
}

/// The same, eight channels at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn bound_avx2(q: &[f32], least: &[f32], most: &[f32]) -> f32 {
    use super::simd::{load, store};
    let (whole, tail) = q.as_chunks::<8>();
    let (least, least_tail) = least.as_chunks::<8>();
    let (most, most_tail) = most.as_chunks::<8>();
    let mut sum = _mm256_setzero_ps();
    for ((q, m), n) in whole.iter().zip(least).zip(most) {
        // A channel that is not a number has NaN for both of its bounds, so `max` cannot lose it.
        let q = load(q);
        sum = _mm256_add_ps(sum, _mm256_max_ps(_mm256_mul_ps(q, load(m)), _mm256_mul_ps(q, load(n))));
    }
    let mut lanes = [0.0; 8];
    store(&mut lanes, sum);
    lanes.iter().sum::<f32>() + bound(tail, least_tail, most_tail)
}
