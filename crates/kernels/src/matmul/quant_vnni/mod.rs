//! Quantised panels times some rows of int8 activations, with `vpdpbusd`: four products of unsigned weights
//! and signed activations a lane, added to 32 bits in one instruction. Nothing can saturate, so all formats
//! take the same path.
//!
//! * `avx_panels`: AVX-VNNI, 256 bits, for processors without AVX-512.
//! * `avx512_panels`: AVX-512 VNNI; few rows in 256 bits (they are bound by memory), many with two
//!   neighbouring panels side by side in 512 bits (`pairs`).
//!
//! Signed weights are made unsigned by adding 128 (flipping their top bit), and a block's sum starts at -128
//! times the sum of its activations instead of at zero. Integer sums are exact, and every lane does the
//! float operations of `quant_avx2` in their order, so results are those of AVX2 to the bit.
//!
//! Activations are broadcast as they are used, for many rows too: these processors do that while loading,
//! which for AVX-512 is a part of the multiplication itself.

mod pairs;
#[cfg(test)]
mod tests;

pub(super) use pairs::{Pair, high};

use super::activations::Blocks;
use crate::weights::avx2::{Avx2Format, Regs};
use crate::weights::panel::QUANT_ROWS;
use crate::weights::{Kind, SUB};
use std::arch::x86_64::*;
use std::ops::Range;

/// How far ahead of its use a block is asked for, in bytes (see `quant_avx2`).
const AHEAD: usize = 2048;

/// Most rows whose sums stay in registers while weights stream through once.
pub(super) const FEW: usize = 4;

/// The instruction of 256 bits, which two extensions bring under two names.
trait Vnni {
    /// `sum` and the four products of each lane's bytes.
    ///
    /// # Safety
    /// The extension is there.
    unsafe fn dpbusd(sum: __m256i, w: __m256i, x: __m256i) -> __m256i;
}

struct AvxVnni;
struct Avx512Vnni;

impl Vnni for AvxVnni {
    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn dpbusd(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        _mm256_dpbusd_avx_epi32(sum, w, x)
    }
}

impl Vnni for Avx512Vnni {
    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx512vnni")]
    unsafe fn dpbusd(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        _mm256_dpbusd_epi32(sum, w, x)
    }
}

/// Rows `rows` of the activations times panels of `panel_bytes` each; `tile`: (panels, rows, 8).
///
/// # Safety
/// AVX2, FMA, F16C and AVX-VNNI are there; each panel holds as many whole blocks of `F` as `x` has columns;
/// `rows` lies within `x.rows`.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn avx_panels<F: Avx2Format>(
    panels: &[u8],
    panel_bytes: usize,
    x: &Blocks,
    rows: Range<usize>,
    tile: &mut [f32],
) {
    // SAFETY: the caller's promises, passed on.
    unsafe { single_panels::<AvxVnni, F>(panels, panel_bytes, x, rows, tile) }
}

/// The same with AVX-512.
///
/// # Safety
/// As [`avx_panels`], with AVX-512 F, BW, VL and VNNI instead of AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn avx512_panels<F: Avx2Format>(
    panels: &[u8],
    panel_bytes: usize,
    x: &Blocks,
    rows: Range<usize>,
    tile: &mut [f32],
) {
    let mut paired = 0;
    if rows.len() > FEW {
        paired = panels.len() / panel_bytes / 2 * 2;
        let (panels, tile) = (&panels[..paired * panel_bytes], &mut tile[..paired * rows.len() * QUANT_ROWS]);
        // SAFETY: the caller's promises, passed on for an even number of panels.
        unsafe { pairs::panels::<F>(panels, panel_bytes, x, rows.clone(), tile) };
    }
    let (panels, tile) = (&panels[paired * panel_bytes..], &mut tile[paired * rows.len() * QUANT_ROWS..]);
    // SAFETY: the caller's promises, passed on for the panels that are left.
    unsafe { single_panels::<Avx512Vnni, F>(panels, panel_bytes, x, rows, tile) }
}

// What follows is inlined, by force, into the two functions above: it has no target features of its own
// and takes theirs.

/// # Safety
/// As [`avx_panels`], with the extension `V` names.
#[inline(always)]
unsafe fn single_panels<V: Vnni, F: Avx2Format>(
    panels: &[u8],
    panel_bytes: usize,
    x: &Blocks,
    rows: Range<usize>,
    tile: &mut [f32],
) {
    let each = panels.chunks_exact(panel_bytes).zip(tile.chunks_exact_mut(rows.len() * QUANT_ROWS));
    for (panel, tile) in each {
        // SAFETY: the caller's promises, passed on for one panel.
        unsafe {
            match rows.len() {
                1 => few::<V, F, 1>(panel, x, rows.start, tile),
                2 => few::<V, F, 2>(panel, x, rows.start, tile),
                3 => few::<V, F, 3>(panel, x, rows.start, tile),
                FEW => few::<V, F, FEW>(panel, x, rows.start, tile),
                _ => many::<V, F>(panel, x, rows.clone(), tile),
            }
        }
    }
}

/// `M` rows from `row` times one panel: weights stream through once, sums stay in registers.
///
/// # Safety
/// As [`single_panels`].
#[inline(always)]
unsafe fn few<V: Vnni, F: Avx2Format, const M: usize>(panel: &[u8], x: &Blocks, row: usize, tile: &mut [f32]) {
    let per_block = const { F::DTYPE.block_len() / SUB };
    let size = const { F::DTYPE.block_bytes() * QUANT_ROWS };
    // SAFETY: block `b` lies in the panel and each run in the block; the activations have a block for each
    // of these runs and each of their rows; a row of the tile has eight values.
    unsafe {
        let mut sums = [_mm256_setzero_ps(); M];
        for b in 0..panel.len() / size {
            let block = panel.as_ptr().add(b * size);
            for line in (0..size).step_by(64) {
                _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(AHEAD + line).cast());
            }
            let at = |s: usize| (block, (b * per_block + s) * x.rows + row);
            if M > 1 || per_block == 1 {
                for s in 0..per_block {
                    add_run::<V, F, M>(at(s), s, x, &mut sums);
                }
            } else {
                // Written out, every shift that depends on the run is a constant.
                add_run::<V, F, M>(at(0), 0, x, &mut sums);
                add_run::<V, F, M>(at(1), 1, x, &mut sums);
                add_run::<V, F, M>(at(2), 2, x, &mut sums);
                add_run::<V, F, M>(at(3), 3, x, &mut sums);
                add_run::<V, F, M>(at(4), 4, x, &mut sums);
                add_run::<V, F, M>(at(5), 5, x, &mut sums);
                add_run::<V, F, M>(at(6), 6, x, &mut sums);
                add_run::<V, F, M>(at(7), 7, x, &mut sums);
            }
        }
        for (sum, out) in sums.iter().zip(tile.chunks_exact_mut(QUANT_ROWS)) {
            _mm256_storeu_ps(out.as_mut_ptr(), *sum);
        }
    }
}

/// Adds the products of run `s` of a panel block with `M` rows of activations, from block `first` of them.
///
/// # Safety
/// As [`single_panels`]; the block is one of the panel's, `first` a block of `x`.
#[inline(always)]
unsafe fn add_run<V: Vnni, F: Avx2Format, const M: usize>(
    (block, first): (*const u8, usize),
    s: usize,
    x: &Blocks,
    sums: &mut [__m256; M],
) {
    // SAFETY: the caller's promises, passed on.
    unsafe {
        let regs = load::<F>(block, s);
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = add_block::<V, F>(&regs, &Block { x, at: first + i }, *sum);
        }
    }
}

/// Rows `rows` times one panel: weights of a run are unpacked once for all rows, sums wait in the tile.
///
/// # Safety
/// As [`single_panels`].
#[inline(always)]
unsafe fn many<V: Vnni, F: Avx2Format>(panel: &[u8], x: &Blocks, rows: Range<usize>, tile: &mut [f32]) {
    let per_block = const { F::DTYPE.block_len() / SUB };
    let size = const { F::DTYPE.block_bytes() * QUANT_ROWS };
    tile.fill(0.0);
    for run in 0..panel.len() / size * per_block {
        // SAFETY: as in `few`.
        unsafe {
            let regs = load::<F>(panel.as_ptr().add(run / per_block * size), run % per_block);
            for (i, out) in rows.clone().zip(tile.as_chunks_mut::<QUANT_ROWS>().0) {
                let x = Block { x, at: run * x.rows + i };
                let sum = add_block::<V, F>(&regs, &x, _mm256_loadu_ps(out.as_ptr()));
                _mm256_storeu_ps(out.as_mut_ptr(), sum);
            }
        }
    }
}

/// One block of one row of the activations.
struct Block<'a, 'b> {
    x: &'a Blocks<'b>,
    /// Its number, which is within bounds: that is what whoever makes one vouches for.
    at: usize,
}

impl Block<'_, '_> {
    /// Integers `4 g .. 4 g + 4`.
    #[inline(always)]
    fn q(&self, g: usize) -> i32 {
        debug_assert!(g < SUB / 4);
        // SAFETY: block `at` has eight groups of four.
        unsafe { self.x.q.as_ptr().add(self.at * SUB).cast::<i32>().add(g).read_unaligned() }
    }

    /// The scale, and scale times the sum of the integers.
    #[inline(always)]
    fn scale_sum(&self) -> [f32; 2] {
        // SAFETY: `at` is a block.
        unsafe { *self.x.scale_sum.get_unchecked(self.at) }
    }

    /// Scale times the sums of the halves.
    #[inline(always)]
    fn halves(&self) -> [f32; 2] {
        // SAFETY: `at` is a block.
        unsafe { *self.x.halves.get_unchecked(self.at) }
    }

    /// What the integer sum starts at: signed weights have been raised by 128.
    #[inline(always)]
    fn start<F: Avx2Format>(&self) -> i32 {
        if F::KIND != Kind::S8 {
            return 0;
        }
        // SAFETY: `at` is a block.
        -128 * unsafe { *self.x.totals.get_unchecked(self.at) }
    }
}

/// Values `32 * sub ..` of eight rows, unsigned.
///
/// # Safety
/// As [`Avx2Format::load`].
#[inline(always)]
unsafe fn load<F: Avx2Format>(block: *const u8, sub: usize) -> Regs {
    const { assert!(!(F::HALVES && matches!(F::KIND, Kind::S8)), "no half has a start of its own") };
    // SAFETY: the caller's promises, passed on.
    unsafe {
        let mut regs = F::load(block, sub);
        if F::KIND == Kind::S8 {
            for w in &mut regs.w {
                *w = _mm256_xor_si256(*w, _mm256_set1_epi8(-128));
            }
        }
        regs
    }
}

/// Adds the products of 32 weights of eight rows with a block of activations.
///
/// # Safety
/// As [`single_panels`], and `x` is a block.
#[inline(always)]
unsafe fn add_block<V: Vnni, F: Avx2Format>(regs: &Regs, x: &Block, sum: __m256) -> __m256 {
    // SAFETY: the caller's promises, passed on.
    unsafe {
        let [x_scale, x_sum] = x.scale_sum();
        let scale = |h: usize| _mm256_mul_ps(regs.scale[h], _mm256_set1_ps(x_scale));
        if F::HALVES {
            let [low, high] = x.halves();
            let sum = _mm256_fmadd_ps(dot::<V>(regs, x, 0..4, 0), scale(0), sum);
            let sum = _mm256_fmadd_ps(dot::<V>(regs, x, 4..8, 0), scale(1), sum);
            let sum = _mm256_fmadd_ps(regs.min[0], _mm256_set1_ps(low), sum);
            return _mm256_fmadd_ps(regs.min[1], _mm256_set1_ps(high), sum);
        }
        let sum = _mm256_fmadd_ps(dot::<V>(regs, x, 0..8, x.start::<F>()), scale(0), sum);
        if F::MIN || F::OFFSET != 0 { _mm256_fmadd_ps(regs.min[0], _mm256_set1_ps(x_sum), sum) } else { sum }
    }
}

/// `start` and the products of some groups of four.
///
/// # Safety
/// The extension is there, and `x` is a block.
#[inline(always)]
unsafe fn dot<V: Vnni>(regs: &Regs, x: &Block, groups: Range<usize>, start: i32) -> __m256 {
    // SAFETY: the caller's promises, passed on.
    unsafe {
        let mut sum = _mm256_set1_epi32(start);
        for g in groups {
            sum = V::dpbusd(sum, regs.w[g], _mm256_set1_epi32(x.q(g)));
        }
        _mm256_cvtepi32_ps(sum)
    }
}
