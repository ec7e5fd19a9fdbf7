//! Logistic regression with an L1 penalty, to the optimum: the same rows give the same weights, bit by bit.
//!
//! Proximal Newton steps: the loss is replaced by its second-order expansion, whose penalised minimum is found one
//! coordinate at a time on the matrix of second derivatives, and a backtracking search makes sure that the true objective falls (Yuan, Ho and Lin, "An
//! improved GLMNET for L1-regularized logistic regression", JMLR 2012). It ends when the optimality conditions hold, not
//! when progress is slow, so the answer does not depend on a step size or on where it began.

mod inner;

use inner::Inner;
use meden_engine::press::linear::dot;
use meden_kernels::gemm::{Options, Panels, View, gemm};
use meden_kernels::{Isa, Pool};

use super::{Design, ProbeError};

/// What is minimised: mean over rows of log(1 + exp(-s z)) with s = ±1 and z = w·x + b, plus `lambda` times the sum of
/// |w|, and of |b| too where `penalise_bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct L1Logistic {
    /// Weight of the penalty, at least 0.
    pub lambda: f64,
    /// Whether the bias is penalised as the weights are, as in the paper.
    pub penalise_bias: bool,
    /// Largest violation of an optimality condition at the end; gradients are of the order of 1.
    pub tolerance: f64,
    /// Most Newton steps.
    pub max_steps: usize,
}

impl Default for L1Logistic {
    fn default() -> Self {
        L1Logistic { lambda: 3e-4, penalise_bias: true, tolerance: 1e-8, max_steps: 200 }
    }
}

/// A minimum.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Weights, one a feature.
    pub weight: Vec<f64>,
    /// Bias.
    pub bias: f64,
    /// Value of the objective.
    pub objective: f64,
    /// Newton steps taken.
    pub steps: usize,
}

/// Added to the diagonal of the Hessian, so that a coordinate without curvature does not run away in one step.
const DAMPING: f64 = 1e-12;
/// The same for second derivatives in f32, as a share.
const ROUGH_DAMPING: f64 = 1e-6;
/// Products of a matrix of second derivatives from which on f32 is worth its while.
const LARGE: usize = 20_000_000;
/// Steps that may be rough; what has not ended by then needs better ones.
const ROUGH_STEPS: usize = 40;
/// Armijo's constant of the search along a step.
const DECREASE: f64 = 0.01;

impl L1Logistic {
    /// The minimum for `labels`, rows weighing `weights` (all alike without).
    ///
    /// # Errors
    /// A negative or infinite `lambda`, counts that do not fit, weights that are negative or all zero, no end within
    /// `max_steps`.
    pub fn fit(&self, x: &Design, labels: &[bool], weights: Option<&[f64]>) -> Result<Fit, ProbeError> {
        let share = self.shares(x, labels, weights)?;
        let mut state = State::new(self, x, labels, share);
        let mut violation = f64::INFINITY;
        for step in 0..self.max_steps {
            let gradient = state.gradient();
            violation = state.violation(&gradient);
            if violation <= self.tolerance {
                return Ok(state.finish(step));
            }
            let mut falls = false;
            if step < ROUGH_STEPS {
                let direction = state.direction(&gradient, violation, false);
                falls = state.search(&gradient, &direction);
            }
            if !falls {
                let direction = state.direction(&gradient, violation, true);
                falls = state.search(&gradient, &direction);
            }
            if !falls {
                // no descent in f64: this is as near as the arithmetic comes
                let near = violation <= self.tolerance.max(1e-6);
                return if near { Ok(state.finish(step)) } else { Err(self.not_converged(step, violation)) };
            }
        }
        Err(self.not_converged(self.max_steps, violation))
    }

    fn not_converged(&self, iterations: usize, violation: f64) -> ProbeError {
        ProbeError::NotConverged { iterations, violation, tolerance: self.tolerance }
    }

    /// Weights of the rows, summing to 1.
    fn shares(&self, x: &Design, labels: &[bool], weights: Option<&[f64]>) -> Result<Vec<f64>, ProbeError> {
        if !(self.lambda >= 0.0 && self.lambda.is_finite()) {
            let value = self.lambda.to_string();
            return Err(ProbeError::Setting { field: "lambda", value, allowed: "0 and more" });
        }
        if labels.len() != x.rows() {
            return Err(ProbeError::Count { what: "labels", found: labels.len(), needed: x.rows() });
        }
        let Some(weights) = weights else { return Ok(vec![1.0 / x.rows() as f64; x.rows()]) };
        if weights.len() != x.rows() {
            return Err(ProbeError::Count { what: "weights", found: weights.len(), needed: x.rows() });
        }
        let total: f64 = weights.iter().sum();
        if !(total > 0.0 && total.is_finite()) || weights.iter().any(|&w| w.is_nan() || w < 0.0) {
            let allowed = "weights of 0 and more, not all 0";
            return Err(ProbeError::Setting { field: "weights", value: format!("a sum of {total}"), allowed });
        }
        Ok(weights.iter().map(|w| w / total).collect())
    }
}

/// Where the search stands. The bias is the last coordinate; its column is all ones.
struct State<'a> {
    x: &'a Design,
    sign: Vec<f64>,
    share: Vec<f64>,
    lambda: Vec<f64>,
    w: Vec<f64>,
    z: Vec<f64>,
    ones: Vec<f64>,
}

impl<'a> State<'a> {
    fn new(problem: &L1Logistic, x: &'a Design, labels: &[bool], share: Vec<f64>) -> State<'a> {
        let mut lambda = vec![problem.lambda; x.width() + 1];
        lambda[x.width()] = if problem.penalise_bias { problem.lambda } else { 0.0 };
        State {
            x,
            sign: labels.iter().map(|&l| if l { 1.0 } else { -1.0 }).collect(),
            share,
            lambda,
            w: vec![0.0; x.width() + 1],
            z: vec![0.0; x.rows()],
            ones: vec![1.0; x.rows()],
        }
    }

    fn column(&self, j: usize) -> &[f64] {
        if j < self.x.width() { self.x.column(j) } else { &self.ones }
    }

    /// Derivative of the loss by z, one a row.
    fn slopes(&self) -> Vec<f64> {
        let slope = |((&z, &s), &a): ((&f64, &f64), &f64)| -a * s * sigmoid(-s * z);
        self.z.iter().zip(&self.sign).zip(&self.share).map(slope).collect()
    }

    fn gradient(&self) -> Vec<f64> {
        let slopes = self.slopes();
        (0..self.w.len()).map(|j| dot(self.column(j), &slopes)).collect()
    }

    fn violation(&self, gradient: &[f64]) -> f64 {
        gradient.iter().enumerate().map(|(j, &g)| subgradient(self.w[j], g, self.lambda[j])).fold(0.0, f64::max)
    }

    /// The step to the minimum of the second-order expansion, coordinate by coordinate.
    fn direction(&self, gradient: &[f64], violation: f64, exact: bool) -> Vec<f64> {
        let curvature: Vec<f64> = self
            .z
            .iter()
            .zip(&self.share)
            .map(|(&z, &a)| {
                let p = sigmoid(z);
                a * p * (1.0 - p)
            })
            .collect();
        // a coordinate at zero that is far from moving is left alone in this step; the next gradient sees it again
        let active: Vec<usize> = (0..self.w.len())
            .filter(|&j| self.w[j] != 0.0 || gradient[j].abs() > self.lambda[j] - 0.5 * violation)
            .collect();
        let hessian = self.hessian(&active, &curvature, exact);
        let inner = Inner {
            gradient: active.iter().map(|&j| gradient[j]).collect(),
            lambda: active.iter().map(|&j| self.lambda[j]).collect(),
            at: active.iter().map(|&j| self.w[j]).collect(),
            hessian,
        };
        // solved to a share of what is missed now, as Newton steps only pay near the end
        let mut step = vec![0.0; self.w.len()];
        active.iter().zip(inner.solve(0.1 * violation)).for_each(|(&j, d)| step[j] = d);
        step
    }

    /// Second derivatives of the loss by the active coordinates, `(active, active)`. Large ones come from the f32 kernels
    /// unless they have to be `exact`: a step only has to fall, and where the minimum is the f64 gradient says.
    fn hessian(&self, active: &[usize], curvature: &[f64], exact: bool) -> Vec<f64> {
        let n = active.len();
        if !exact && n * n * curvature.len() > LARGE {
            return self.rough_hessian(active, curvature);
        }
        let mut hessian = vec![0.0; n * n];
        let mut weighted = vec![0.0; curvature.len()];
        for (i, &row) in active.iter().enumerate() {
            weighted.iter_mut().zip(self.column(row)).zip(curvature).for_each(|((w, x), c)| *w = x * c);
            for (j, &column) in active[..=i].iter().enumerate() {
                let value = dot(&weighted, self.column(column));
                (hessian[i * n + j], hessian[j * n + i]) = (value, value);
            }
            hessian[i * n + i] += DAMPING;
        }
        hessian
    }

    fn rough_hessian(&self, active: &[usize], curvature: &[f64]) -> Vec<f64> {
        let (n, rows) = (active.len(), curvature.len());
        let roots: Vec<f64> = curvature.iter().map(|c| c.sqrt()).collect();
        let weighted: Vec<f32> =
            active.iter().flat_map(|&j| self.column(j).iter().zip(&roots).map(|(x, r)| (x * r) as f32)).collect();
        let pool = Pool::new(1); // places are solved side by side already
        let left = View::new(&weighted, rows);
        let panels = Panels::of(&pool, left.transposed());
        let mut product = vec![0f32; n * n];
        gemm(&pool, Isa::best(), left, &panels, &mut product, Options::default());
        let mut hessian: Vec<f64> = product.into_iter().map(f64::from).collect();
        // what f32 cannot tell from zero must not look like a direction without curvature
        (0..n).for_each(|i| hessian[i * n + i] *= 1.0 + ROUGH_DAMPING);
        hessian
    }

    fn loss(&self, z: &[f64]) -> f64 {
        z.iter().zip(&self.sign).zip(&self.share).map(|((&z, &s), &a)| a * softplus(-s * z)).sum()
    }

    fn penalty(&self, w: &[f64]) -> f64 {
        w.iter().zip(&self.lambda).map(|(w, l)| l * w.abs()).sum()
    }

    /// Halves the step until the objective falls as much as it should. `false` where it never does.
    fn search(&mut self, gradient: &[f64], step: &[f64]) -> bool {
        let full: Vec<f64> = self.w.iter().zip(step).map(|(w, d)| w + d).collect();
        let before = self.loss(&self.z) + self.penalty(&self.w);
        let expected = dot(gradient, step) + self.penalty(&full) - self.penalty(&self.w);
        if expected.is_nan() || expected >= 0.0 {
            return false;
        }
        let mut along = vec![0.0; self.z.len()];
        for (j, &d) in step.iter().enumerate().filter(|(_, d)| **d != 0.0) {
            along.iter_mut().zip(self.column(j)).for_each(|(a, x)| *a += d * x);
        }
        let mut size = 1.0;
        for _ in 0..50 {
            let z: Vec<f64> = self.z.iter().zip(&along).map(|(z, a)| z + size * a).collect();
            // a full step puts weights at exactly zero
            let w: Vec<f64> =
                if size == 1.0 { full.clone() } else { self.w.iter().zip(step).map(|(w, d)| w + size * d).collect() };
            let after = self.loss(&z) + self.penalty(&w);
            if after <= before + DECREASE * size * expected {
                (self.w, self.z) = (w, z);
                return true;
            }
            size *= 0.5;
        }
        false
    }

    fn finish(self, steps: usize) -> Fit {
        let objective = self.loss(&self.z) + self.penalty(&self.w);
        let mut weight = self.w;
        let bias = weight.pop().unwrap_or(0.0);
        Fit { weight, bias, objective, steps }
    }
}

/// How far the condition of a coordinate is missed: the smallest subgradient of loss and penalty.
fn subgradient(w: f64, gradient: f64, lambda: f64) -> f64 {
    match w {
        w if w > 0.0 => (gradient + lambda).abs(),
        w if w < 0.0 => (gradient - lambda).abs(),
        _ => (gradient.abs() - lambda).max(0.0),
    }
}

/// 1 / (1 + exp(-z)) without overflow.
pub(super) fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

/// log(1 + exp(z)) without overflow.
fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

fn soft(value: f64, by: f64) -> f64 {
    if value > by {
        value - by
    } else if value < -by {
        value + by
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests;
