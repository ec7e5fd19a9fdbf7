//! Six rows against one tile: the inner kernels of prefill.
//!
//! Six rows by sixteen columns are twelve accumulators, which with two vectors of the tile and one broadcast query
//! fill fifteen of the sixteen registers: 96 multiply-adds for 8 loads.

// Registers are arrays here, and rows, vectors and slots are read as indices of one formula.
#![allow(clippy::needless_range_loop)]

use super::block512;
use super::simd::*;
use super::softmax::{Softmax, soften};
use super::tile::{Sixteen, Tile};
use std::arch::x86_64::*;
use std::ops::Range;

/// Slots a tile: with 64 channels its keys and its values are 16 KiB each.
pub(super) const TILE: usize = 64;
/// Rows that meet a tile together.
pub(super) const ROWS: usize = 6;

/// Logits, then weights, of a block against a tile.
pub(super) type Weights = [[f32; TILE]; ROWS];

/// Adds a tile, whose first slot is `first`, to a block of `ranges.len()` rows.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn meet(
    softmax: &mut Softmax,
    tile: &Tile,
    (queries, sums): (&[f32], &mut [f32]),
    ranges: &[Range<usize>],
    (first, softcap): (usize, Option<f32>),
) {
    let Some(block) = Block::seen(ranges, first) else { return };
    let job = Job { tile, queries: queries.as_chunks().0, block: &block, softcap };
    let sums = sums.as_chunks_mut::<16>().0.as_chunks_mut::<ROWS>().0;
    match ranges.len() {
        1 => rows::<1>(&job, softmax, sums),
        2 => rows::<2>(&job, softmax, sums),
        3 => rows::<3>(&job, softmax, sums),
        4 => rows::<4>(&job, softmax, sums),
        5 => rows::<5>(&job, softmax, sums),
        _ => rows::<6>(&job, softmax, sums),
    }
}

/// What a block's rows see of a tile.
pub(super) struct Block {
    /// Slots of the tile that each row sees.
    pub seen: [Range<usize>; ROWS],
    /// Slots that any row sees.
    pub used: Range<usize>,
}

impl Block {
    /// `ranges` are the slots each row sees of the whole cache, `first` is the tile's first; none if it is all hidden.
    pub fn seen(ranges: &[Range<usize>], first: usize) -> Option<Block> {
        let clip = |slot: usize| slot.clamp(first, first + TILE) - first;
        let mut seen: [Range<usize>; ROWS] = Default::default();
        for (seen, range) in seen.iter_mut().zip(ranges) {
            *seen = clip(range.start)..clip(range.end).max(clip(range.start));
        }
        let seeing = || seen.iter().filter(|s| !s.is_empty());
        let (start, end) = (seeing().map(|s| s.start).min()?, seeing().map(|s| s.end).max()?);
        Some(Block { used: start..end, seen })
    }
}

struct Job<'a> {
    tile: &'a Tile,
    queries: &'a [[f32; ROWS]],
    block: &'a Block,
    softcap: Option<f32>,
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows<const R: usize>(job: &Job, softmax: &mut Softmax, sums: &mut [[[f32; 16]; ROWS]]) {
    let mut weights: Weights = [[0.0; TILE]; ROWS];
    all_logits::<R>(job.block, job.tile, job.queries, &mut weights);
    let decay = soften::<R, TILE>(softmax, &mut weights, TILE, &job.block.seen, job.softcap);
    if job.tile.wide {
        // SAFETY: a tile is wide only where the processor has AVX-512.
        return unsafe { block512::mix_all::<R>(&weights, job.tile, job.block.used.clone(), &decay, sums) };
    }
    for (values, sums) in job.tile.values.as_chunks::<TILE>().0.iter().zip(sums) {
        mix::<R>(&weights, values, job.block.used.clone(), (&decay, sums));
    }
}

/// The logits alone of the first `rows` rows of a block, before any softcap; slots that no row sees may keep what was
/// there. A row's bits are those it has in [`meet`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn logits_of(block: &Block, rows: usize, tile: &Tile, queries: &[f32], to: &mut Weights) {
    let queries = queries.as_chunks().0;
    match rows {
        1 => all_logits::<1>(block, tile, queries, to),
        2 => all_logits::<2>(block, tile, queries, to),
        3 => all_logits::<3>(block, tile, queries, to),
        4 => all_logits::<4>(block, tile, queries, to),
        5 => all_logits::<5>(block, tile, queries, to),
        _ => all_logits::<6>(block, tile, queries, to),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn all_logits<const R: usize>(block: &Block, tile: &Tile, queries: &[[f32; ROWS]], to: &mut Weights) {
    if tile.wide {
        // SAFETY: a tile is wide only where the processor has AVX-512.
        return unsafe { block512::all_logits::<R>(block, tile, queries, to) };
    }
    let panels = tile.keys.chunks_exact(tile.key_dim.max(1)).enumerate();
    for (panel, keys) in panels.take(block.used.end.div_ceil(16)).skip(block.used.start / 16) {
        logits::<R>(queries, keys, to, panel);
    }
}

/// `weights[r][16 panel + j] = query r · key j` for sixteen keys.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn logits<const R: usize>(queries: &[[f32; ROWS]], keys: &[Sixteen], weights: &mut Weights, panel: usize) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for (q, k) in queries.iter().zip(keys) {
        let (a, b) = halves(&k.0);
        for r in 0..R {
            let q = _mm256_set1_ps(q[r]);
            sums[r] = [_mm256_fmadd_ps(q, a, sums[r][0]), _mm256_fmadd_ps(q, b, sums[r][1])];
        }
    }
    for r in 0..R {
        let to = &mut weights[r].as_chunks_mut::<8>().0[2 * panel..][..2];
        store(&mut to[0], sums[r][0]);
        store(&mut to[1], sums[r][1]);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn halves(x: &[f32; 16]) -> (__m256, __m256) {
    let x = x.as_chunks::<8>().0;
    (load(&x[0]), load(&x[1]))
}

/// `sums[r] = sums[r] * decay[r] + sum over the used slots of weights[r][slot] * value slot`, sixteen channels.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn mix<const R: usize>(
    weights: &Weights,
    values: &[Sixteen; TILE],
    used: Range<usize>,
    (decay, sums): (&[f32; 8], &mut [[f32; 16]; ROWS]),
) {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    for r in 0..R {
        let (decay, (a, b)) = (_mm256_set1_ps(decay[r]), halves(&sums[r]));
        acc[r] = [_mm256_mul_ps(decay, a), _mm256_mul_ps(decay, b)];
    }
    for slot in used.start..used.end.min(TILE) {
        let (a, b) = halves(&values[slot].0);
        for r in 0..R {
            let w = _mm256_set1_ps(weights[r][slot]);
            acc[r] = [_mm256_fmadd_ps(w, a, acc[r][0]), _mm256_fmadd_ps(w, b, acc[r][1])];
        }
    }
    for r in 0..R {
        let to = sums[r].as_chunks_mut::<8>().0;
        store(&mut to[0], acc[r][0]);
        store(&mut to[1], acc[r][1]);
    }
}
