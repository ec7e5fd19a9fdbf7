//! A quantised panel times some rows of int8 activations, with AVX2.
//!
//! One block of eight weight rows sits in eight registers (a format's `load`); four activations are
//! broadcast to meet all eight rows. `maddubs` multiplies unsigned by signed bytes and adds pairs into
//! i16; for small integers several such results fit one i16, so that only one widening addition is paid
//! for 32 values (see [`Kind`]). Signed formats hand the weight's sign to the activation first.
//! Then one conversion, and one fused multiply-add with the product of both scales; minimums and offsets
//! enter through the block sums of the activations.
//!
//! Few rows keep their sums in registers. Many rows keep them in the tile, in L1, so that unpacking a block
//! of weights is paid once for all of them.

use super::activations::Blocks;
use crate::weights::avx2::{Avx2Format, Regs};
use crate::weights::panel::QUANT_ROWS;
use crate::weights::{Kind, SUB};
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows `rows` of the activations times a panel; `tile`: (rows, 8).
///
/// # Safety
/// AVX2, FMA and F16C are there; `panel` holds whole panel blocks of `F`, `x` as many blocks of columns,
/// `rows` lies within `x.rows`, and `tile` holds eight values for each of them.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quant_panel<F: Avx2Format>(panel: &[u8], x: &Blocks, rows: Range<usize>, tile: &mut [f32]) {
    debug_assert!(rows.end <= x.rows && tile.len() >= rows.len() * QUANT_ROWS);
    // SAFETY: the caller's promises, passed on.
    unsafe {
        match rows.len() {
            0 => {}
            1 => few::<F, 1>(panel, x, rows.start, tile),
            2 => few::<F, 2>(panel, x, rows.start, tile),
            3 => few::<F, 3>(panel, x, rows.start, tile),
            4 => few::<F, 4>(panel, x, rows.start, tile),
            _ => many::<F>(panel, x, rows, tile),
        }
    }
}

/// `M` rows from `row`, sums in registers.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn few<F: Avx2Format, const M: usize>(panel: &[u8], x: &Blocks, row: usize, tile: &mut [f32]) {
    let per_block = const { F::DTYPE.block_len() / SUB };
    let size = const { F::DTYPE.block_bytes() * QUANT_ROWS };
    let mut sums = [_mm256_setzero_ps(); M];
    // SAFETY: blocks and rows are within bounds by the caller's promises.
    unsafe {
        for b in 0..panel.len() / size {
            let block = panel.as_ptr().add(b * size);
            for s in 0..per_block {
                let regs = F::load(block, s);
                let at = (b * per_block + s) * x.rows + row;
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = add_block::<F>(&regs, x, at + i, *sum);
                }
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm256_storeu_ps(tile.as_mut_ptr().add(i * QUANT_ROWS), *sum);
        }
    }
}

/// Any number of rows, sums in the tile.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn many<F: Avx2Format>(panel: &[u8], x: &Blocks, rows: Range<usize>, tile: &mut [f32]) {
    let per_block = const { F::DTYPE.block_len() / SUB };
    let size = const { F::DTYPE.block_bytes() * QUANT_ROWS };
    tile.fill(0.0);
    // SAFETY: blocks and rows are within bounds by the caller's promises.
    unsafe {
        for b in 0..panel.len() / size {
            let block = panel.as_ptr().add(b * size);
            for s in 0..per_block {
                let regs = F::load(block, s);
                let at = (b * per_block + s) * x.rows + rows.start;
                for i in 0..rows.len() {
                    let sum = tile.as_mut_ptr().add(i * QUANT_ROWS);
                    let next = add_block::<F>(&regs, x, at + i, _mm256_loadu_ps(sum));
                    _mm256_storeu_ps(sum, next);
                }
            }
        }
    }
}

/// Adds the products of 32 weights of eight rows with block `at` of the activations.
///
/// # Safety
/// AVX2 and FMA are there, and `at` is a block of `x`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_block<F: Avx2Format>(regs: &Regs, x: &Blocks, at: usize, sum: __m256) -> __m256 {
    // SAFETY: `at` is within all three slices.
    let (q, scale_sum, halves) =
        unsafe { (x.q.as_ptr().add(at * SUB), x.scale_sum.as_ptr().add(at), x.halves.as_ptr().add(at)) };
    let offset = const { F::MIN || F::OFFSET != 0 };
    // SAFETY: as above; a block has 32 integers.
    unsafe {
        let scale = _mm256_broadcast_ss(&(*scale_sum)[0]);
        if F::HALVES {
            let [low, high] = dot_halves::<F>(&regs.w, q);
            let sum = scaled(low, regs.scale[0], scale, sum);
            let sum = scaled(high, regs.scale[1], scale, sum);
            let sum = _mm256_fmadd_ps(regs.min[0], _mm256_broadcast_ss(&(*halves)[0]), sum);
            return _mm256_fmadd_ps(regs.min[1], _mm256_broadcast_ss(&(*halves)[1]), sum);
        }
        let sum = scaled(dot::<F>(&regs.w, q), regs.scale[0], scale, sum);
        if !offset {
            return sum;
        }
        _mm256_fmadd_ps(regs.min[0], _mm256_broadcast_ss(&(*scale_sum)[1]), sum)
    }
}

/// `sum + dot * (w_scale * x_scale)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scaled(dot: __m256i, w_scale: __m256, x_scale: __m256, sum: __m256) -> __m256 {
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(w_scale, x_scale), sum)
}

/// Pairs of products of group `g` in i16.
///
/// # Safety
/// AVX2 is there; 32 integers are readable at `q`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pairs<F: Avx2Format>(w: &[__m256i; 8], q: *const i8, g: usize) -> __m256i {
    // SAFETY: group `g` of eight is four of the 32 integers.
    let a = _mm256_set1_epi32(unsafe { q.add(4 * g).cast::<i32>().read_unaligned() });
    match F::KIND {
        Kind::S8 => _mm256_maddubs_epi16(_mm256_abs_epi8(w[g]), _mm256_sign_epi8(a, w[g])),
        _ => _mm256_maddubs_epi16(w[g], a),
    }
}

/// Products of groups `G .. G + 4`, summed to 32 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot4<F: Avx2Format, const G: usize>(w: &[__m256i; 8], q: *const i8) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    // SAFETY: groups `G .. G + 4` are among the eight.
    let p: [__m256i; 4] = std::array::from_fn(|g| unsafe { pairs::<F>(w, q, G + g) });
    match F::KIND {
        Kind::U4 | Kind::U5 => {
            let all = _mm256_add_epi16(_mm256_add_epi16(p[0], p[1]), _mm256_add_epi16(p[2], p[3]));
            _mm256_madd_epi16(all, ones)
        }
        Kind::U6 => {
            let low = _mm256_madd_epi16(_mm256_add_epi16(p[0], p[1]), ones);
            let high = _mm256_madd_epi16(_mm256_add_epi16(p[2], p[3]), ones);
            _mm256_add_epi32(low, high)
        }
        Kind::S8 => {
            let p = p.map(|p| _mm256_madd_epi16(p, ones));
            _mm256_add_epi32(_mm256_add_epi32(p[0], p[1]), _mm256_add_epi32(p[2], p[3]))
        }
    }
}

/// All 32 products of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot<F: Avx2Format>(w: &[__m256i; 8], q: *const i8) -> __m256i {
    // SAFETY: the caller vouches for 32 integers at `q`.
    unsafe {
        if F::KIND != Kind::U4 {
            return _mm256_add_epi32(dot4::<F, 0>(w, q), dot4::<F, 4>(w, q));
        }
        let mut all = pairs::<F>(w, q, 0);
        for g in 1..8 {
            all = _mm256_add_epi16(all, pairs::<F>(w, q, g));
        }
        _mm256_madd_epi16(all, _mm256_set1_epi16(1))
    }
}

/// The products of the first and of the last 16 values of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_halves<F: Avx2Format>(w: &[__m256i; 8], q: *const i8) -> [__m256i; 2] {
    // SAFETY: the caller vouches for 32 integers at `q`.
    unsafe { [dot4::<F, 0>(w, q), dot4::<F, 4>(w, q)] }
}
