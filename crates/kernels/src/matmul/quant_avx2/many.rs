//! Many rows: as few instructions for a product as there can be.
//!
//! This core issues four vector instructions a cycle, loads included, so a separate broadcast of four
//! activations would cost as much as the multiplication it feeds. Instead one block of all rows is repeated
//! over vectors once, into L1, and serves a group of panels; each multiplication then takes it as its
//! memory operand. Weights of a panel are unpacked once for all rows and stay in registers. The sums of the
//! group, (panels, rows, 8), live in L1 too.

use super::{Repeated, Source, add_block};
use crate::matmul::activations::Blocks;
use crate::weights::SUB;
use crate::weights::avx2::{Avx2Format, Regs};
use crate::weights::panel::QUANT_ROWS;
use std::arch::x86_64::*;

/// One block of one row, each value repeated over a vector.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Spread {
    q: [__m256i; 8],
    scale: __m256,
    sum: __m256,
    halves: [__m256; 2],
}

impl Source for &Spread {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn q(&self, g: usize) -> __m256i {
        self.q[g]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scale(&self) -> __m256 {
        self.scale
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sum(&self) -> __m256 {
        self.sum
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn half(&self, h: usize) -> __m256 {
        self.halves[h]
    }
}

impl<F: Avx2Format> Repeated<F> for Spread {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn empty() -> Spread {
        let zero = _mm256_setzero_ps();
        Spread { q: [_mm256_setzero_si256(); 8], scale: zero, sum: zero, halves: [zero; 2] }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn fill(&mut self, x: &Blocks, at: usize) {
        // SAFETY: `at` is within all three slices, and a block has eight groups of four.
        unsafe {
            let q = x.q.as_ptr().add(at * SUB).cast::<i32>();
            for (g, out) in self.q.iter_mut().enumerate() {
                *out = _mm256_set1_epi32(q.add(g).read_unaligned());
            }
            let [scale, sum] = x.scale_sum.get_unchecked(at);
            self.scale = _mm256_broadcast_ss(scale);
            if F::HALVES {
                let [first, last] = x.halves.get_unchecked(at);
                self.halves = [_mm256_broadcast_ss(first), _mm256_broadcast_ss(last)];
            } else {
                self.sum = _mm256_broadcast_ss(sum);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_panel(regs: Regs, rows: &mut [Spread], tile: &mut [f32]) {
        for (row, out) in rows.iter().zip(tile.as_chunks_mut::<QUANT_ROWS>().0) {
            // SAFETY: `out` has eight values; a reference to a `Spread` is always valid.
            unsafe {
                let sum = add_block::<F>(&regs, &row, _mm256_loadu_ps(out.as_ptr()));
                _mm256_storeu_ps(out.as_mut_ptr(), sum);
            }
        }
    }
}
