//! Many rows with AVX-512: two neighbouring panels, each in one half of the registers.
//!
//! Both halves are unpacked by the 256-bit code and joined once for all rows, so no format has to know of
//! wider registers. From there on this is `many` with sixteen outputs instead of eight.

use super::{Block, load};
use crate::matmul::activations::Blocks;
use crate::weights::SUB;
use crate::weights::avx2::{Avx2Format, Regs};
use crate::weights::panel::QUANT_ROWS;
use std::arch::x86_64::*;
use std::ops::Range;

/// [`Regs`] of two panels.
pub(in crate::matmul) struct Pair {
    pub(in crate::matmul) w: [__m512i; 8],
    pub(in crate::matmul) scale: [__m512; 2],
    pub(in crate::matmul) min: [__m512; 2],
}

impl Pair {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(in crate::matmul) fn new(low: &Regs, high: &Regs) -> Pair {
        let floats = |low: [__m256; 2], high: [__m256; 2]| [join(low[0], high[0]), join(low[1], high[1])];
        let mut w = [_mm512_setzero_si512(); 8];
        for (g, w) in w.iter_mut().enumerate() {
            *w = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low.w[g]), high.w[g]);
        }
        Pair { w, scale: floats(low.scale, high.scale), min: floats(low.min, high.min) }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn join(low: __m256, high: __m256) -> __m512 {
    let low = _mm512_castpd256_pd512(_mm256_castps_pd(low));
    _mm512_castpd_ps(_mm512_insertf64x4::<1>(low, _mm256_castps_pd(high)))
}

/// The upper half of a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::matmul) fn high(both: __m512) -> __m256 {
    _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(both)))
}

/// # Safety
/// As [`super::avx512_panels`], for an even number of panels.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn panels<F: Avx2Format>(
    panels: &[u8],
    panel_bytes: usize,
    x: &Blocks,
    rows: Range<usize>,
    tile: &mut [f32],
) {
    let per_block = const { F::DTYPE.block_len() / SUB };
    let size = const { F::DTYPE.block_bytes() * QUANT_ROWS };
    let tile_size = rows.len() * QUANT_ROWS;
    tile.fill(0.0);
    for run in 0..panel_bytes / size * per_block {
        let (block, s) = (run / per_block * size, run % per_block);
        for (pair, tiles) in panels.chunks_exact(2 * panel_bytes).zip(tile.chunks_exact_mut(2 * tile_size)) {
            let block = pair[block..].as_ptr();
            // SAFETY: the block lies in both panels, run `s` in the block.
            let (low, high) = unsafe { (load::<F>(block, s), load::<F>(block.add(panel_bytes), s)) };
            let regs = Pair::new(&low, &high);
            let (low, high) = tiles.split_at_mut(tile_size);
            let outs = low.as_chunks_mut().0.iter_mut().zip(high.as_chunks_mut().0);
            for (i, (low, high)) in rows.clone().zip(outs) {
                // SAFETY: this is a block of row `i`.
                unsafe { add_block::<F>(&regs, &Block { x, at: run * x.rows + i }, low, high) };
            }
        }
    }
}

/// Adds the products of 32 weights of sixteen rows with a block of activations to two rows of sums.
///
/// # Safety
/// AVX-512 is there, and `x` is a block.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn add_block<F: Avx2Format>(
    regs: &Pair,
    x: &Block,
    low_out: &mut [f32; QUANT_ROWS],
    high_out: &mut [f32; QUANT_ROWS],
) {
    // SAFETY: both outputs have eight values.
    let sum = unsafe { join(_mm256_loadu_ps(low_out.as_ptr()), _mm256_loadu_ps(high_out.as_ptr())) };
    let [x_scale, x_sum] = x.scale_sum();
    let scale = |h: usize| _mm512_mul_ps(regs.scale[h], _mm512_set1_ps(x_scale));
    let sum = if F::HALVES {
        let [low, high] = x.halves();
        let sum = _mm512_fmadd_ps(dot(regs, x, 0..4, 0), scale(0), sum);
        let sum = _mm512_fmadd_ps(dot(regs, x, 4..8, 0), scale(1), sum);
        let sum = _mm512_fmadd_ps(regs.min[0], _mm512_set1_ps(low), sum);
        _mm512_fmadd_ps(regs.min[1], _mm512_set1_ps(high), sum)
    } else {
        let sum = _mm512_fmadd_ps(dot(regs, x, 0..8, x.start::<F>()), scale(0), sum);
        if F::MIN || F::OFFSET != 0 { _mm512_fmadd_ps(regs.min[0], _mm512_set1_ps(x_sum), sum) } else { sum }
    };
    // SAFETY: both outputs have eight values.
    unsafe {
        _mm256_storeu_ps(low_out.as_mut_ptr(), _mm512_castps512_ps256(sum));
        _mm256_storeu_ps(high_out.as_mut_ptr(), high(sum));
    }
}

/// `start` and the products of some groups of four.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")]
fn dot(regs: &Pair, x: &Block, groups: Range<usize>, start: i32) -> __m512 {
    let mut sum = _mm512_set1_epi32(start);
    for g in groups {
        sum = _mm512_dpbusd_epi32(sum, regs.w[g], _mm512_set1_epi32(x.q(g)));
    }
    _mm512_cvtepi32_ps(sum)
}
