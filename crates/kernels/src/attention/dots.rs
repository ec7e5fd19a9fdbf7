//! The vector kernels of the decode path: one run of one head against all its query rows.
//!
//! Up to four rows go through a run together. Keys: two slots at a time against every row, eight slots' sums across
//! lanes at once. Values: a few vectors of channels are kept in registers while the slots of a page pass by. Stored
//! values are converted as they are loaded and never written back.

// Registers are arrays here, and rows, vectors and slots are read as indices of one formula.
#![allow(clippy::needless_range_loop)]

use super::decode::{BLOCK, RUN, STATE};
use super::rows::{Half, Rows, segments};
use super::simd::*;
use super::{HeadView, KvType};
use std::arch::x86_64::*;
use std::ops::Range;

/// One task: `slots` of `head` against rows `(m, group)`.
pub(super) struct RunJob<'a> {
    pub head: &'a HeadView<'a>,
    /// Scaled, in blocks of up to four rows: (blocks, key_width / 8, rows of the block, 8).
    pub queries: &'a [f32],
    /// (m): what each query sees.
    pub ranges: &'a [Range<usize>],
    pub group: usize,
    pub slots: Range<usize>,
    pub softcap: Option<f32>,
}

/// Logits, then weights, of one row; the slack takes whole vectors behind the last slot.
type Weights = [f32; RUN + 8];

/// Writes (rows, value_width + STATE): for each row its unnormalised output, its largest logit and its sum.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run(job: &RunJob, partial: &mut [f32]) {
    let rows = job.ranges.len() * job.group;
    let stride = partial.len() / rows;
    for (block, out) in partial.chunks_mut(BLOCK * stride).enumerate() {
        match out.len() / stride {
            1 => rows_of::<1>(job, BLOCK * block, out),
            2 => rows_of::<2>(job, BLOCK * block, out),
            3 => rows_of::<3>(job, BLOCK * block, out),
            _ => rows_of::<4>(job, BLOCK * block, out),
        }
    }
}

/// Rows `first .. first + R`.
#[target_feature(enable = "avx2,fma,f16c")]
fn rows_of<const R: usize>(job: &RunJob, first: usize, out: &mut [f32]) {
    let mut weights = [[0.0; RUN + 8]; R];
    let layout = &job.head.layout;
    let width = layout.key_dim().next_multiple_of(8);
    let stride = out.len() / R;
    let queries = &job.queries[first * width..][..R * width];
    let queries = queries.as_chunks::<8>().0.as_chunks::<R>().0;

    let mut ahead = segments(job.head, Half::Keys, job.slots.clone()).skip(1);
    for (at, rows) in segments(job.head, Half::Keys, job.slots.clone()) {
        let next = ahead.next().map(|(_, rows)| rows);
        match layout.key_type() {
            KvType::F32 => logits::<F32, R>(rows, next, queries, &mut weights, at),
            KvType::F16 => logits::<F16, R>(rows, next, queries, &mut weights, at),
            KvType::Q8 => logits::<Q8, R>(rows, next, queries, &mut weights, at),
        }
    }
    for r in 0..R {
        let range = &job.ranges[(first + r) / job.group];
        let clip = |slot: usize| slot.clamp(job.slots.start, job.slots.end) - job.slots.start;
        let (top, sum) = soften(&mut weights[r], job.slots.len(), clip(range.start)..clip(range.end), job.softcap);
        let state = r * stride + stride - STATE;
        (out[state], out[state + 1]) = (top, sum);
    }
    let mut ahead = segments(job.head, Half::Values, job.slots.clone()).skip(1);
    for (at, rows) in segments(job.head, Half::Values, job.slots.clone()) {
        let next = ahead.next().map(|(_, rows)| rows);
        match layout.value_type() {
            KvType::F32 => mix::<F32, R>(rows, next, &weights, at, out),
            KvType::F16 => mix::<F16, R>(rows, next, &weights, at, out),
            KvType::Q8 => mix::<Q8, R>(rows, next, &weights, at, out),
        }
    }
}

/// `weights[r][at + slot] = query r · key slot` for the slots of one page.
#[target_feature(enable = "avx2,fma,f16c")]
fn logits<const B: usize, const R: usize>(
    rows: Rows,
    next: Option<Rows>,
    queries: &[[[f32; 8]; R]],
    weights: &mut [Weights; R],
    at: usize,
) {
    assert_eq!(rows.data.len(), rows.count * rows.row_bytes);
    assert_eq!(queries.len(), rows.row_bytes.div_ceil(B));
    let last = rows.count.saturating_sub(1);
    for base in (0..rows.count).step_by(8) {
        if let Some(next) = next {
            prefetch(next.eight(base));
        }
        let mut pairs = [[_mm256_setzero_ps(); R]; 4];
        for (i, pair) in pairs.iter_mut().enumerate() {
            // Behind the last slot it is repeated; what comes of it is overwritten or masked.
            let slots = [(base + 2 * i).min(last), (base + 2 * i + 1).min(last)];
            // SAFETY: both slots are rows of `rows`, whose sizes were checked above.
            *pair = unsafe { two_keys::<B, R>(&rows, slots, queries) };
        }
        for r in 0..R {
            if let Some(to) = weights[r][at + base..].first_chunk_mut() {
                store(to, sums_of_pairs(&[pairs[0][r], pairs[1][r], pairs[2][r], pairs[3][r]]));
            }
        }
    }
}

/// The products of two keys with each query, half summed: see [`sums_of_pairs`].
///
/// # Safety
/// Both slots must be below `rows.count`, `rows.data` must hold that many rows, and `queries` a vector for each eight
/// channels begun.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn two_keys<const B: usize, const R: usize>(
    rows: &Rows,
    slots: [usize; 2],
    queries: &[[[f32; 8]; R]],
) -> [__m256; R] {
    let whole = rows.row_bytes / B;
    let keys = slots.map(|slot| {
        // SAFETY: slot < count, so its row starts inside the data.
        unsafe { rows.data.as_ptr().add(slot * rows.row_bytes).cast::<[u8; B]>() }
    });
    let scale = |slot: usize, group| scale_of::<B>(&rows.scales[slot * rows.scale_bytes..], group);
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    let (groups, rest) = queries[..whole].as_chunks::<4>();
    for (group, queries) in groups.iter().enumerate() {
        let scales = [scale(slots[0], group), scale(slots[1], group)];
        for (i, q) in queries.iter().enumerate() {
            // SAFETY: 4 * group + i < whole, the whole vectors of a row.
            let (a, b) = unsafe { (&*keys[0].add(4 * group + i), &*keys[1].add(4 * group + i)) };
            add_products(&mut sums, q, [load_scaled(a, scales[0]), load_scaled(b, scales[1])]);
        }
    }
    if rest.len() + queries.len() > whole {
        let group = groups.len();
        let scales = [scale(slots[0], group), scale(slots[1], group)];
        for (i, q) in rest.iter().enumerate() {
            // SAFETY: as above.
            let (a, b) = unsafe { (&*keys[0].add(4 * group + i), &*keys[1].add(4 * group + i)) };
            add_products(&mut sums, q, [load_scaled(a, scales[0]), load_scaled(b, scales[1])]);
        }
        if let Some(q) = queries.get(whole) {
            let tail = |slot: usize| &rows.row(slot).0[whole * B..];
            let values = [load_tail::<B>(tail(slots[0]), scales[0]), load_tail::<B>(tail(slots[1]), scales[1])];
            add_products(&mut sums, q, values);
        }
    }
    let mut halves = [_mm256_setzero_ps(); R];
    for r in 0..R {
        halves[r] = _mm256_hadd_ps(sums[r][0], sums[r][1]);
    }
    halves
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_products<const R: usize>(sums: &mut [[__m256; 2]; R], q: &[[f32; 8]; R], keys: [__m256; 2]) {
    for r in 0..R {
        let q = load(&q[r]);
        sums[r] = [_mm256_fmadd_ps(q, keys[0], sums[r][0]), _mm256_fmadd_ps(q, keys[1], sums[r][1])];
    }
}

/// Logits to weights `2^(logit - largest)`, zero outside `seen`; returns the largest logit and the sum of weights.
#[target_feature(enable = "avx2,fma,f16c")]
fn soften(weights: &mut Weights, count: usize, seen: Range<usize>, softcap: Option<f32>) -> (f32, f32) {
    let vectors = &mut weights.as_chunks_mut::<8>().0[..count.div_ceil(8)];
    if seen.is_empty() {
        vectors.as_flattened_mut().fill(0.0);
        return (f32::NEG_INFINITY, 0.0);
    }
    if let Some(cap) = softcap {
        for v in vectors.iter_mut() {
            let x = _mm256_mul_ps(_mm256_set1_ps(cap * LOG2E), tanh(load(v)));
            store(v, x);
        }
    }
    let hidden = _mm256_set1_ps(f32::NEG_INFINITY);
    let mut top = hidden;
    for (i, v) in vectors.iter_mut().enumerate() {
        let mut x = load(v);
        if 8 * i < seen.start || 8 * i + 8 > seen.end {
            x = _mm256_blendv_ps(hidden, x, inside(8 * i, &seen));
            store(v, x);
        }
        top = _mm256_max_ps(top, x);
    }
    let mut lanes = [0.0; 8];
    store(&mut lanes, top);
    let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let (top, mut sum) = (_mm256_set1_ps(largest), _mm256_setzero_ps());
    for v in vectors {
        let weight = exp2(_mm256_sub_ps(load(v), top));
        sum = _mm256_add_ps(sum, weight);
        store(v, weight);
    }
    store(&mut lanes, sum);
    (largest, lanes.into_iter().sum())
}

/// All ones in the lanes whose index, from `first` on, lies in `seen`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn inside(first: usize, seen: &Range<usize>) -> __m256 {
    let lane = _mm256_add_epi32(_mm256_set1_epi32(first as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    let before = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.start as i32), lane);
    let within = _mm256_cmpgt_epi32(_mm256_set1_epi32(seen.end as i32), lane);
    _mm256_castsi256_ps(_mm256_andnot_si256(before, within))
}

/// `out[r] += sum over slots of weights[r][at + slot] * value slot` for the slots of one page.
#[target_feature(enable = "avx2,fma,f16c")]
fn mix<const B: usize, const R: usize>(
    rows: Rows,
    next: Option<Rows>,
    weights: &[Weights; R],
    at: usize,
    out: &mut [f32],
) {
    if let Some(next) = next {
        prefetch(next.data);
    }
    let job = MixJob { rows, weights, at };
    let vectors = rows.row_bytes / B;
    let mut v = 0;
    while v + 4 <= vectors && R < 3 {
        channels::<B, R, 4>(&job, v, out);
        v += 4;
    }
    // Three rows of four vectors just miss the registers; three are as good, but not inside groups of four.
    while v + 3 <= vectors && R == 3 && B != Q8 {
        channels::<B, R, 3>(&job, v, out);
        v += 3;
    }
    while v + 2 <= vectors {
        channels::<B, R, 2>(&job, v, out);
        v += 2;
    }
    if v < vectors {
        channels::<B, R, 1>(&job, v, out);
        v += 1;
    }
    if !rows.row_bytes.is_multiple_of(B) {
        last_channels::<B, R>(&job, v, out);
    }
}

/// The values of one page and the weights of its slots, from index `at` on.
struct MixJob<'a, const R: usize> {
    rows: Rows<'a>,
    weights: &'a [Weights; R],
    at: usize,
}

/// Vectors `first .. first + V` of every row; they lie in one group of q8 values, whose scale they share.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn channels<const B: usize, const R: usize, const V: usize>(job: &MixJob<R>, first: usize, out: &mut [f32]) {
    let (rows, stride) = (job.rows, out.len() / R);
    let mut sums = [[_mm256_setzero_ps(); V]; R];
    for r in 0..R {
        let out = &out[r * stride + 8 * first..].as_chunks::<8>().0[..V];
        for v in 0..V {
            sums[r][v] = load(&out[v]);
        }
    }
    for (slot, row) in rows.data[first * B..].chunks(rows.row_bytes).enumerate() {
        let scale = scale_of::<B>(&rows.scales[slot * rows.scale_bytes..], first / 4);
        let row = &row.as_chunks::<B>().0[..V];
        let mut weights = [_mm256_setzero_ps(); R];
        for r in 0..R {
            weights[r] = _mm256_set1_ps(job.weights[r][job.at + slot]);
        }
        // A value at a time: with all V loaded first, the sums would not fit in the sixteen registers.
        for v in 0..V {
            let value = load_scaled(&row[v], scale);
            for r in 0..R {
                sums[r][v] = _mm256_fmadd_ps(weights[r], value, sums[r][v]);
            }
        }
    }
    for r in 0..R {
        let out = &mut out[r * stride + 8 * first..].as_chunks_mut::<8>().0[..V];
        for v in 0..V {
            store(&mut out[v], sums[r][v]);
        }
    }
}

/// The last vector of rows whose width is no multiple of eight.
#[target_feature(enable = "avx2,fma,f16c")]
fn last_channels<const B: usize, const R: usize>(job: &MixJob<R>, vector: usize, out: &mut [f32]) {
    let stride = out.len() / R;
    for r in 0..R {
        let Some(out) = out[r * stride + 8 * vector..].first_chunk_mut() else { continue };
        let mut sum = load(out);
        for slot in 0..job.rows.count {
            let (row, scales) = job.rows.row(slot);
            let value = load_tail::<B>(&row[vector * B..], scale_of::<B>(scales, vector / 4));
            sum = _mm256_fmadd_ps(_mm256_set1_ps(job.weights[r][job.at + slot]), value, sum);
        }
        store(out, sum);
    }
}
