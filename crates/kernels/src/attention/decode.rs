//! Few queries against a long cache: bound by memory, so every key and value is read once.
//!
//! All query rows of a kv head (its group, times the queries) share each read. The slots are cut into runs of
//! [`RUN`], whatever the number of threads, so that one query keeps all cores busy (Dao et al., Flash-Decoding, 2023):
//! a task is one run of one head and leaves, for each row, its largest logit, its sum and its unnormalised output.
//! They are merged in slot order, so the bits depend on neither threads nor chance.

use super::dots::{self, RunJob};
use super::simd::LOG2E;
use super::softmax::log_sum;
use super::{AttendInput, AttendScratch, Shape, visible};
use crate::pool::Pool;
use std::ops::Range;

/// Slots a task: 64 KiB of f16 keys and values with 64 channels, about 5 microseconds.
pub(super) const RUN: usize = 256;
/// Query rows that go through a run together; four times two slots is what the registers hold.
pub(super) const BLOCK: usize = 4;
/// Floats behind a row's partial output: largest logit and sum, padded to a vector.
pub(super) const STATE: usize = 8;
/// Multiplications below which waking other threads costs more than it saves.
pub(super) const INLINE_WORK: usize = 1 << 17;

/// Which slots of a head one task reads.
#[derive(Clone, Debug)]
pub(super) struct Task {
    head: usize,
    slots: Range<usize>,
}

/// See [`super::attend`]; lengths have been checked, and the processor has AVX2.
pub(super) fn attend(
    pool: &Pool,
    input: &AttendInput,
    shape: &Shape,
    (out, lse): (&mut [f32], Option<&mut [f32]>),
    scratch: &mut AttendScratch,
) {
    let rows = shape.m * shape.group;
    let (key_width, value_width) = (shape.key_dim.next_multiple_of(8), shape.value_dim.next_multiple_of(8));
    scale_queries(input, shape, key_width, &mut scratch.queries);
    plan(input, &mut scratch.ranges, &mut scratch.tasks);
    let stride = value_width + STATE;
    scratch.floats.clear();
    scratch.floats.resize(scratch.tasks.len() * rows * stride, 0.0);

    let (queries, ranges, tasks) = (&scratch.queries, &scratch.ranges, &scratch.tasks);
    let run = |index: usize, partial: &mut [f32]| {
        let task = &tasks[index];
        let job = RunJob {
            head: &input.heads[task.head],
            queries: &queries[task.head * rows * key_width..][..rows * key_width],
            ranges: &ranges[task.head * shape.m..][..shape.m],
            group: shape.group,
            slots: task.slots.clone(),
            softcap: input.params.softcap,
        };
        // SAFETY: this path is only taken where the processor has AVX2, FMA and F16C.
        unsafe { dots::run(&job, partial) }
    };
    let slots: usize = tasks.iter().map(|t| t.slots.len()).sum();
    if slots * rows * (key_width + value_width) < INLINE_WORK {
        scratch.floats.chunks_mut((rows * stride).max(1)).enumerate().for_each(|(i, p)| run(i, p));
    } else {
        pool.chunks(&mut scratch.floats, rows * stride, run);
    }
    merge(input, shape, (out, lse), scratch);
}

/// Queries by kv head, in units that make the logits powers of two. The rows of a head come in blocks of [`BLOCK`] that
/// the kernel keeps together, eight channels of each row in turn: (kv_heads, blocks, key_width / 8, rows, 8).
fn scale_queries(input: &AttendInput, shape: &Shape, key_width: usize, queries: &mut Vec<f32>) {
    let (dim, group, rows) = (shape.key_dim, shape.group, shape.m * shape.group);
    let factor = query_factor(input);
    queries.clear();
    queries.resize(shape.m * input.q_heads * key_width, 0.0);
    for (head, queries) in queries.chunks_exact_mut((rows * key_width).max(1)).enumerate() {
        for row in 0..rows {
            let from = (row / group * input.q_heads + head * group + row % group) * dim;
            let (first, r) = (row / BLOCK * BLOCK, row % BLOCK);
            let together = BLOCK.min(rows - first);
            let block = &mut queries[first * key_width..][..together * key_width];
            let eights = block[8 * r..].chunks_mut(8 * together);
            for (to, from) in eights.zip(input.q[from..from + dim].chunks(8)) {
                for (to, q) in to.iter_mut().zip(from) {
                    *to = q * factor;
                }
            }
        }
    }
}

/// What queries are multiplied by: logits come out in units of log 2, or, under a softcap, as the argument of tanh.
pub(super) fn query_factor(input: &AttendInput) -> f32 {
    match input.params.softcap {
        Some(cap) => input.params.scale / cap,
        None => input.params.scale * LOG2E,
    }
}

/// The slots each query sees, (kv_heads, m), and the tasks that cover them; runs start at multiples of [`RUN`], so a
/// query's sums do not depend on which other queries are in the call.
fn plan(input: &AttendInput, ranges: &mut Vec<Range<usize>>, tasks: &mut Vec<Task>) {
    ranges.clear();
    tasks.clear();
    for (head, view) in input.heads.iter().enumerate() {
        let first = ranges.len();
        ranges.extend(input.q_positions.iter().map(|&q| visible(view.positions, q, input.params.window)));
        let seen = ranges[first..].iter().filter(|r| !r.is_empty());
        let start = seen.clone().map(|r| r.start).min().unwrap_or(0);
        let end = seen.map(|r| r.end).max().unwrap_or(0);
        let runs = (start / RUN..end.div_ceil(RUN)).filter(|_| start < end);
        tasks.extend(runs.map(|run| Task { head, slots: run * RUN..((run + 1) * RUN).min(end) }));
    }
}

/// Joins the partial results of each row, in slot order.
fn merge(
    input: &AttendInput,
    shape: &Shape,
    (out, mut lse): (&mut [f32], Option<&mut [f32]>),
    scratch: &AttendScratch,
) {
    let (rows, dim) = (shape.m * shape.group, shape.value_dim);
    let stride = dim.next_multiple_of(8) + STATE;
    let mut first = 0;
    for head in 0..input.heads.len() {
        let count = scratch.tasks[first..].iter().take_while(|t| t.head == head).count();
        let parts = &scratch.floats[first * rows * stride..][..count * rows * stride];
        first += count;
        for row in 0..rows {
            let at = row / shape.group * input.q_heads + head * shape.group + row % shape.group;
            let parts = parts.chunks_exact(rows * stride).map(|part| &part[row * stride..][..stride]);
            let log = merge_row(parts, &mut out[at * dim..][..dim]);
            if let Some(lse) = &mut lse {
                lse[at] = log;
            }
        }
    }
}

fn merge_row<'a>(parts: impl Iterator<Item = &'a [f32]> + Clone, out: &mut [f32]) -> f32 {
    // The state of a part sits behind its padded output.
    let state = |part: &[f32]| (part[part.len() - STATE], part[part.len() - STATE + 1]);
    let largest = parts.clone().map(|p| state(p).0).fold(f32::NEG_INFINITY, f32::max);
    out.fill(0.0);
    let mut total = 0.0;
    for part in parts {
        let (top, sum) = state(part);
        if sum == 0.0 {
            continue; // this run holds no slot that the row sees
        }
        let weight = (top - largest).exp2();
        total += weight * sum;
        for (o, v) in out.iter_mut().zip(part) {
            *o += weight * v;
        }
    }
    if total != 0.0 {
        out.iter_mut().for_each(|o| *o /= total);
    }
    log_sum((largest, total))
}
