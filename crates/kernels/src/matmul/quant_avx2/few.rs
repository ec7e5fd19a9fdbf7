//! One to four rows: weights stream through once, sums stay in registers.

use super::{Source, add_block};
use crate::matmul::activations::Blocks;
use crate::weights::SUB;
use crate::weights::avx2::Avx2Format;
use crate::weights::panel::QUANT_ROWS;
use std::arch::x86_64::*;

/// How far ahead of its use a block is asked for, in bytes: panels of a task follow each other in memory.
/// Unpacking takes so many instructions that the processor cannot look that far by itself.
const AHEAD: usize = 2048;

/// A block where `Activations` has it; repeating a value is part of loading it.
struct Packed {
    q: *const i8,
    scale_sum: *const [f32; 2],
    halves: *const [f32; 2],
}

impl Source for Packed {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn q(&self, g: usize) -> __m256i {
        // SAFETY: group `g` of eight is four of the block's 32 integers.
        _mm256_set1_epi32(unsafe { self.q.add(4 * g).cast::<i32>().read_unaligned() })
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn scale(&self) -> __m256 {
        // SAFETY: the pointer is to this block's entry.
        unsafe { _mm256_broadcast_ss(&(*self.scale_sum)[0]) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sum(&self) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_broadcast_ss(&(*self.scale_sum)[1]) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn half(&self, h: usize) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_broadcast_ss(&(*self.halves)[h]) }
    }
}

/// `M` rows from `row` times one panel; `tile`: (M, 8).
///
/// # Safety
/// As [`super::quant_panels`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn panel<F: Avx2Format, const M: usize>(panel: &[u8], x: &Blocks, row: usize, tile: &mut [f32]) {
    let per_block = const { F::DTYPE.block_len() / SUB };
    let size = const { F::DTYPE.block_bytes() * QUANT_ROWS };
    let mut sums = [_mm256_setzero_ps(); M];
    for b in 0..panel.len() / size {
        let ahead = panel.as_ptr().wrapping_add(b * size + AHEAD);
        for line in (0..size).step_by(64) {
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line).cast());
        }
        // SAFETY: block `b` lies in the panel and each run in the block; the activations have a block for
        // each of these runs and each of their rows.
        unsafe {
            let at = |s: usize| (panel.as_ptr().add(b * size), (b * per_block + s) * x.rows + row);
            if M > 1 || per_block == 1 {
                for s in 0..per_block {
                    add_run::<F, M>(at(s), s, x, &mut sums);
                }
            } else {
                // Written out, every shift that depends on the run is a constant.
                add_run::<F, M>(at(0), 0, x, &mut sums);
                add_run::<F, M>(at(1), 1, x, &mut sums);
                add_run::<F, M>(at(2), 2, x, &mut sums);
                add_run::<F, M>(at(3), 3, x, &mut sums);
                add_run::<F, M>(at(4), 4, x, &mut sums);
                add_run::<F, M>(at(5), 5, x, &mut sums);
                add_run::<F, M>(at(6), 6, x, &mut sums);
                add_run::<F, M>(at(7), 7, x, &mut sums);
            }
        }
    }
    for (sum, out) in sums.iter().zip(tile.chunks_exact_mut(QUANT_ROWS)) {
        // SAFETY: eight values.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *sum) };
    }
}

/// Adds the products of run `s` of a panel block with `M` rows of activations, from block `first` of them.
///
/// # Safety
/// As [`super::quant_panels`]; the block is one of the panel's, `first` a block of `x`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_run<F: Avx2Format, const M: usize>(
    (block, first): (*const u8, usize),
    s: usize,
    x: &Blocks,
    sums: &mut [__m256; M],
) {
    // SAFETY: the caller's promises, passed on.
    unsafe {
        let regs = F::load(block, s);
        for (i, sum) in sums.iter_mut().enumerate() {
            let packed = Packed {
                q: x.q.as_ptr().add((first + i) * SUB),
                scale_sum: x.scale_sum.as_ptr().add(first + i),
                halves: x.halves.as_ptr().add(first + i),
            };
            *sum = add_block::<F>(&regs, &packed, *sum);
        }
    }
}
