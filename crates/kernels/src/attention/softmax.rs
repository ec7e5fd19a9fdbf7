//! The softmax of a few rows, carried along from one piece of the keys to the next.
//!
//! A row keeps its largest logit so far and its sum of weights relative to it; when a later piece holds a larger one,
//! what was summed before is multiplied down (Milakov & Gimelshein, Online normalizer calculation for softmax, 2018).
//! Logits are in units of log 2.

use super::simd::*;
use std::arch::x86_64::*;
use std::ops::Range;

/// The softmax of up to eight rows so far.
#[derive(Clone, Debug)]
pub(super) struct Softmax {
    /// Largest logit of each row.
    top: [f32; 8],
    /// Sum of `2^(logit - top)` of each row, still spread over eight lanes.
    sums: [[f32; 8]; 8],
}

impl Default for Softmax {
    fn default() -> Softmax {
        Softmax { top: [f32::NEG_INFINITY; 8], sums: [[0.0; 8]; 8] }
    }
}

impl Softmax {
    /// The largest logit of a row and its sum of weights; minus infinity and zero if it has seen nothing.
    pub fn total(&self, row: usize) -> (f32, f32) {
        (self.top[row], self.sums[row].iter().sum())
    }
}

/// From the largest logit and the sum of weights to the natural logarithm of the sum of exponentials.
pub(super) fn log_sum((top, sum): (f32, f32)) -> f32 {
    if sum == 0.0 { f32::NEG_INFINITY } else { (top + sum.log2()) * std::f32::consts::LN_2 }
}

/// Turns the first `count` logits of each of R rows, rounded up to whole vectors, into weights `2^(logit - top)`: zero
/// outside what the row sees. Returns what the earlier sums of each row are to be multiplied by.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn soften<const R: usize, const W: usize>(
    softmax: &mut Softmax,
    weights: &mut [[f32; W]],
    count: usize,
    seen: &[Range<usize>],
    softcap: Option<f32>,
) -> [f32; 8] {
    let hidden = _mm256_set1_ps(f32::NEG_INFINITY);
    let mut tops = [hidden; 8];
    for ((weights, seen), top) in weights[..R].iter_mut().zip(&seen[..R]).zip(&mut tops) {
        let vectors = &mut weights.as_chunks_mut::<8>().0[..count.div_ceil(8)];
        if let Some(cap) = softcap {
            for v in vectors.iter_mut() {
                let x = capped(load(v), cap);
                store(v, x);
            }
        }
        if *seen != (0..8 * vectors.len()) {
            for (i, v) in vectors.iter_mut().enumerate() {
                let x = _mm256_blendv_ps(hidden, load(v), inside(8 * i, seen));
                store(v, x);
            }
        }
        for v in vectors.iter() {
            *top = _mm256_max_ps(*top, load(v));
        }
    }
    let old = load(&softmax.top);
    let new = _mm256_max_ps(old, largest(&tops));
    store(&mut softmax.top, new);
    // A row that has seen nothing yet has top = minus infinity; zero in its place keeps 2^(-inf - top) zero, not NaN.
    let base = _mm256_blendv_ps(new, _mm256_setzero_ps(), _mm256_cmp_ps::<_CMP_EQ_OQ>(new, hidden));
    let (mut bases, mut decay) = ([0.0; 8], [0.0; 8]);
    store(&mut bases, base);
    store(&mut decay, exp2(_mm256_sub_ps(old, base)));
    for (r, weights) in weights[..R].iter_mut().enumerate() {
        let (base, mut sum) = (_mm256_set1_ps(bases[r]), _mm256_setzero_ps());
        for v in &mut weights.as_chunks_mut::<8>().0[..count.div_ceil(8)] {
            let weight = exp2(_mm256_sub_ps(load(v), base));
            sum = _mm256_add_ps(sum, weight);
            store(v, weight);
        }
        let total = _mm256_fmadd_ps(load(&softmax.sums[r]), _mm256_set1_ps(decay[r]), sum);
        store(&mut softmax.sums[r], total);
    }
    decay
}

/// The logit, in units of log 2, that a softcap makes of its argument.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn capped(x: __m256, cap: f32) -> __m256 {
    _mm256_mul_ps(_mm256_set1_ps(cap * LOG2E), tanh(x))
}

/// All ones in the lanes whose index, from `first` on, lies in `seen`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn inside(first: usize, seen: &Range<usize>) -> __m256 {
    let lane = _mm256_add_epi32(_mm256_set1_epi32(first as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    let before = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.start as i32), lane);
    let within = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.end as i32), lane);
    _mm256_castsi256_ps(_mm256_andnot_si256(before, within))
}
