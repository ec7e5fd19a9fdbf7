//! Many queries against a cache: bound by arithmetic, so everything is arranged around the registers.
//!
//! A task is some rows of one kv head; a row is one query head of one query, and all rows of a kv head are alike, so
//! grouped heads need no code of their own. A task walks over its keys in tiles of [`TILE`] slots. A tile is converted
//! to f32 once, keys transposed, and then meets every row of the task, [`ROWS`] at a time: logits, softmax and the
//! sum of values of such a block stay in the first-level cache, and the softmax is carried from tile to tile.
//!
//! Tiles start at multiples of [`TILE`] slots and a row's arithmetic is the same in every block, so a row's bits
//! depend neither on the rows beside it (hence not on how a prompt is cut into chunks) nor on the threads.

use super::block::{self, ROWS, TILE};
use super::decode::query_factor;
use super::softmax::{Softmax, log_sum};
use super::tile::{self, Tile};
use super::{AttendInput, AttendScratch, HeadView, Shape, visible};
use crate::isa::Isa;
use crate::pool::Pool;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Floats of queries and outputs a task keeps beside the tile: half of a 512 KiB second-level cache.
const TASK_FLOATS: usize = 64 * 1024;
/// Rows a task has at least, where there are that many: converting a tile costs about as much as four rows.
const MIN_ROWS: usize = 24;
/// Rows a task has at most; beyond it the conversion is below 2 %.
const MAX_ROWS: usize = 240;
/// Tasks a thread, so that short and long ones even out.
const TASKS: usize = 6;

/// What one thread needs for its task at hand; kept between calls.
#[derive(Default, Debug)]
pub(super) struct Worker {
    /// (blocks): the softmax of their rows so far.
    blocks: Vec<Softmax>,
    /// (blocks, key_dim, ROWS), scaled.
    queries: Vec<f32>,
    /// (blocks, value panels, ROWS, 16).
    sums: Vec<f32>,
    /// (rows): the slots each row sees.
    ranges: Vec<Range<usize>>,
    tile: Tile,
}

/// Where results go: tasks write disjoint rows of it.
struct Output {
    out: *mut f32,
    lse: Option<*mut f32>,
}

// SAFETY: every row (query, head) belongs to exactly one task, and only that task writes to it.
unsafe impl Sync for Output {}

/// See [`super::attend`]; lengths have been checked, and the processor has AVX2.
pub(super) fn attend(
    pool: &Pool,
    isa: Isa,
    input: &AttendInput,
    shape: &Shape,
    (out, lse): (&mut [f32], Option<&mut [f32]>),
    scratch: &mut AttendScratch,
) {
    let rows = shape.m * shape.group;
    let per_task = rows_per_task(pool.threads(), input, shape);
    let (heads, cuts) = (input.heads.len(), rows.div_ceil(per_task));
    let output = Output { out: out.as_mut_ptr(), lse: lse.map(|l| l.as_mut_ptr()) };
    let next = AtomicUsize::new(0);
    scratch.workers.resize_with(pool.threads().max(scratch.workers.len()), Worker::default);
    let workers = &mut scratch.workers[..pool.threads().min(heads * cuts)];
    pool.chunks(workers, 1, |_, workers| {
        for worker in workers {
            worker.tile.wide = isa.runs_avx512();
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= heads * cuts {
                    break;
                }
                // The last rows see the most keys; starting with them leaves the short tasks for the end.
                let (head, cut) = (task % heads, cuts - 1 - task / heads);
                let rows = cut * per_task..((cut + 1) * per_task).min(rows);
                let task = Task { input, shape, head, rows };
                // SAFETY: this path is only taken where the processor has AVX2, FMA and F16C; tasks are distinct, so
                // their rows of the output are.
                unsafe {
                    worker.run(&task);
                    worker.write(&task, &output);
                }
            }
        }
    });
}

/// Changes no result, see the top; so it may look at the number of threads.
fn rows_per_task(threads: usize, input: &AttendInput, shape: &Shape) -> usize {
    let rows = shape.m * shape.group;
    let fitting = TASK_FLOATS / (shape.key_dim + shape.value_dim).max(1);
    let even = (rows * input.heads.len()).div_ceil(TASKS * threads);
    even.min(fitting).clamp(MIN_ROWS, MAX_ROWS).next_multiple_of(ROWS)
}

/// Rows `rows` of kv head `head`; row `r` is query `r / group`, query head `r % group` of the kv head's.
struct Task<'a> {
    input: &'a AttendInput<'a>,
    shape: &'a Shape,
    head: usize,
    rows: Range<usize>,
}

impl Task<'_> {
    fn view(&self) -> &HeadView<'_> {
        &self.input.heads[self.head]
    }

    /// The row's place among all (query, query head) pairs.
    fn place(&self, row: usize) -> usize {
        let group = self.shape.group;
        row / group * self.input.q_heads + self.head * group + row % group
    }
}

impl Worker {
    /// Leaves the unnormalised outputs of the task's rows in `sums` and their softmax state in `blocks`.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run(&mut self, task: &Task) {
        let Some(seen) = self.prepare(task) else { return };
        let (view, params) = (task.view(), &task.input.params);
        let panels = task.shape.value_dim.div_ceil(16);
        let depth = task.shape.key_dim;
        for first in (seen.start / TILE * TILE..seen.end).step_by(TILE) {
            let slots = first..(first + TILE).min(view.positions.len());
            tile::load_keys(&mut self.tile, view, slots.clone());
            if panels > 0 {
                tile::load_values(&mut self.tile, view, slots);
            }
            let queries = self.queries.chunks_exact((depth * ROWS).max(1));
            let blocks = self.blocks.iter_mut().zip(queries).zip(self.ranges.chunks(ROWS));
            for (i, ((block, queries), ranges)) in blocks.enumerate() {
                let sums = &mut self.sums[i * panels * ROWS * 16..][..panels * ROWS * 16];
                block::meet(block, &self.tile, (queries, sums), ranges, (first, params.softcap));
            }
        }
    }

    /// Lays the task's rows out in blocks; returns the slots that any of them sees.
    fn prepare(&mut self, task: &Task) -> Option<Range<usize>> {
        let (input, shape) = (task.input, task.shape);
        let blocks = task.rows.len().div_ceil(ROWS);
        self.blocks.clear();
        self.blocks.resize(blocks, Softmax::default());
        self.sums.clear();
        self.sums.resize(blocks * shape.value_dim.div_ceil(16) * ROWS * 16, 0.0);
        self.queries.clear();
        self.queries.resize(blocks * shape.key_dim * ROWS, 0.0);
        self.ranges.clear();
        let factor = query_factor(input);
        let mut last: Option<(usize, Range<usize>)> = None;
        for (at, row) in task.rows.clone().enumerate() {
            let from = task.place(row) * shape.key_dim;
            let block = &mut self.queries[at / ROWS * ROWS * shape.key_dim..];
            for (to, q) in block[at % ROWS..].iter_mut().step_by(ROWS).zip(&input.q[from..from + shape.key_dim]) {
                *to = q * factor;
            }
            let query = row / shape.group;
            let range = match last {
                Some((same, range)) if same == query => range,
                _ => visible(task.view().positions, input.q_positions[query], input.params.window),
            };
            self.ranges.push(range.clone());
            last = Some((query, range));
        }
        let seen = self.ranges.iter().filter(|r| !r.is_empty());
        let start = seen.clone().map(|r| r.start).min()?;
        Some(start..seen.map(|r| r.end).max()?)
    }

    /// Normalises the task's rows into their places.
    ///
    /// # Safety
    /// `output` must have the sizes that were checked, and no other task may write the rows of this one.
    unsafe fn write(&self, task: &Task, output: &Output) {
        let dim = task.shape.value_dim;
        let panels = dim.div_ceil(16);
        for (at, row) in task.rows.clone().enumerate() {
            let (top, total) = self.blocks[at / ROWS].total(at % ROWS);
            let place = task.place(row);
            // SAFETY: place < m * q_heads, and this row is ours by the caller's promise.
            let out = unsafe { std::slice::from_raw_parts_mut(output.out.add(place * dim), dim) };
            let sums = &self.sums[at / ROWS * panels * ROWS * 16..][..panels * ROWS * 16];
            for (panel, out) in out.chunks_mut(16).enumerate() {
                for (o, s) in out.iter_mut().zip(&sums[(panel * ROWS + at % ROWS) * 16..]) {
                    *o = if total == 0.0 { 0.0 } else { s / total };
                }
            }
            if let Some(lse) = output.lse {
                // SAFETY: as above.
                unsafe { *lse.add(place) = log_sum((top, total)) };
            }
        }
    }
}
