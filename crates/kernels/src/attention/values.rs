//! Decode, second half: the weighted sum of a tile's values, a few vectors of channels at a time.

// Registers are arrays here, and rows and vectors are read as indices of one formula.
#![allow(clippy::needless_range_loop)]

use super::dots::{TILE, Weights};
use super::rows::{Rows, ask};
use super::simd::*;
use std::arch::x86_64::*;

/// `out[r] = out[r] * decay[r] + sum over slots of weights[r][slot] * value slot`. The rows of each page come with the
/// address of the rows that will be wanted next, which is asked for.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn mix<const B: usize, const R: usize>(
    pages: &[(Rows, usize)],
    (weights, decay): (&[Weights; R], &[f32; 8]),
    out: &mut [f32],
) {
    let Some((rows, _)) = pages.first() else { return };
    let (row_bytes, vectors) = (rows.row_bytes, rows.row_bytes / B);
    let mut sum = Sum { pages, weights, decay, out };
    let mut v = 0;
    while v < vectors {
        // Three rows of four vectors just miss the registers. Three fit, but would straddle groups of four.
        v += match (R, vectors - v) {
            (1, 8..) if !grouped(B) => sum.channels::<B, 8>(v),
            (1 | 2, 4..) => sum.channels::<B, 4>(v),
            (1..=3, 3..) if !grouped(B) => sum.channels::<B, 3>(v),
            (_, 2..) => sum.channels::<B, 2>(v),
            _ => sum.channels::<B, 1>(v),
        };
    }
    if !row_bytes.is_multiple_of(B) {
        sum.last_channels::<B>(v);
    }
}

struct Sum<'a, const R: usize> {
    pages: &'a [(Rows<'a>, usize)],
    weights: &'a [Weights; R],
    decay: &'a [f32; 8],
    out: &'a mut [f32],
}

impl<const R: usize> Sum<'_, R> {
    /// Vectors `first .. first + V` of every row, V of them; grouped ones lie in one group, whose scale they share.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn channels<const B: usize, const V: usize>(&mut self, first: usize) -> usize {
        let stride = self.out.len() / R;
        let mut sums = [[_mm256_setzero_ps(); V]; R];
        for r in 0..R {
            let out = &self.out[r * stride + 8 * first..].as_chunks::<8>().0[..V];
            for v in 0..V {
                sums[r][v] = _mm256_mul_ps(_mm256_set1_ps(self.decay[r]), load(&out[v]));
            }
        }
        let mut at = 0;
        for (rows, ahead) in self.pages {
            assert!(rows.data.len() == rows.count * rows.row_bytes && (first + V) * B <= rows.row_bytes);
            assert!(at + rows.count <= TILE);
            for slot in 0..rows.count {
                let offset = slot * rows.row_bytes + first * B;
                ask(ahead + offset, V * B);
                // SAFETY: slot < count, and vectors up to first + V are inside a row, both checked above.
                let row = unsafe { &*rows.data.as_ptr().add(offset).cast::<[[u8; B]; V]>() };
                let scale = rows.scale::<B>(slot, first / 4);
                let mut weights = [_mm256_setzero_ps(); R];
                for r in 0..R {
                    // SAFETY: at + slot < TILE, checked above.
                    weights[r] = _mm256_set1_ps(unsafe { *self.weights[r].get_unchecked(at + slot) });
                }
                // A value at a time: with all V loaded first, the sums would not fit in the sixteen registers.
                for v in 0..V {
                    let value = load_scaled(&row[v], scale);
                    for r in 0..R {
                        sums[r][v] = _mm256_fmadd_ps(weights[r], value, sums[r][v]);
                    }
                }
            }
            at += rows.count;
        }
        for r in 0..R {
            let out = &mut self.out[r * stride + 8 * first..].as_chunks_mut::<8>().0[..V];
            for v in 0..V {
                store(&mut out[v], sums[r][v]);
            }
        }
        V
    }

    /// The last vector of rows whose width is no multiple of eight.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn last_channels<const B: usize>(&mut self, vector: usize) {
        let stride = self.out.len() / R;
        for r in 0..R {
            let Some(out) = self.out[r * stride + 8 * vector..].first_chunk_mut() else { continue };
            let mut sum = _mm256_mul_ps(_mm256_set1_ps(self.decay[r]), load(out));
            let mut at = 0;
            for (rows, _) in self.pages {
                for slot in 0..rows.count {
                    let value = load_tail::<B>(&rows.row(slot).0[vector * B..], rows.scale::<B>(slot, vector / 4));
                    sum = _mm256_fmadd_ps(_mm256_set1_ps(self.weights[r][at + slot]), value, sum);
                }
                at += rows.count;
            }
            store(out, sum);
        }
    }
}
