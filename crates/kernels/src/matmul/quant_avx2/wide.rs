//! Many rows of a signed format: products in 16 bits.
//!
//! Full-range signed bytes leave `maddubs` no room for a second product in its i16, so its three further
//! instructions a group (sign, widen, add) would come on top. Widened to i16 beforehand, weights and
//! activations need two: `madd`, which adds pairs into i32, and the addition. The even bytes of each lane
//! and the odd ones make two rounds of eight registers; what pairs with what does not matter to the sum.
//! Apart from that this is `many`.

use super::Repeated;
use crate::matmul::activations::Blocks;
use crate::weights::SUB;
use crate::weights::avx2::{Avx2Format, Regs};
use crate::weights::panel::QUANT_ROWS;
use std::arch::x86_64::*;

/// One block of one row, widened and repeated.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct WideSpread {
    even: [__m256i; 8],
    odd: [__m256i; 8],
    scale: __m256,
    /// The even half of the product with the panel at hand.
    partial: __m256i,
}

/// Bytes 0 and 2 of each 32-bit lane as i16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn even(v: __m256i) -> __m256i {
    _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(v))
}

/// Bytes 1 and 3 of each 32-bit lane as i16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn odd(v: __m256i) -> __m256i {
    _mm256_srai_epi16::<8>(v)
}

/// For a format without minimums and offset.
impl<F: Avx2Format> Repeated<F> for WideSpread {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn empty() -> WideSpread {
        let zero = _mm256_setzero_si256();
        WideSpread { even: [zero; 8], odd: [zero; 8], scale: _mm256_setzero_ps(), partial: zero }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn fill(&mut self, x: &Blocks, at: usize) {
        // SAFETY: `at` is within both slices, and a block has eight groups of four.
        unsafe {
            let q = x.q.as_ptr().add(at * SUB).cast::<i32>();
            for g in 0..8 {
                let group = _mm256_set1_epi32(q.add(g).read_unaligned());
                self.even[g] = even(group);
                self.odd[g] = odd(group);
            }
            self.scale = _mm256_broadcast_ss(&x.scale_sum.get_unchecked(at)[0]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_panel(regs: Regs, rows: &mut [WideSpread], tile: &mut [f32]) {
        let (w, scale) = (regs.w, regs.scale[0]);
        let first = w.map(|w| even(w));
        for row in rows.iter_mut() {
            row.partial = dot(&first, &row.even);
        }
        let last = w.map(|w| odd(w));
        for (row, out) in rows.iter().zip(tile.as_chunks_mut::<QUANT_ROWS>().0) {
            let product = _mm256_add_epi32(dot(&last, &row.odd), row.partial);
            // SAFETY: `out` has eight values.
            unsafe {
                let sum = _mm256_loadu_ps(out.as_ptr());
                let sum = super::scaled(product, scale, row.scale, sum);
                _mm256_storeu_ps(out.as_mut_ptr(), sum);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot(w: &[__m256i; 8], x: &[__m256i; 8]) -> __m256i {
    let mut all = _mm256_madd_epi16(w[0], x[0]);
    for g in 1..8 {
        all = _mm256_add_epi32(all, _mm256_madd_epi16(w[g], x[g]));
    }
    all
}
