//! The vector path: tiles of keys and blocks of rows as in `prefill`, but turned by a quarter.
//!
//! A task is a run of slots of one kv head and owns their columns. It converts a tile of keys once and meets all rows
//! of the head with it, six at a time; what they weigh is added up in the first-level cache. Rows are sorted by query
//! head, then query, so a column's weights are added in the order of the queries whatever the blocks, the pieces a
//! prompt comes in, and the threads.

use super::super::block::{self, Block, ROWS, TILE};
use super::super::decode::{INLINE_WORK, query_factor};
use super::super::simd::*;
use super::super::softmax::{capped, inside};
use super::super::tile::{self, Tile};
use super::super::{AttendScratch, Shape, visible};
use super::{Columns, Reduce};
use crate::isa::Isa;
use crate::pool::Pool;
use std::arch::x86_64::*;
use std::ops::Range;

/// Tasks a thread, so that columns that few queries see and those that all see even out.
const TASKS: usize = 6;

/// See [`super::attention_columns`]; lengths have been checked, and the processor has AVX2.
pub(super) fn add(
    pool: &Pool,
    isa: Isa,
    columns: &Columns,
    shape: &Shape,
    out: &mut [Vec<f32>],
    scratch: &mut AttendScratch,
) {
    let input = columns.input;
    lay_out_queries(pool, columns, shape, &mut scratch.queries);
    scratch.ranges.clear();
    for head in input.heads {
        let seen = input.q_positions.iter().map(|&q| visible(head.positions, q, input.params.window));
        scratch.ranges.extend(seen);
    }
    let slots: usize = input.heads.iter().map(|h| h.positions.len()).sum();
    let cut = slots.div_ceil(TASKS * pool.threads()).next_multiple_of(TILE).max(TILE);
    let (mut tasks, mut pieces) = (vec![], vec![]);
    for (head, rows) in out.chunks_mut(shape.group).enumerate() {
        let mut rows: Vec<_> = rows.iter_mut().map(|row| row.chunks_mut(cut)).collect();
        for first in (0..input.heads[head].positions.len()).step_by(cut) {
            tasks.push((head, first));
            pieces.extend(rows.iter_mut().filter_map(Iterator::next));
        }
    }
    let per_head = scratch.queries.len() / input.heads.len();
    let run = |i: usize, rows: &mut [&mut [f32]]| {
        let (head, first) = tasks[i];
        let queries = &scratch.queries[head * per_head..][..per_head];
        let ranges = &scratch.ranges[head * shape.m..][..shape.m];
        let task = Task { columns, shape, head, first, queries, ranges, wide: isa.runs_avx512() };
        // SAFETY: this path is only taken where the processor has AVX2, FMA and F16C.
        unsafe {
            match columns.reduce {
                Reduce::Sum => task.run::<false>(rows),
                Reduce::Max => task.run::<true>(rows),
            }
        }
    };
    if slots * shape.m * shape.group * shape.key_dim < INLINE_WORK {
        pieces.chunks_mut(shape.group).enumerate().for_each(|(i, rows)| run(i, rows));
    } else {
        pool.chunks(&mut pieces, shape.group, run);
    }
}

/// Scaled queries by kv head, as the blocks want them: (kv_heads, blocks, key_dim, ROWS).
fn lay_out_queries(pool: &Pool, columns: &Columns, shape: &Shape, queries: &mut Vec<f32>) {
    let (input, depth) = (columns.input, shape.key_dim);
    let rows = shape.m * shape.group;
    let blocks = rows.div_ceil(ROWS);
    let factor = query_factor(input);
    queries.clear();
    queries.resize(input.heads.len() * blocks * depth * ROWS, 0.0);
    pool.chunks(queries, blocks * depth * ROWS, |head, queries| {
        for (at, block) in queries.chunks_exact_mut(depth * ROWS).enumerate() {
            for row in at * ROWS..((at + 1) * ROWS).min(rows) {
                let from = place(columns, shape, head, row) * depth;
                for (to, q) in block[row % ROWS..].iter_mut().step_by(ROWS).zip(&input.q[from..from + depth]) {
                    *to = q * factor;
                }
            }
        }
    });
}

/// The place of a kv head's row `(group, m)` among all (query, query head) pairs.
fn place(columns: &Columns, shape: &Shape, head: usize, row: usize) -> usize {
    row % shape.m * columns.input.q_heads + head * shape.group + row / shape.m
}

/// The columns of one kv head from slot `first` on.
struct Task<'a> {
    columns: &'a Columns<'a>,
    shape: &'a Shape,
    head: usize,
    first: usize,
    /// (blocks, key_dim, ROWS)
    queries: &'a [f32],
    /// (m): the slots each query sees.
    ranges: &'a [Range<usize>],
    /// Whether AVX-512 may be used.
    wide: bool,
}

impl Task<'_> {
    /// `rows`: the task's part of the group's rows.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run<const MAX: bool>(&self, rows: &mut [&mut [f32]]) {
        let view = &self.columns.input.heads[self.head];
        let count = rows.first().map_or(0, |row| row.len());
        let mut tile = Tile { wide: self.wide, ..Tile::default() };
        let mut sums = vec![[0.0; TILE]; rows.len()];
        for at in (0..count).step_by(TILE) {
            let (first, width) = (self.first + at, TILE.min(count - at));
            if !self.ranges.iter().any(|r| r.start < first + width && r.end > first) {
                continue;
            }
            tile::load_keys(&mut tile, view, first..first + width);
            for (sums, row) in sums.iter_mut().zip(&*rows) {
                sums[..width].copy_from_slice(&row[at..at + width]);
            }
            self.meet::<MAX>(&tile, first, &mut sums);
            for (sums, row) in sums.iter().zip(&mut *rows) {
                row[at..at + width].copy_from_slice(&sums[..width]);
            }
        }
    }

    /// All rows against a tile whose first slot is `first`; `sums` is (group, TILE).
    #[target_feature(enable = "avx2,fma,f16c")]
    fn meet<const MAX: bool>(&self, tile: &Tile, first: usize, sums: &mut [[f32; TILE]]) {
        let rows = self.shape.m * self.shape.group;
        let blocks = self.queries.chunks_exact((self.shape.key_dim * ROWS).max(1));
        let mut logits = [[0.0; TILE]; ROWS];
        let mut ranges: [Range<usize>; ROWS] = Default::default();
        for (block, queries) in blocks.enumerate() {
            let rows = block * ROWS..((block + 1) * ROWS).min(rows);
            for (range, row) in ranges.iter_mut().zip(rows.clone()) {
                *range = self.ranges[row % self.shape.m].clone();
            }
            let Some(block) = Block::seen(&ranges[..rows.len()], first) else { continue };
            block::logits_of(&block, rows.len(), tile, queries, &mut logits);
            for (r, row) in rows.enumerate() {
                if !block.seen[r].is_empty() {
                    let sums = &mut sums[row / self.shape.m];
                    self.weigh::<MAX>(&logits[r], &block.seen[r], row, sums);
                }
            }
        }
    }

    /// Puts one row's weights into its columns.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn weigh<const MAX: bool>(&self, logits: &[f32; TILE], seen: &Range<usize>, row: usize, sums: &mut [f32; TILE]) {
        let columns = self.columns;
        let lse = _mm256_set1_ps(columns.lse[place(columns, self.shape, self.head, row)] * LOG2E);
        let weight = _mm256_set1_ps(columns.weights.map_or(1.0, |w| w[row % self.shape.m]));
        let hidden = _mm256_set1_ps(if MAX { f32::NEG_INFINITY } else { 0.0 });
        let vectors = seen.start / 8..seen.end.div_ceil(8);
        let (logits, sums) = (&logits.as_chunks().0[vectors.clone()], &mut sums.as_chunks_mut().0[vectors.clone()]);
        let whole = seen.start.is_multiple_of(8) && seen.end.is_multiple_of(8);
        for ((i, x), sum) in vectors.zip(logits).zip(sums) {
            let mut x = load(x);
            if let Some(cap) = columns.input.params.softcap {
                x = capped(x, cap);
            }
            // The upper limit keeps 2^x finite; an operand that is NaN comes through as the second one.
            let x = _mm256_min_ps(_mm256_set1_ps(127.0), _mm256_sub_ps(x, lse));
            let mut mass = _mm256_mul_ps(weight, exp2(x));
            if !whole {
                mass = _mm256_blendv_ps(hidden, mass, inside(8 * i, seen));
            }
            let old = load(sum);
            let added = _mm256_add_ps(old, mass);
            if MAX {
                // `max` forgets a NaN, a sum does not.
                let unordered = _mm256_cmp_ps::<_CMP_UNORD_Q>(old, mass);
                store(sum, _mm256_blendv_ps(_mm256_max_ps(old, mass), added, unordered));
            } else {
                store(sum, added);
            }
        }
    }
}
