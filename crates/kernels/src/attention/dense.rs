//! Attention of every token to every token, for images: no cache, no mask, all heads of equal width, queries, keys and
//! values side by side in one row. With its gradient.
//!
//! A task is one head of one image (or a part of its queries): keys and values are packed as panels, scores of some
//! queries are products that stay in the second-level cache, and their softmax is normalised after the product with the
//! values. Nothing of the size tokens x tokens is kept for the way back: it is made again from queries and keys.

use crate::gemm::{Left, Panels, Target, View, block};
use crate::isa::Isa;
use crate::ops;
use crate::pool::{Pool, SendPtr};
use std::cell::RefCell;

/// Queries whose scores are made at once.
const QUERIES: usize = 48;

/// What is attended to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenseShape {
    /// Images in the batch.
    pub images: usize,
    /// Tokens of each image.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl DenseShape {
    /// Width of a row of outputs.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Rows of the batch.
    pub fn rows(&self) -> usize {
        self.images * self.tokens
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn check(&self, qkv: &[f32], out: usize) {
        assert_eq!(qkv.len(), self.rows() * 3 * self.width(), "attention: queries, keys and values of every row");
        assert_eq!(out, self.rows() * self.width(), "attention: outputs of every row");
    }

    /// Queries (0), keys (1) or values (2) of one head of one image: (tokens, head_dim).
    fn part<'a>(&self, qkv: &'a [f32], image: usize, head: usize, part: usize) -> View<'a> {
        let (row, at) = (3 * self.width(), part * self.width() + head * self.head_dim);
        let from = &qkv[image * self.tokens * row + at..];
        View::rows(from, self.tokens, self.head_dim, row)
    }
}

#[derive(Default)]
struct Scratch {
    first: Panels,
    second: Panels,
    scores: Vec<f32>,
    gradients: Vec<f32>,
    sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `out = softmax(q kᵀ / sqrt(head_dim)) v`. `qkv`: (images x tokens, 3 x width), `out`: (images x tokens, width). Where
/// wanted, `first_row` (images, heads, tokens) gets the probabilities of each image's first token (the class token).
///
/// # Panics
/// If a length disagrees with the shape.
pub fn dense(pool: &Pool, isa: Isa, shape: DenseShape, qkv: &[f32], out: &mut [f32], first_row: Option<&mut [f32]>) {
    shape.check(qkv, out.len());
    let DenseShape { images, tokens, heads, .. } = shape;
    let first = first_row.map(|row| {
        assert_eq!(row.len(), images * heads * tokens, "attention: a first row of every head");
        SendPtr(row.as_mut_ptr())
    });
    if tokens == 0 {
        return;
    }
    let whole = images * heads;
    // Few heads are cut into parts of their queries, so that all threads finish together.
    let wanted = if pool.threads() == 1 { 1 } else { (4 * pool.threads()).div_ceil(whole.max(1)) };
    let blocks = tokens.div_ceil(QUERIES);
    let parts = wanted.min(blocks);
    let out = SendPtr(out.as_mut_ptr());
    pool.run(whole * parts, &|task| {
        let (image, head, part) = (task / parts / heads, task / parts % heads, task % parts);
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { first: keys, second: values, scores, sums, .. } = scratch;
            keys.pack_scaled(shape.part(qkv, image, head, 1).transposed(), shape.scale());
            values.pack_scaled(shape.part(qkv, image, head, 2), 1.0);
            for number in (blocks * part / parts)..(blocks * (part + 1) / parts) {
                let from = number * QUERIES;
                let rows = QUERIES.min(tokens - from);
                // SAFETY: rows `from ..` of this image and columns of this head belong to this task alone.
                unsafe {
                    let at = out.get().add((image * tokens + from) * shape.width() + head * shape.head_dim);
                    let target = Target { at, stride: shape.width() };
                    let queries = shape.part(qkv, image, head, 0).skip(from);
                    attend(isa, shape, (queries, rows), (keys, values), (scores, sums), target);
                    if let (Some(first), 0) = (&first, from) {
                        let at = first.get().add((image * heads + head) * tokens);
                        let row = std::slice::from_raw_parts_mut(at, tokens);
                        row.copy_from_slice(&scores[..tokens]);
                        ops::scale_row(isa, row, 1.0 / sums[0]);
                    }
                }
            }
        });
    });
}

/// Some queries of one head.
///
/// # Safety
/// `out` is writable for (rows, head_dim) by nobody else.
unsafe fn attend(
    isa: Isa,
    shape: DenseShape,
    (queries, rows): (View, usize),
    (keys, values): (&Panels, &Panels),
    (scores, sums): (&mut Vec<f32>, &mut Vec<f32>),
    out: Target,
) {
    let (tokens, dim) = (shape.tokens, shape.head_dim);
    scores.resize(QUERIES * tokens, 0.0);
    sums.resize(QUERIES, 0.0);
    let at = Target { at: scores.as_mut_ptr(), stride: tokens };
    // SAFETY: scores hold QUERIES rows, `queries` at least `rows`; the panels are (dim, tokens) and (tokens, dim).
    unsafe { block(isa, queries.left(0), keys.from(0), (rows, dim, tokens), at, false) };
    for (row, total) in scores.chunks_exact_mut(tokens).zip(&mut *sums).take(rows) {
        let mut sum = [0.0];
        ops::exp_row(isa, row, &mut sum);
        *total = sum[0];
    }
    let left = Left { at: scores.as_ptr(), row_stride: tokens, col_stride: 1 };
    // SAFETY: as above; `out` by the caller's promise.
    unsafe {
        block(isa, left, values.from(0), (rows, tokens, dim), out, false);
        for (i, total) in sums.iter().enumerate().take(rows) {
            let row = std::slice::from_raw_parts_mut(out.at.add(i * out.stride), dim);
            ops::scale_row(isa, row, 1.0 / total);
        }
    }
}

/// The gradient of [`dense`]: `d_out` (rows, width) to `d_qkv` (rows, 3 x width), overwritten.
///
/// # Panics
/// If a length disagrees with the shape.
pub fn dense_backward(pool: &Pool, isa: Isa, shape: DenseShape, qkv: &[f32], d_out: &[f32], d_qkv: &mut [f32]) {
    shape.check(qkv, d_out.len());
    assert_eq!(d_qkv.len(), qkv.len(), "attention: gradients of queries, keys and values");
    let DenseShape { images, tokens: n, heads, head_dim: dim } = shape;
    if n == 0 {
        return;
    }
    let (width, scale) = (shape.width(), shape.scale());
    let target = SendPtr(d_qkv.as_mut_ptr());
    pool.run(images * heads, &|task| {
        let (image, head) = (task / heads, task % heads);
        let [q, k, v] = [0, 1, 2].map(|part| shape.part(qkv, image, head, part));
        let from = &d_out[image * n * width + head * dim..];
        let d_o = View::rows(from, n, dim, width);
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { first, second, scores, gradients, .. } = scratch;
            scores.resize(n * n, 0.0);
            gradients.resize(n * n, 0.0);
            // SAFETY: columns of this head in this image's rows belong to this task; scratch holds (n, n).
            unsafe {
                let [d_q, d_k, d_v] = [0, 1, 2].map(|part| Target {
                    at: target.get().add(image * n * 3 * width + part * width + head * dim),
                    stride: 3 * width,
                });
                let room = |v: &mut Vec<f32>| Target { at: v.as_mut_ptr(), stride: n };
                first.pack_scaled(k.transposed(), scale);
                block(isa, q.left(0), first.from(0), (n, dim, n), room(scores), false);
                scores.chunks_exact_mut(n).for_each(|row| ops::softmax_row(isa, row));
                // dV = Pᵀ dO
                second.pack_scaled(d_o, 1.0);
                let p = Left { at: scores.as_ptr(), row_stride: 1, col_stride: n };
                block(isa, p, second.from(0), (n, n, dim), d_v, false);
                // dP = dO Vᵀ, then the gradient of the scores before their scale
                first.pack_scaled(v.transposed(), 1.0);
                block(isa, d_o.left(0), first.from(0), (n, dim, n), room(gradients), false);
                for (p, d) in scores.chunks_exact(n).zip(gradients.chunks_exact_mut(n)) {
                    ops::softmax_backward_row(isa, p, d, scale);
                }
                // dQ = dS K, dK = dSᵀ Q
                first.pack_scaled(k, 1.0);
                second.pack_scaled(q, 1.0);
                let by_rows = Left { at: gradients.as_ptr(), row_stride: n, col_stride: 1 };
                let by_cols = Left { at: gradients.as_ptr(), row_stride: 1, col_stride: n };
                block(isa, by_rows, first.from(0), (n, n, dim), d_q, false);
                block(isa, by_cols, second.from(0), (n, n, dim), d_k, false);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(shape: DenseShape, qkv: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let DenseShape { images, tokens, heads, head_dim: dim } = shape;
        let width = shape.width();
        let (mut out, mut first) = (vec![0.0; shape.rows() * width], Vec::new());
        for image in 0..images {
            for head in 0..heads {
                let at = |t: usize, part: usize, d: usize| {
                    qkv[(image * tokens + t) * 3 * width + part * width + head * dim + d]
                };
                for i in 0..tokens {
                    let score = |j| (0..dim).map(|d| at(i, 0, d) * at(j, 1, d)).sum::<f64>() / (dim as f64).sqrt();
                    let e: Vec<f64> = (0..tokens).map(|j| f64::exp(score(j))).collect();
                    let total: f64 = e.iter().sum();
                    if i == 0 {
                        first.extend(e.iter().map(|v| v / total));
                    }
                    for d in 0..dim {
                        let o = (0..tokens).map(|j| e[j] / total * at(j, 2, d)).sum();
                        out[(image * tokens + i) * width + head * dim + d] = o;
                    }
                }
            }
        }
        (out, first)
    }

    #[test]
    fn attention_and_its_gradient_agree_with_f64_and_differences() {
        for (images, tokens, heads, head_dim) in [(2, 5, 3, 8), (1, 70, 2, 24), (1, 1, 1, 4)] {
            let shape = DenseShape { images, tokens, heads, head_dim };
            let value = |i: usize| ((i * 7919 % 2003) as f32 / 1000.0 - 1.0) * 2.0;
            let qkv: Vec<f32> = (0..shape.rows() * 3 * shape.width()).map(value).collect();
            let d_out: Vec<f32> = (0..shape.rows() * shape.width()).map(|i| value(i + 77)).collect();
            let wide: Vec<f64> = qkv.iter().map(|&v| f64::from(v)).collect();
            let (expected, row) = exact(shape, &wide);
            let loss =
                |qkv: &[f64]| -> f64 { exact(shape, qkv).0.iter().zip(&d_out).map(|(o, d)| o * f64::from(*d)).sum() };
            for isa in Isa::available() {
                let mut before: Option<(Vec<f32>, Vec<f32>)> = None;
                for threads in [1, 2] {
                    let pool = Pool::new(threads);
                    let (mut out, mut first) = (vec![0.0; expected.len()], vec![0.0; row.len()]);
                    dense(&pool, isa, shape, &qkv, &mut out, Some(&mut first));
                    let near = |a: &[f32], b: &[f64]| a.iter().zip(b).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5);
                    assert!(near(&out, &expected) && near(&first, &row), "{isa:?} {shape:?}");
                    let mut d = vec![0.0; qkv.len()];
                    dense_backward(&pool, isa, shape, &qkv, &d_out, &mut d);
                    for i in (0..qkv.len()).step_by(qkv.len() / 7 + 1) {
                        let mut moved = wide.clone();
                        moved[i] += 1e-5;
                        let up = loss(&moved);
                        moved[i] -= 2e-5;
                        let slope = (up - loss(&moved)) / 2e-5;
                        assert!((f64::from(d[i]) - slope).abs() < 1e-4, "{isa:?} {shape:?} {i}: {} not {slope}", d[i]);
                    }
                    if let Some((o, g)) = &before {
                        assert!(*o == out && *g == d, "threads change bits");
                    }
                    before = Some((out, d));
                }
            }
        }
    }
}
