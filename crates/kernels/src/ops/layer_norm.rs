//! Layer norm (Ba, Kiros and Hinton, Layer Normalization, 2016) and its gradient.

use super::{by_rows, sums};
use crate::isa::Isa;
use crate::pool::{Pool, SendPtr};

/// Rows whose weight gradients are summed in f32 before they go into the total: fixed, so that threads change no bit.
const PART: usize = 32;

/// What [`layer_norm_backward`] needs again, one number a row.
#[derive(Clone, Debug, Default)]
pub struct NormStats {
    /// Mean of each row.
    pub mean: Vec<f32>,
    /// `1 / sqrt(variance + eps)` of each row.
    pub inverse: Vec<f32>,
}

/// Scale and shift of a layer norm.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    /// Factor of each column.
    pub weight: &'a [f32],
    /// Added to each column.
    pub bias: &'a [f32],
}

/// `out = (x - mean) / sqrt(var + eps) * weight + bias` for each row of `weight.len()` values.
///
/// # Panics
/// If lengths disagree.
pub fn layer_norm(pool: &Pool, isa: Isa, x: &[f32], affine: Affine, eps: f32, out: &mut [f32]) {
    let cols = check(x, affine);
    assert_eq!(x.len(), out.len(), "layer norm: input and output");
    by_rows(pool, out, cols, |first, out| {
        for (x, out) in x[first * cols..].chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
            let (mean, inverse) = moments(isa, x, eps);
            apply(isa, x, (mean, inverse), affine, out);
        }
    });
}

/// Mean and inverse deviation of every row, to be kept for the way back instead of the normed rows.
pub fn layer_norm_stats(pool: &Pool, isa: Isa, x: &[f32], cols: usize, eps: f32) -> NormStats {
    let mut pairs = vec![[0f32; 2]; x.len() / cols.max(1)];
    let rows = super::PARALLEL_VALUES.div_ceil(cols.max(1));
    pool.chunks(&mut pairs, rows, |chunk, pairs| {
        for (pair, x) in pairs.iter_mut().zip(x[chunk * rows * cols..].chunks_exact(cols)) {
            let (mean, inverse) = moments(isa, x, eps);
            *pair = [mean, inverse];
        }
    });
    NormStats { mean: pairs.iter().map(|p| p[0]).collect(), inverse: pairs.iter().map(|p| p[1]).collect() }
}

/// [`layer_norm`] with the moments known: the same bits.
///
/// # Panics
/// If lengths disagree.
pub fn layer_norm_again(pool: &Pool, isa: Isa, x: &[f32], affine: Affine, stats: &NormStats, out: &mut [f32]) {
    let cols = check(x, affine);
    assert_eq!(x.len(), out.len(), "layer norm: input and output");
    by_rows(pool, out, cols, |first, out| {
        for (i, out) in out.chunks_exact_mut(cols).enumerate() {
            let row = first + i;
            apply(isa, &x[row * cols..][..cols], (stats.mean[row], stats.inverse[row]), affine, out);
        }
    });
}

/// The gradient with respect to the input is *added* to `dx`; those of weight and bias, where wanted, are added to
/// `d_affine`. `dy`, `x`, `dx`: (rows, cols).
///
/// # Panics
/// If lengths disagree.
pub fn layer_norm_backward(
    pool: &Pool,
    isa: Isa,
    (dy, x): (&[f32], &[f32]),
    (weight, stats): (&[f32], &NormStats),
    dx: &mut [f32],
    d_affine: Option<(&mut [f32], &mut [f32])>,
) {
    let cols = weight.len();
    assert!(dy.len() == x.len() && x.len() == dx.len(), "layer norm: gradients and input");
    assert_eq!(stats.mean.len() * cols, x.len(), "layer norm: moments of every row");
    let rows = stats.mean.len();
    let wanted = d_affine.is_some();
    let mut parts = vec![0f32; if wanted { rows.div_ceil(PART) * 2 * cols } else { 0 }];
    let (out, sums) = (SendPtr(dx.as_mut_ptr()), SendPtr(parts.as_mut_ptr()));
    pool.run(rows.div_ceil(PART), &|part| {
        let (mut none, mut room) = ([], Vec::new());
        let part_sums: &mut [f32] = if wanted {
            // SAFETY: each part has its own 2 x cols sums.
            unsafe { std::slice::from_raw_parts_mut(sums.get().add(part * 2 * cols), 2 * cols) }
        } else {
            &mut none
        };
        room.resize(2 * cols, 0.0);
        for row in part * PART..rows.min((part + 1) * PART) {
            let at = row * cols;
            // SAFETY: rows belong to one part each, and `dx` stays borrowed until `run` returns.
            let dx = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), cols) };
            let moments = (stats.mean[row], stats.inverse[row]);
            backward_row(isa, (&dy[at..at + cols], &x[at..at + cols]), (weight, moments), &mut room, dx, part_sums);
        }
    });
    if let Some((d_weight, d_bias)) = d_affine {
        for (c, (w, b)) in d_weight.iter_mut().zip(d_bias).enumerate() {
            let total = |from: usize| parts.chunks_exact(2 * cols).map(|p| f64::from(p[from + c])).sum::<f64>() as f32;
            *w += total(0);
            *b += total(cols);
        }
    }
}

fn check(x: &[f32], affine: Affine) -> usize {
    let cols = affine.weight.len();
    assert_eq!(cols, affine.bias.len(), "layer norm: weight and bias");
    assert!(x.is_empty() || (cols > 0 && x.len().is_multiple_of(cols)), "layer norm: {} in rows of {cols}", x.len());
    cols
}

/// Mean and inverse deviation, in two passes: values may be large against their spread.
fn moments(isa: Isa, x: &[f32], eps: f32) -> (f32, f32) {
    let mut sum = [0f32; 1];
    sums::sum(isa, x, &mut sum);
    let mean = sum[0] / x.len() as f32;
    sums::sum_of_squares_about(isa, x, mean, &mut sum);
    (mean, 1.0 / (sum[0] / x.len() as f32 + eps).sqrt())
}

fn apply(isa: Isa, x: &[f32], moments: (f32, f32), affine: Affine, out: &mut [f32]) {
    super::compiled_twice!(isa, apply_body(x: &[f32], moments: (f32, f32), affine: Affine<'_>, out: &mut [f32]))
}

#[inline(always)]
fn apply_body(x: &[f32], (mean, inverse): (f32, f32), affine: Affine, out: &mut [f32]) {
    for (((o, x), w), b) in out.iter_mut().zip(x).zip(affine.weight).zip(affine.bias) {
        *o = (x - mean) * inverse * w + b;
    }
}

/// `room`: 2 x cols; `sums`: weight's and bias's, or empty.
fn backward_row(
    isa: Isa,
    dy_x: (&[f32], &[f32]),
    norm: (&[f32], (f32, f32)),
    room: &mut [f32],
    dx: &mut [f32],
    sums: &mut [f32],
) {
    super::compiled_twice!(
        isa,
        backward_body(
            dy_x: (&[f32], &[f32]),
            norm: (&[f32], (f32, f32)),
            room: &mut [f32],
            dx: &mut [f32],
            sums: &mut [f32],
        )
    )
}

#[inline(always)]
fn backward_body(
    (dy, x): (&[f32], &[f32]),
    (weight, (mean, inverse)): (&[f32], (f32, f32)),
    room: &mut [f32],
    dx: &mut [f32],
    sums: &mut [f32],
) {
    let cols = weight.len();
    let (normed, scaled) = room.split_at_mut(cols);
    for (n, x) in normed.iter_mut().zip(x) {
        *n = (x - mean) * inverse;
    }
    for ((s, d), w) in scaled.iter_mut().zip(dy).zip(weight) {
        *s = d * w;
    }
    let mean_scaled = sums::sum_body(scaled) / cols as f32;
    let mean_product = sums::dot_body(scaled, normed) / cols as f32;
    for ((d, s), n) in dx.iter_mut().zip(&*scaled).zip(&*normed) {
        *d += inverse * (s - mean_scaled - n * mean_product);
    }
    if !sums.is_empty() {
        let (weights, biases) = sums.split_at_mut(cols);
        for (((w, b), d), n) in weights.iter_mut().zip(biases).zip(dy).zip(&*normed) {
            *w += d * n;
            *b += d;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norm_and_gradient_agree_with_f64_and_differences() {
        let (rows, cols, eps) = (70, 24, 1e-6);
        let value = |i: usize| ((i * 7919 % 1000) as f32 / 500.0 - 1.0) * 3.0 + 5.0;
        let x: Vec<f32> = (0..rows * cols).map(value).collect();
        let weight: Vec<f32> = (0..cols).map(|i| 0.5 + i as f32 / 20.0).collect();
        let bias: Vec<f32> = (0..cols).map(|i| i as f32 / 7.0).collect();
        let dy: Vec<f32> = (0..rows * cols).map(|i| value(i + 31) - 5.0).collect();
        let exact = |x: &[f64]| -> f64 {
            let mut total = 0.0;
            for (r, x) in x.chunks(cols).enumerate() {
                let mean = x.iter().sum::<f64>() / cols as f64;
                let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / cols as f64;
                for c in 0..cols {
                    let y = (x[c] - mean) / (var + 1e-6).sqrt() * f64::from(weight[c]) + f64::from(bias[c]);
                    total += y * f64::from(dy[r * cols + c]);
                }
            }
            total
        };
        let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        for isa in Isa::available() {
            let mut before: Option<(Vec<f32>, Vec<f32>)> = None;
            for threads in [1, 2] {
                let pool = Pool::new(threads);
                let affine = Affine { weight: &weight, bias: &bias };
                let mut y = vec![0.0; x.len()];
                layer_norm(&pool, isa, &x, affine, eps, &mut y);
                let loss: f64 = y.iter().zip(&dy).map(|(y, d)| f64::from(y * d)).sum();
                assert!((loss - exact(&wide)).abs() < 2e-3, "{loss} not {}", exact(&wide));
                let stats = layer_norm_stats(&pool, isa, &x, cols, eps);
                let mut again = vec![0.0; x.len()];
                layer_norm_again(&pool, isa, &x, affine, &stats, &mut again);
                assert!(y == again);
                let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; cols], vec![0.0; cols]);
                layer_norm_backward(&pool, isa, (&dy, &x), (&weight, &stats), &mut dx, Some((&mut dw, &mut db)));
                for i in [0, 5, 100, rows * cols - 1] {
                    let mut moved = wide.clone();
                    moved[i] += 1e-4;
                    let up = exact(&moved);
                    moved[i] -= 2e-4;
                    let slope = (up - exact(&moved)) / 2e-4;
                    assert!((f64::from(dx[i]) - slope).abs() < 1e-4 * slope.abs().max(1.0), "{} not {slope}", dx[i]);
                }
                let sum: f64 = (0..rows).map(|r| f64::from(dy[r * cols + 3])).sum();
                assert!((f64::from(db[3]) - sum).abs() < 1e-3);
                if let Some((x, w)) = &before {
                    assert!(*x == dx && *w == dw, "threads change bits");
                }
                before = Some((dx, dw));
            }
        }
    }
}
