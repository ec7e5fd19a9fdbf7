//! Quantised panels times many rows of int8 activations, with the int8 tiles of AMX.
//!
//! A tile instruction multiplies 16 rows of activations by 32 values of 16 weight rows, which two neighbouring
//! panels hold in just the order that it wants, and leaves 16 x 16 integers. They pass through memory into
//! vectors, where they meet their scales: that costs more than the product itself, so everything else is kept
//! out of the way. The weights of a pair of panels are unpacked once for all rows of a task, and the sums of
//! sixteen rows stay in registers along the whole of `k`.
//!
//! Integer sums are exact, and every lane does the float operations of `quant_avx2` in their order, so
//! results are those of AVX2 to the bit.

// Rows are read as indices of one formula.
#![allow(clippy::needless_range_loop)]

mod tiles;

use self::tiles::{Config, Factors, ROWS, Sums};
use super::activations::Blocks;
use super::quant_vnni::{FEW, Pair, avx512_panels};
use crate::weights::avx2::Avx2Format;
use crate::weights::panel::QUANT_ROWS;
use crate::weights::{Kind, SUB};
use std::arch::x86_64::*;
use std::ops::Range;

/// 32 values of sixteen weight rows and what scales them, as tiles and vectors take them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Unpacked {
    /// Group of four, weight row, neighbour.
    w: [[u8; 64]; 8],
    scale: [[f32; 16]; 2],
    min: [[f32; 16]; 2],
}

impl Unpacked {
    const EMPTY: Unpacked = Unpacked { w: [[0; 64]; 8], scale: [[0.0; 16]; 2], min: [[0.0; 16]; 2] };
}

/// Rows `rows` of the activations times panels of `panel_bytes` each; `tile`: (panels, rows, 8).
///
/// # Safety
/// As [`avx512_panels`], and the system has granted the process the tiles of AMX.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn panels<F: Avx2Format>(
    panels: &[u8],
    panel_bytes: usize,
    x: &Blocks,
    rows: Range<usize>,
    tile: &mut [f32],
    kept: &mut Vec<Unpacked>,
) {
    let count = panels.len() / panel_bytes;
    // A few rows are bound by the reading of weights, which needs no tiles; nor does a panel without a neighbour.
    let paired = if rows.len() > FEW { count / 2 * 2 } else { 0 };
    let (pairs, single) = panels.split_at(paired * panel_bytes);
    let (pair_tiles, single_tiles) = tile.split_at_mut(paired * rows.len() * QUANT_ROWS);
    let runs = panel_bytes / const { F::DTYPE.block_bytes() * QUANT_ROWS } * (F::DTYPE.block_len() / SUB);
    kept.resize(runs, Unpacked::EMPTY);
    // SAFETY: the caller's promises, passed on for an even number of panels and for the ones left.
    unsafe {
        if paired > 0 {
            let tiles = pair_tiles.chunks_exact_mut(2 * rows.len() * QUANT_ROWS);
            for (pair, tile) in pairs.chunks_exact(2 * panel_bytes).zip(tiles) {
                unpack::<F>(pair, panel_bytes, kept);
                multiply::<F>(kept, x, rows.clone(), tile);
            }
            tiles::release();
        }
        if paired < count {
            avx512_panels::<F>(single, panel_bytes, x, rows, single_tiles);
        }
    }
}

/// The weights of two panels, run by run.
///
/// # Safety
/// AVX-512 F, BW, VL and VNNI are there; each panel holds the blocks of as many runs as `out` takes.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn unpack<F: Avx2Format>(pair: &[u8], panel_bytes: usize, out: &mut [Unpacked]) {
    let per_block = const { F::DTYPE.block_len() / SUB };
    let size = const { F::DTYPE.block_bytes() * QUANT_ROWS };
    for (b, out) in out.chunks_exact_mut(per_block).enumerate() {
        for (s, out) in out.iter_mut().enumerate() {
            let block = pair[b * size..].as_ptr();
            // SAFETY: block `b` lies in both panels, run `s` in the block; each array takes one vector.
            unsafe {
                let pair = Pair::new(&F::load(block, s), &F::load(block.add(panel_bytes), s));
                for (w, out) in pair.w.iter().zip(&mut out.w) {
                    _mm512_store_si512(out.as_mut_ptr().cast(), *w);
                }
                for h in 0..if F::HALVES { 2 } else { 1 } {
                    _mm512_store_ps(out.scale[h].as_mut_ptr(), pair.scale[h]);
                    _mm512_store_ps(out.min[h].as_mut_ptr(), pair.min[h]);
                }
            }
        }
    }
}

/// Rows `rows` times one pair; `tile`: (2, rows, 8).
///
/// # Safety
/// AMX is granted, AVX-512 is there, `rows` lies within `x.rows`, and `x` has a block for each run.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply<F: Avx2Format>(runs: &[Unpacked], x: &Blocks, rows: Range<usize>, tile: &mut [f32]) {
    let (low, high) = tile.split_at_mut(rows.len() * QUANT_ROWS);
    let (low, high) = (low.as_chunks_mut::<QUANT_ROWS>().0, high.as_chunks_mut::<QUANT_ROWS>().0);
    let whole = rows.len() / ROWS * ROWS;
    for first in (0..rows.len()).step_by(ROWS) {
        let mut sums = [_mm512_setzero_ps(); ROWS];
        let some = rows.start + first..rows.end.min(rows.start + first + ROWS);
        // SAFETY: these rows are within `rows`, and the tiles are configured for as many.
        unsafe {
            if first == 0 || first == whole {
                tiles::configure(&Config::new(some.len(), F::HALVES));
            }
            if some.len() == ROWS {
                add_runs::<F, false>(runs, x, some, &mut sums);
            } else {
                add_runs::<F, true>(runs, x, some, &mut sums);
            }
        }
        let out = low[first..].iter_mut().zip(&mut high[first..]);
        for (sum, (low, high)) in sums.iter().zip(out) {
            // SAFETY: both outputs have eight values.
            unsafe {
                _mm256_storeu_ps(low.as_mut_ptr(), _mm512_castps512_ps256(*sum));
                _mm256_storeu_ps(high.as_mut_ptr(), super::quant_vnni::high(*sum));
            }
        }
    }
}

/// All runs of up to sixteen rows. The next two products are begun before the last two are scaled: they take
/// longer than the processor can look ahead by itself.
///
/// # Safety
/// As [`multiply`]; the tiles are configured for `rows`, which are sixteen unless `REST`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn add_runs<F: Avx2Format, const REST: bool>(
    runs: &[Unpacked],
    x: &Blocks,
    rows: Range<usize>,
    sums: &mut [__m512; ROWS],
) {
    // Two runs, or the two halves of one.
    let step = const { if F::HALVES { 1 } else { 2 } };
    let mut dots = [[Sums::EMPTY; 2]; 2];
    // SAFETY: the caller's promises, passed on; `at` is the first run of a step.
    unsafe {
        begin::<F>(runs, x, rows.start, 0, &mut dots[0]);
        let mut at = 0;
        let mut turn = 0;
        while at < runs.len() {
            if at + step < runs.len() {
                begin::<F>(runs, x, rows.start, at + step, &mut dots[1 - turn]);
            }
            let these = &dots[turn];
            let count = rows.len();
            let block = |run: usize| run * x.rows + rows.start;
            if F::HALVES {
                add_halves::<REST>(&runs[at], x, block(at), these, count, sums);
            } else {
                add_run::<F, REST>(&runs[at], x, block(at), &these[0], count, sums);
                if let Some(run) = runs.get(at + 1) {
                    add_run::<F, REST>(run, x, block(at + 1), &these[1], count, sums);
                }
            }
            (at, turn) = (at + step, 1 - turn);
        }
    }
}

/// Begins the products of run `at` and its neighbour, or of its halves.
///
/// # Safety
/// As [`add_runs`]; `at` is a run, and `row` the first row.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn begin<F: Avx2Format>(runs: &[Unpacked], x: &Blocks, row: usize, at: usize, out: &mut [Sums; 2]) {
    let signed = const { matches!(F::KIND, Kind::S8) };
    // SAFETY: each run has a block of 32 integers of each row, the rows follow each other; a run's weights have
    // eight groups, a half of them four. A run without a neighbour is multiplied twice, and once for nothing.
    unsafe {
        let factors = |run: usize| {
            let x = x.q.as_ptr().add((run * x.rows + row) * SUB);
            Factors { x, w: runs[run].w.as_ptr() }
        };
        let first = factors(at);
        let second = if F::HALVES {
            Factors { x: first.x.add(SUB / 2), w: first.w.add(4) }
        } else {
            factors((at + 1).min(runs.len() - 1))
        };
        tiles::multiply(first, second, out, signed);
    }
}

/// Scales one product and adds it: the operations of `quant_vnni::add_block`.
///
/// # Safety
/// AVX-512 is there; blocks `at .. at + count` are in `x`, and `count` is sixteen unless `REST`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn add_run<F: Avx2Format, const REST: bool>(
    w: &Unpacked,
    x: &Blocks,
    at: usize,
    dots: &Sums,
    count: usize,
    sums: &mut [__m512; ROWS],
) {
    // SAFETY: the arrays have a vector each; the blocks are in `x`.
    unsafe {
        let (scale, min) = (_mm512_load_ps(w.scale[0].as_ptr()), _mm512_load_ps(w.min[0].as_ptr()));
        let x = x.scale_sum.as_ptr().add(at);
        for i in 0..if REST { count } else { ROWS } {
            let [x_scale, x_sum] = *x.add(i);
            let sum = _mm512_fmadd_ps(dots.row(i), _mm512_mul_ps(scale, _mm512_set1_ps(x_scale)), sums[i]);
            let min_too = F::MIN || F::OFFSET != 0;
            sums[i] = if min_too { _mm512_fmadd_ps(min, _mm512_set1_ps(x_sum), sum) } else { sum };
        }
    }
}

/// The same for a format whose halves have scales of their own.
///
/// # Safety
/// As [`add_run`].
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn add_halves<const REST: bool>(
    w: &Unpacked,
    x: &Blocks,
    at: usize,
    [low, high]: &[Sums; 2],
    count: usize,
    sums: &mut [__m512; ROWS],
) {
    // SAFETY: the arrays have a vector each; the blocks are in `x`.
    unsafe {
        let scale = [0, 1].map(|h| _mm512_load_ps(w.scale[h].as_ptr()));
        let min = [0, 1].map(|h| _mm512_load_ps(w.min[h].as_ptr()));
        for i in 0..if REST { count } else { ROWS } {
            let x_scale = _mm512_set1_ps(x.scale_sum.get_unchecked(at + i)[0]);
            let halves = x.halves.get_unchecked(at + i).map(|sum| _mm512_set1_ps(sum));
            let sum = _mm512_fmadd_ps(low.row(i), _mm512_mul_ps(scale[0], x_scale), sums[i]);
            let sum = _mm512_fmadd_ps(high.row(i), _mm512_mul_ps(scale[1], x_scale), sum);
            let sum = _mm512_fmadd_ps(min[0], halves[0], sum);
            sums[i] = _mm512_fmadd_ps(min[1], halves[1], sum);
        }
    }
}
