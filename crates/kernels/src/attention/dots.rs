//! The vector kernels of the decode path: one run of one head against all its query rows.
//!
//! Up to four rows go through a run together. Keys: two slots at a time against every row, eight slots' sums across
//! lanes at once. Values: a few vectors of channels are kept in registers while the slots of a page pass by. Stored
//! values are converted as they are loaded and never written back.

use super::decode::{RUN, STATE};
use super::rows::{Half, Rows, segments};
use super::simd::*;
use super::{HeadView, KvType};
use std::arch::x86_64::*;
use std::ops::Range;

/// One task: `slots` of `head` against rows `(m, group)`.
pub(super) struct RunJob<'a> {
    pub head: &'a HeadView<'a>,
    /// (m * group, key_width), scaled.
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
    let mut weights = [[0.0; RUN + 8]; 4];
    for (block, out) in partial.chunks_mut(4 * stride).enumerate() {
        match out.len() / stride {
            1 => rows_of::<1>(job, 4 * block, &mut weights, out),
            2 => rows_of::<2>(job, 4 * block, &mut weights, out),
            3 => rows_of::<3>(job, 4 * block, &mut weights, out),
            _ => rows_of::<4>(job, 4 * block, &mut weights, out),
        }
    }
}

/// Rows `first .. first + R`.
#[target_feature(enable = "avx2,fma,f16c")]
fn rows_of<const R: usize>(job: &RunJob, first: usize, weights: &mut [Weights; 4], out: &mut [f32]) {
    let layout = &job.head.layout;
    let width = layout.key_dim().next_multiple_of(8);
    let stride = out.len() / R;
    let queries = &job.queries[first * width..][..R * width];

    let mut ahead = segments(job.head, Half::Keys, job.slots.clone()).skip(1);
    for (at, rows) in segments(job.head, Half::Keys, job.slots.clone()) {
        let next = ahead.next().map(|(_, rows)| rows);
        match layout.key_type() {
            KvType::F32 => logits::<F32, R>(rows, next, queries, weights, at),
            KvType::F16 => logits::<F16, R>(rows, next, queries, weights, at),
            KvType::Q8 => logits::<Q8, R>(rows, next, queries, weights, at),
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
            KvType::F32 => mix::<F32, R>(rows, next, weights, at, out),
            KvType::F16 => mix::<F16, R>(rows, next, weights, at, out),
            KvType::Q8 => mix::<Q8, R>(rows, next, weights, at, out),
        }
    }
}

/// `weights[r][at + slot] = query r · key slot` for the slots of one page.
#[target_feature(enable = "avx2,fma,f16c")]
fn logits<const B: usize, const R: usize>(
    rows: Rows,
    next: Option<Rows>,
    queries: &[f32],
    weights: &mut [Weights; 4],
    at: usize,
) {
    let width = queries.len() / R;
    let mut q: [&[[f32; 8]]; R] = [&[]; R];
    for (r, q) in q.iter_mut().enumerate() {
        *q = queries[r * width..][..width].as_chunks().0;
    }
    for base in (0..rows.count).step_by(8) {
        if let Some(next) = next {
            prefetch(next.eight(base));
        }
        let mut products = [[_mm256_setzero_ps(); 8]; R];
        for pair in (0..8).step_by(2).take_while(|pair| base + pair < rows.count) {
            let (a, b) = (rows.row(base + pair), rows.row((base + pair + 1).min(rows.count - 1)));
            let two = products_of_two::<B, R>(&q, a, b);
            for r in 0..R {
                [products[r][pair], products[r][pair + 1]] = two[r];
            }
        }
        for r in 0..R {
            if let Some(to) = weights[r][at + base..].first_chunk_mut() {
                store(to, sums(&products[r]));
            }
        }
    }
}

/// The products of two keys with each query, still to be summed across lanes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn products_of_two<const B: usize, const R: usize>(
    q: &[&[[f32; 8]]; R],
    a: (&[u8], &[u8]),
    b: (&[u8], &[u8]),
) -> [[__m256; 2]; R] {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    let (whole_a, tail_a) = a.0.as_chunks::<B>();
    let (whole_b, tail_b) = b.0.as_chunks::<B>();
    let whole_b = &whole_b[..whole_a.len()];
    let mut queries: [&[[f32; 8]]; R] = [&[]; R];
    for (to, q) in queries.iter_mut().zip(q) {
        *to = &q[..whole_a.len()];
    }
    let (mut scale_a, mut scale_b) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for i in 0..whole_a.len() {
        if i % 4 == 0 {
            (scale_a, scale_b) = (scale_of::<B>(a.1, i / 4), scale_of::<B>(b.1, i / 4));
        }
        let (ka, kb) = (load_scaled(&whole_a[i], scale_a), load_scaled(&whole_b[i], scale_b));
        for r in 0..R {
            let q = load(&queries[r][i]);
            sums[r] = [_mm256_fmadd_ps(q, ka, sums[r][0]), _mm256_fmadd_ps(q, kb, sums[r][1])];
        }
    }
    if !tail_a.is_empty() {
        let i = whole_a.len();
        let ka = load_tail::<B>(tail_a, scale_of::<B>(a.1, i / 4));
        let kb = load_tail::<B>(tail_b, scale_of::<B>(b.1, i / 4));
        for r in 0..R {
            let q = load(&q[r][i]);
            sums[r] = [_mm256_fmadd_ps(q, ka, sums[r][0]), _mm256_fmadd_ps(q, kb, sums[r][1])];
        }
    }
    sums
}

/// Logits to weights `2^(logit - largest)`, zero outside `seen`; returns the largest logit and the sum of weights.
#[target_feature(enable = "avx2,fma,f16c")]
fn soften(weights: &mut Weights, count: usize, seen: Range<usize>, softcap: Option<f32>) -> (f32, f32) {
    let vectors = &mut weights.as_chunks_mut::<8>().0[..count.div_ceil(8)];
    if seen.is_empty() {
        vectors.as_flattened_mut().fill(0.0);
        return (f32::NEG_INFINITY, 0.0);
    }
    let hidden = _mm256_set1_ps(f32::NEG_INFINITY);
    let mut top = hidden;
    for (i, v) in vectors.iter_mut().enumerate() {
        let mut x = load(v);
        if let Some(cap) = softcap {
            x = _mm256_mul_ps(_mm256_set1_ps(cap * LOG2E), tanh(x));
        }
        x = _mm256_blendv_ps(hidden, x, inside(8 * i, &seen));
        top = _mm256_max_ps(top, x);
        store(v, x);
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
    weights: &[Weights; 4],
    at: usize,
    out: &mut [f32],
) {
    if let Some(next) = next {
        prefetch(next.data);
    }
    let mut w: [&[f32]; R] = [&[]; R];
    for (w, weights) in w.iter_mut().zip(weights) {
        *w = &weights[at..at + rows.count];
    }
    let vectors = rows.row_bytes / B;
    let mut v = 0;
    if R < 4 {
        while v + 4 <= vectors {
            channels::<B, R, 4>(rows, &w, v, out);
            v += 4;
        }
    }
    while v + 2 <= vectors {
        channels::<B, R, 2>(rows, &w, v, out);
        v += 2;
    }
    if v < vectors {
        channels::<B, R, 1>(rows, &w, v, out);
        v += 1;
    }
    if !rows.row_bytes.is_multiple_of(B) {
        last_channels::<B, R>(rows, &w, v, out);
    }
}

/// Vectors `first .. first + V` of every row; they lie in one group of q8 values, whose scale they share.
#[target_feature(enable = "avx2,fma,f16c")]
fn channels<const B: usize, const R: usize, const V: usize>(
    rows: Rows,
    w: &[&[f32]; R],
    first: usize,
    out: &mut [f32],
) {
    let stride = out.len() / R;
    let mut sums = [[_mm256_setzero_ps(); V]; R];
    for r in 0..R {
        let out = &out[r * stride + 8 * first..].as_chunks::<8>().0[..V];
        for v in 0..V {
            sums[r][v] = load(&out[v]);
        }
    }
    for slot in 0..rows.count {
        let (row, scales) = rows.row(slot);
        let row = &row[first * B..].as_chunks::<B>().0[..V];
        let scale = scale_of::<B>(scales, first / 4);
        let mut values = [_mm256_setzero_ps(); V];
        for v in 0..V {
            values[v] = load_scaled(&row[v], scale);
        }
        for r in 0..R {
            let weight = _mm256_set1_ps(w[r][slot]);
            for v in 0..V {
                sums[r][v] = _mm256_fmadd_ps(weight, values[v], sums[r][v]);
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
fn last_channels<const B: usize, const R: usize>(rows: Rows, w: &[&[f32]; R], vector: usize, out: &mut [f32]) {
    let stride = out.len() / R;
    for r in 0..R {
        let Some(out) = out[r * stride + 8 * vector..].first_chunk_mut() else { continue };
        let mut sum = load(out);
        for slot in 0..rows.count {
            let (row, scales) = rows.row(slot);
            let value = load_tail::<B>(&row[vector * B..], scale_of::<B>(scales, vector / 4));
            sum = _mm256_fmadd_ps(_mm256_set1_ps(w[r][slot]), value, sum);
        }
        store(out, sum);
    }
}
