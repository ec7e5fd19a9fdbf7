//! Quantised panels times some rows of int8 activations, with AVX2.
//!
//! One block of eight weight rows sits in eight registers (a format's `load`); four activations, repeated
//! over a vector, meet all eight rows. `maddubs` multiplies unsigned by signed bytes and adds pairs into
//! i16; for small integers several such results fit one i16, so that only one widening addition is paid
//! for 32 values (see [`Kind`]). Then one conversion, and one fused multiply-add with the product of both
//! scales; minimums and offsets enter through the block sums of the activations.
//!
//! Few rows (`few`) are bound by memory: activations are broadcast as they are needed and sums stay in
//! registers. Many rows (`many`) are bound by the number of instructions: see there.

mod few;
mod many;
mod wide;

pub(super) use many::Spread;
pub(super) use wide::WideSpread;

use super::activations::Blocks;
use super::plan::Scratch;
use crate::weights::avx2::{Avx2Format, Regs};
use crate::weights::panel::QUANT_ROWS;
use crate::weights::{Kind, SUB};
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows `rows` of the activations times panels of `panel_bytes` each; `tile`: (panels, rows, 8).
///
/// # Safety
/// AVX2, FMA and F16C are there; each panel holds as many whole blocks of `F` as `x` has columns; `rows`
/// lies within `x.rows`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quant_panels<F: Avx2Format>(
    panels: &[u8],
    panel_bytes: usize,
    x: &Blocks,
    rows: Range<usize>,
    tile: &mut [f32],
    scratch: &mut Scratch,
) {
    let each = panels.chunks_exact(panel_bytes).zip(tile.chunks_exact_mut(rows.len() * QUANT_ROWS));
    // SAFETY: the caller's promises, passed on.
    unsafe {
        match rows.len() {
            1 => each.for_each(|(panel, tile)| few::panel::<F, 1>(panel, x, rows.start, tile)),
            2 => each.for_each(|(panel, tile)| few::panel::<F, 2>(panel, x, rows.start, tile)),
            3 => each.for_each(|(panel, tile)| few::panel::<F, 3>(panel, x, rows.start, tile)),
            4 => each.for_each(|(panel, tile)| few::panel::<F, 4>(panel, x, rows.start, tile)),
            _ if F::KIND == Kind::S8 => {
                repeated::<F, WideSpread>(panels, panel_bytes, x, rows, tile, &mut scratch.wide_rows);
            }
            _ => repeated::<F, Spread>(panels, panel_bytes, x, rows, tile, &mut scratch.rows),
        }
    }
}

/// One block of one row of activations, repeated over vectors, for many rows: see `many`.
trait Repeated<F: Avx2Format>: Copy {
    /// Nothing yet.
    ///
    /// # Safety
    /// AVX2 is there.
    unsafe fn empty() -> Self;

    /// Takes block number `at` of the activations. In place: a value of this size would travel by memory.
    ///
    /// # Safety
    /// AVX2 is there and `at` is a block of `x`.
    unsafe fn fill(&mut self, x: &Blocks, at: usize);

    /// Adds one block of a panel times all rows to their sums, (rows, 8).
    ///
    /// # Safety
    /// AVX2 and FMA are there.
    unsafe fn add_panel(regs: Regs, rows: &mut [Self], tile: &mut [f32]);
}

/// Many rows: a block of all of them is repeated once and serves every panel.
///
/// # Safety
/// As [`quant_panels`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn repeated<F: Avx2Format, R: Repeated<F>>(
    panels: &[u8],
    panel_bytes: usize,
    x: &Blocks,
    rows: Range<usize>,
    tile: &mut [f32],
    kept: &mut Vec<R>,
) {
    let per_block = const { F::DTYPE.block_len() / SUB };
    let size = const { F::DTYPE.block_bytes() * QUANT_ROWS };
    tile.fill(0.0);
    if kept.len() < rows.len() {
        // SAFETY: AVX2 is there.
        kept.resize(rows.len(), unsafe { R::empty() });
    }
    let kept = &mut kept[..rows.len()];
    for b in 0..panel_bytes / size {
        for s in 0..per_block {
            let first = (b * per_block + s) * x.rows;
            for (row, i) in kept.iter_mut().zip(rows.clone()) {
                // SAFETY: `first + i` is this block of row `i`.
                unsafe { row.fill(x, first + i) };
            }
            let tiles = tile.chunks_exact_mut(rows.len() * QUANT_ROWS);
            for (panel, tile) in panels.chunks_exact(panel_bytes).zip(tiles) {
                // SAFETY: block `b` lies in the panel, run `s` in the block.
                unsafe { R::add_panel(F::load(panel.as_ptr().add(b * size), s), kept, tile) };
            }
        }
    }
}

/// Where the activations of one row and block come from.
trait Source {
    /// Integers `4 g .. 4 g + 4`, repeated eight times.
    unsafe fn q(&self, g: usize) -> __m256i;
    /// The scale, repeated.
    unsafe fn scale(&self) -> __m256;
    /// Scale times the sum of the integers, repeated.
    unsafe fn sum(&self) -> __m256;
    /// The same for half `h` of them.
    unsafe fn half(&self, h: usize) -> __m256;
}

/// Adds the products of 32 weights of eight rows with a block of activations.
///
/// # Safety
/// AVX2 and FMA are there, and `x` is what its type promises.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_block<F: Avx2Format>(regs: &Regs, x: &impl Source, sum: __m256) -> __m256 {
    // SAFETY: `x` vouches for its block.
    unsafe {
        if F::HALVES {
            let low = dot4::<F, 0>(&regs.w, x);
            let high = dot4::<F, 4>(&regs.w, x);
            let sum = scaled(low, regs.scale[0], x.scale(), sum);
            let sum = scaled(high, regs.scale[1], x.scale(), sum);
            let sum = _mm256_fmadd_ps(regs.min[0], x.half(0), sum);
            return _mm256_fmadd_ps(regs.min[1], x.half(1), sum);
        }
        let sum = scaled(dot::<F>(&regs.w, x), regs.scale[0], x.scale(), sum);
        if F::MIN || F::OFFSET != 0 {
            return _mm256_fmadd_ps(regs.min[0], x.sum(), sum);
        }
        sum
    }
}

/// `sum + dot * (w_scale * x_scale)`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scaled(dot: __m256i, w_scale: __m256, x_scale: __m256, sum: __m256) -> __m256 {
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(w_scale, x_scale), sum)
}

/// Pairs of products of group `g` in i16. Signed weights hand their sign to the activation, which is the
/// only side that may carry one.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pairs<F: Avx2Format>(w: &[__m256i; 8], x: &impl Source, g: usize) -> __m256i {
    // SAFETY: `x` vouches for its eight groups.
    let a = unsafe { x.q(g) };
    match F::KIND {
        Kind::S8 => _mm256_maddubs_epi16(_mm256_abs_epi8(w[g]), _mm256_sign_epi8(a, w[g])),
        _ => _mm256_maddubs_epi16(w[g], a),
    }
}

/// Products of groups `G .. G + 4`, summed to 32 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot4<F: Avx2Format, const G: usize>(w: &[__m256i; 8], x: &impl Source) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    // SAFETY: groups `G .. G + 4` are among the eight.
    let p: [__m256i; 4] = std::array::from_fn(|g| unsafe { pairs::<F>(w, x, G + g) });
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
unsafe fn dot<F: Avx2Format>(w: &[__m256i; 8], x: &impl Source) -> __m256i {
    // SAFETY: `x` vouches for its eight groups.
    unsafe {
        if F::KIND != Kind::U4 {
            return _mm256_add_epi32(dot4::<F, 0>(w, x), dot4::<F, 4>(w, x));
        }
        let p: [__m256i; 8] = std::array::from_fn(|g| pairs::<F>(w, x, g));
        let quads: [__m256i; 4] = std::array::from_fn(|g| _mm256_add_epi16(p[2 * g], p[2 * g + 1]));
        let first = _mm256_add_epi16(quads[0], quads[1]);
        let last = _mm256_add_epi16(quads[2], quads[3]);
        _mm256_madd_epi16(_mm256_add_epi16(first, last), _mm256_set1_epi16(1))
    }
}
