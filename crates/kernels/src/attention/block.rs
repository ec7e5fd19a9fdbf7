//! Six rows against one tile: the inner kernels of prefill.
//!
//! Six rows by sixteen columns are twelve accumulators, which with two vectors of the tile and one broadcast query
//! fill fifteen of the sixteen registers: 96 multiply-adds for 8 loads.

// Registers are arrays here, and rows, vectors and slots are read as indices of one formula.
#![allow(clippy::needless_range_loop)]

use super::dots::inside;
use super::simd::*;
use super::tile::Tile;
use std::arch::x86_64::*;
use std::ops::Range;

/// Slots a tile: with 64 channels its keys and its values are 16 KiB each.
pub(super) const TILE: usize = 64;
/// Rows that meet a tile together.
pub(super) const ROWS: usize = 6;

/// Logits, then weights, of a block against a tile.
type Weights = [[f32; TILE]; ROWS];

/// The softmax of up to [`ROWS`] rows so far.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Largest logit of each row, in units of log 2.
    top: [f32; 8],
    /// Sum of `2^(logit - top)` of each row, still spread over eight lanes.
    sums: [[f32; 8]; ROWS],
}

impl Default for Block {
    fn default() -> Block {
        Block { top: [f32::NEG_INFINITY; 8], sums: [[0.0; 8]; ROWS] }
    }
}

impl Block {
    /// The sum of weights of a row, and the natural logarithm of its sum of exponentials.
    pub fn total(&self, row: usize) -> (f32, f32) {
        let total: f32 = self.sums[row].iter().sum();
        let log = (self.top[row] + total.log2()) * std::f32::consts::LN_2;
        (total, if total == 0.0 { f32::NEG_INFINITY } else { log })
    }
}

/// Adds a tile, whose first slot is `first`, to a block of `ranges.len()` rows.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn meet(
    block: &mut Block,
    tile: &Tile,
    (queries, sums): (&[f32], &mut [f32]),
    ranges: &[Range<usize>],
    (first, softcap): (usize, Option<f32>),
) {
    let clip = |slot: usize| slot.clamp(first, first + TILE) - first;
    let mut seen: [Range<usize>; ROWS] = Default::default();
    for (seen, range) in seen.iter_mut().zip(ranges) {
        *seen = clip(range.start)..clip(range.end).max(clip(range.start));
    }
    let seeing = || seen.iter().filter(|s| !s.is_empty());
    let (Some(start), Some(end)) = (seeing().map(|s| s.start).min(), seeing().map(|s| s.end).max()) else {
        return;
    };
    let job = Job { tile, queries: queries.as_chunks().0, seen: &seen, used: start..end, softcap };
    let sums = sums.as_chunks_mut::<16>().0.as_chunks_mut::<ROWS>().0;
    match ranges.len() {
        1 => rows::<1>(&job, block, sums),
        2 => rows::<2>(&job, block, sums),
        3 => rows::<3>(&job, block, sums),
        4 => rows::<4>(&job, block, sums),
        5 => rows::<5>(&job, block, sums),
        _ => rows::<6>(&job, block, sums),
    }
}

struct Job<'a> {
    tile: &'a Tile,
    queries: &'a [[f32; ROWS]],
    /// Slots of the tile that each row sees.
    seen: &'a [Range<usize>; ROWS],
    /// Slots that any row sees.
    used: Range<usize>,
    softcap: Option<f32>,
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows<const R: usize>(job: &Job, block: &mut Block, sums: &mut [[[f32; 16]; ROWS]]) {
    let mut weights: Weights = [[0.0; TILE]; ROWS];
    let panels = job.tile.keys.as_chunks::<16>().0.chunks_exact(job.tile.key_dim.max(1)).enumerate();
    for (panel, keys) in panels.take(job.used.end.div_ceil(16)).skip(job.used.start / 16) {
        logits::<R>(job.queries, keys, &mut weights, panel);
    }
    let decay = soften::<R>(job, block, &mut weights);
    for (values, sums) in job.tile.values.as_chunks::<16>().0.as_chunks::<TILE>().0.iter().zip(sums) {
        mix::<R>(&weights, values, job.used.clone(), (&decay, sums));
    }
}

/// `weights[r][16 panel + j] = query r · key j` for sixteen keys.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn logits<const R: usize>(queries: &[[f32; ROWS]], keys: &[[f32; 16]], weights: &mut Weights, panel: usize) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for (q, k) in queries.iter().zip(keys) {
        let (a, b) = halves(k);
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

/// Logits to weights `2^(logit - top)`, zero for slots a row does not see. Returns what the earlier sums of each row
/// are to be multiplied by, because its largest logit may have grown.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn soften<const R: usize>(job: &Job, block: &mut Block, weights: &mut Weights) -> [f32; 8] {
    let hidden = _mm256_set1_ps(f32::NEG_INFINITY);
    let mut tops = [hidden; 8];
    for r in 0..R {
        let vectors = weights[r].as_chunks_mut::<8>().0;
        if let Some(cap) = job.softcap {
            for v in vectors.iter_mut() {
                let x = _mm256_mul_ps(_mm256_set1_ps(cap * LOG2E), tanh(load(v)));
                store(v, x);
            }
        }
        if job.seen[r] != (0..TILE) {
            for (i, v) in vectors.iter_mut().enumerate() {
                let x = _mm256_blendv_ps(hidden, load(v), inside(8 * i, &job.seen[r]));
                store(v, x);
            }
        }
        for v in vectors.iter() {
            tops[r] = _mm256_max_ps(tops[r], load(v));
        }
    }
    let old = load(&block.top);
    let new = _mm256_max_ps(old, largest(&tops));
    store(&mut block.top, new);
    // A row that has seen nothing yet has top = minus infinity; zero in its place keeps 2^(-inf - top) zero, not NaN.
    let base = _mm256_blendv_ps(new, _mm256_setzero_ps(), _mm256_cmp_ps::<_CMP_EQ_OQ>(new, hidden));
    let mut decay = [0.0; 8];
    store(&mut decay, exp2(_mm256_sub_ps(old, base)));
    let mut bases = [0.0; 8];
    store(&mut bases, base);
    for r in 0..R {
        let (base, mut sum) = (_mm256_set1_ps(bases[r]), _mm256_setzero_ps());
        for v in weights[r].as_chunks_mut::<8>().0 {
            let weight = exp2(_mm256_sub_ps(load(v), base));
            sum = _mm256_add_ps(sum, weight);
            store(v, weight);
        }
        let total = _mm256_fmadd_ps(load(&block.sums[r]), _mm256_set1_ps(decay[r]), sum);
        store(&mut block.sums[r], total);
    }
    decay
}

/// `sums[r] = sums[r] * decay[r] + sum over the used slots of weights[r][slot] * value slot`, sixteen channels.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn mix<const R: usize>(
    weights: &Weights,
    values: &[[f32; 16]; TILE],
    used: Range<usize>,
    (decay, sums): (&[f32; 8], &mut [[f32; 16]; ROWS]),
) {
    let mut acc = [[_mm256_setzero_ps(); 2]; R];
    for r in 0..R {
        let (decay, (a, b)) = (_mm256_set1_ps(decay[r]), halves(&sums[r]));
        acc[r] = [_mm256_mul_ps(decay, a), _mm256_mul_ps(decay, b)];
    }
    for slot in used.start..used.end.min(TILE) {
        let (a, b) = halves(&values[slot]);
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
