//! A linear classifier on embeddings: multinomial logistic regression with an L2 penalty, fitted by L-BFGS (Liu &
//! Nocedal, 1989) in f64. The objective is convex, so the answer does not depend on where it starts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use meden_kernels::Pool;

use crate::error::VisionError;

/// How the classifier is fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearOptions {
    /// Inverse strength of the penalty: the objective is `C * sum of losses + |W|^2 / 2` (scikit-learn's).
    pub c: f64,
    /// Iterations at most.
    pub iterations: usize,
    /// The fit ends when no gradient per row is larger.
    pub tolerance: f64,
}

impl Default for LinearOptions {
    fn default() -> Self {
        LinearOptions { c: 30.0, iterations: 1000, tolerance: 1e-5 }
    }
}

/// A fitted classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// (classes, width + 1): the last column is the bias, which is not penalised.
    pub weights: Vec<f64>,
    /// Width of a row.
    pub width: usize,
    /// Iterations done.
    pub iterations: usize,
    /// Whether the gradient became as small as asked.
    pub converged: bool,
}

impl Fitted {
    /// Scores of each class for a row.
    pub fn scores(&self, row: &[f32]) -> Vec<f64> {
        let one = |w: &[f64]| w.iter().zip(row).map(|(w, x)| w * f64::from(*x)).sum::<f64>() + w[self.width];
        self.weights.chunks_exact(self.width + 1).map(one).collect()
    }

    /// The class with the highest score; ties go to the smaller one.
    pub fn predict(&self, row: &[f32]) -> usize {
        let scores = self.scores(row);
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        best.map_or(0, |(class, _)| class)
    }
}

/// Rows whose losses are summed by one task; fixed, so that threads change no bit.
const PART: usize = 64;
/// Pairs that approximate the curvature.
const MEMORY: usize = 10;

struct Problem<'a> {
    pool: &'a Pool,
    rows: &'a [f32],
    labels: &'a [usize],
    width: usize,
    classes: usize,
    c: f64,
}

impl Problem<'_> {
    /// Objective and gradient at `w`.
    fn at(&self, w: &[f64]) -> (f64, Vec<f64>) {
        let (width, size) = (self.width + 1, w.len());
        let mut parts = vec![0f64; self.labels.len().div_ceil(PART) * (size + 1)];
        self.pool.chunks(&mut parts, size + 1, |part, out| {
            let (loss, gradient) = out.split_at_mut(1);
            let end = self.labels.len().min((part + 1) * PART);
            for i in part * PART..end {
                let row = &self.rows[i * self.width..][..self.width];
                let dot = |w: &[f64]| w.iter().zip(row).map(|(w, x)| w * f64::from(*x)).sum::<f64>() + w[self.width];
                let mut scores: Vec<f64> = w.chunks_exact(width).map(dot).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let own = scores[self.labels[i]];
                scores.iter_mut().for_each(|s| *s = (*s - most).exp());
                let total: f64 = scores.iter().sum();
                loss[0] += most + total.ln() - own;
                for (class, (s, g)) in scores.iter().zip(gradient.chunks_exact_mut(width)).enumerate() {
                    let error = s / total - f64::from(u8::from(class == self.labels[i]));
                    g.iter_mut().zip(row).for_each(|(g, x)| *g += error * f64::from(*x));
                    g[self.width] += error;
                }
            }
        });
        let mut sums = vec![0f64; size + 1];
        for part in parts.chunks_exact(size + 1) {
            sums.iter_mut().zip(part).for_each(|(s, p)| *s += self.c * p);
        }
        let mut loss = sums.remove(0);
        for (g, w) in sums.chunks_exact_mut(width).zip(w.chunks_exact(width)) {
            for (g, w) in g[..self.width].iter_mut().zip(&w[..self.width]) {
                loss += w * w / 2.0;
                *g += w;
            }
        }
        (loss, sums)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Fits a classifier to `rows` (n, width) and their labels. `progress` hears of every iteration; when `cancel` is set the
/// fit ends where it stands, not converged.
///
/// # Errors
/// Lengths that do not fit, values that are not finite, fewer than two classes, or a penalty that is no positive number.
pub fn fit_linear(
    pool: &Pool,
    (rows, labels): (&[f32], &[usize]),
    (width, classes): (usize, usize),
    options: LinearOptions,
    (progress, cancel): (&mut dyn FnMut(usize), Option<&AtomicBool>),
) -> Result<Fitted, VisionError> {
    let bad = |why: String| Err(VisionError::input("linear classifier", why));
    if width == 0 || rows.len() != labels.len() * width || labels.is_empty() {
        return bad(format!("{} labels and {} values of width {width} do not fit", labels.len(), rows.len()));
    }
    if classes < 2 || labels.iter().any(|l| *l >= classes) {
        return bad(format!("there have to be two classes at least and every label below {classes}"));
    }
    if !(options.c > 0.0 && options.c.is_finite()) {
        return bad(format!("C is {}, it has to be a positive number", options.c));
    }
    if let Some(at) = rows.iter().position(|v| !v.is_finite()) {
        return bad(format!("row {} holds {}", at / width, rows[at]));
    }
    let problem = Problem { pool, rows, labels, width, classes, c: options.c };
    let mut w = vec![0f64; problem.classes * (width + 1)];
    let (mut loss, mut gradient) = problem.at(&w);
    let mut pairs: VecDeque<(Vec<f64>, Vec<f64>)> = VecDeque::new();
    let mut fitted = Fitted { weights: Vec::new(), width, iterations: 0, converged: false };
    let small = options.tolerance * options.c * labels.len() as f64;
    loop {
        fitted.converged = gradient.iter().all(|g| g.abs() <= small);
        let stopped = cancel.is_some_and(|c| c.load(Ordering::Relaxed));
        if fitted.converged || stopped || fitted.iterations == options.iterations {
            break;
        }
        let direction = direction(&gradient, &pairs);
        let Some((next_w, next_loss, next_gradient)) =
            search(&problem, (&w, loss, &gradient), &direction, pairs.is_empty())
        else {
            break;
        };
        let s: Vec<f64> = next_w.iter().zip(&w).map(|(a, b)| a - b).collect();
        let y: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        if dot(&s, &y) > 1e-12 * dot(&y, &y) {
            pairs.push_back((s, y));
            if pairs.len() > MEMORY {
                pairs.pop_front();
            }
        }
        (w, loss, gradient) = (next_w, next_loss, next_gradient);
        fitted.iterations += 1;
        progress(fitted.iterations);
    }
    fitted.weights = w;
    Ok(fitted)
}

/// The two-loop recursion: minus the gradient, times the curvature that the pairs show.
fn direction(gradient: &[f64], pairs: &VecDeque<(Vec<f64>, Vec<f64>)>) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(pairs.len());
    for (s, y) in pairs.iter().rev() {
        let alpha = dot(s, &q) / dot(s, y);
        q.iter_mut().zip(y).for_each(|(q, y)| *q -= alpha * y);
        alphas.push(alpha);
    }
    if let Some((s, y)) = pairs.back() {
        let scale = dot(s, y) / dot(y, y);
        q.iter_mut().for_each(|q| *q *= scale);
    }
    for ((s, y), alpha) in pairs.iter().zip(alphas.into_iter().rev()) {
        let beta = dot(y, &q) / dot(s, y);
        q.iter_mut().zip(s).for_each(|(q, s)| *q += (alpha - beta) * s);
    }
    q
}

type Point = (Vec<f64>, f64, Vec<f64>);

/// Halves the step until the objective falls enough (Armijo); `None` when it cannot fall any more in f64.
fn search(
    problem: &Problem,
    (w, loss, gradient): (&[f64], f64, &[f64]),
    direction: &[f64],
    first: bool,
) -> Option<Point> {
    let slope = dot(gradient, direction);
    if !(slope < 0.0) {
        return None;
    }
    let mut step = if first { 1.0 / dot(gradient, gradient).sqrt().max(1.0) } else { 1.0 };
    for _ in 0..60 {
        let next: Vec<f64> = w.iter().zip(direction).map(|(w, d)| w + step * d).collect();
        let (next_loss, next_gradient) = problem.at(&next);
        if next_loss <= loss + 1e-4 * step * slope {
            return Some((next, next_loss, next_gradient));
        }
        step /= 2.0;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_vanishes_where_it_converged_and_separable_classes_are_told_apart() {
        let (n, width, classes) = (150, 4, 3);
        let value = |i: usize| (i * 7919 % 1009) as f32 / 504.5 - 1.0;
        let labels: Vec<usize> = (0..n).map(|i| i % classes).collect();
        let row = |i: usize| (0..width).map(move |c| value(i * width + c) + if c == i % 3 { 2.5 } else { 0.0 });
        let rows: Vec<f32> = (0..n).flat_map(row).collect();
        let options = LinearOptions { c: 1.0, tolerance: 1e-9, ..LinearOptions::default() };
        let fit = |threads| {
            let quiet: (&mut dyn FnMut(usize), _) = (&mut |_| {}, None);
            fit_linear(&Pool::new(threads), (&rows, &labels), (width, classes), options, quiet).unwrap()
        };
        let fitted = fit(1);
        assert!(fitted.converged && fitted.iterations > 3);
        assert_eq!(fitted, fit(2), "threads change bits");
        let right = (0..n).filter(|i| fitted.predict(&rows[i * width..][..width]) == labels[*i]).count();
        assert!(right > 140, "{right} of {n}");
        // The penalty makes weights sum to zero over classes.
        let sum: f64 = fitted.weights.chunks(width + 1).map(|w| w[0]).sum();
        assert!(sum.abs() < 1e-6);
    }
}
