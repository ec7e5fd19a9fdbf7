//! Logistic regression with an L1 penalty, to the optimum: the same rows give the same weights, bit by bit.
//!
//! Proximal Newton steps: the loss is replaced by its second-order expansion, whose penalised minimum is found one
//! coordinate at a time on the matrix of second derivatives, and a backtracking search makes sure that the true objective falls (Yuan, Ho and Lin, "An
//! improved GLMNET for L1-regularized logistic regression", JMLR 2012). It ends when the optimality conditions hold, not
//! when progress is slow, so the answer does not depend on a step size or on where it began.

mod inner;

use inner::Inner;

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
            let direction = state.direction(&gradient, violation);
            if !state.search(&gradient, &direction) {
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
    fn direction(&self, gradient: &[f64], violation: f64) -> Vec<f64> {
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
        let hessian = self.hessian(&active, &curvature);
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

    /// Second derivatives of the loss by the active coordinates, `(active, active)`.
    fn hessian(&self, active: &[usize], curvature: &[f64]) -> Vec<f64> {
        let n = active.len();
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

/// Lanes of a sum: the compiler may use vectors, and the order stays the same everywhere.
const LANES: usize = 8;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in whole_a.zip(whole_b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use meden_stats::Rng;

    fn problem(seed: u64, rows: usize, width: usize) -> (Design, Vec<bool>) {
        let mut rng = Rng::new(seed, 0);
        let columns: Vec<f64> = (0..rows * width).map(|_| rng.normal()).collect();
        let design = Design::from_columns(columns, rows).unwrap();
        let labels = (0..rows).map(|r| 2.0 * design.column(0)[r] - design.column(1)[r] + rng.normal() > 0.3).collect();
        (design, labels)
    }

    #[test]
    fn the_optimality_conditions_hold_and_nothing_near_is_better() {
        let (x, labels) = problem(1, 200, 12);
        for lambda in [0.0, 1e-3, 0.05] {
            let solver = L1Logistic { lambda, ..L1Logistic::default() };
            let fit = solver.fit(&x, &labels, None).unwrap();
            let value = |w: &[f64], b: f64| {
                let mut state = State::new(&solver, &x, &labels, vec![1.0 / 200.0; 200]);
                state.w = [w, &[b]].concat();
                for row in 0..200 {
                    state.z[row] = b + (0..12).map(|j| w[j] * x.column(j)[row]).sum::<f64>();
                }
                state.loss(&state.z) + state.penalty(&state.w)
            };
            assert!((value(&fit.weight, fit.bias) - fit.objective).abs() < 1e-12);
            let mut rng = Rng::new(2, 0);
            for _ in 0..200 {
                let near: Vec<f64> = fit.weight.iter().map(|w| w + 1e-3 * rng.normal()).collect();
                assert!(value(&near, fit.bias + 1e-3 * rng.normal()) >= fit.objective - 1e-13);
            }
        }
    }

    #[test]
    fn a_large_penalty_leaves_nothing_and_a_small_one_leaves_few() {
        let (x, labels) = problem(3, 300, 20);
        let fit = |lambda| L1Logistic { lambda, ..L1Logistic::default() }.fit(&x, &labels, None).unwrap();
        let none = fit(10.0);
        assert!(none.weight.iter().all(|w| *w == 0.0) && none.bias == 0.0);
        let count = |f: &Fit| f.weight.iter().filter(|w| **w != 0.0).count();
        let (sparse, dense) = (fit(0.05), fit(1e-5));
        assert!(count(&sparse) >= 2 && count(&sparse) < count(&dense));
        assert!(sparse.weight[0] > 0.0 && sparse.weight[1] < 0.0);
    }

    #[test]
    fn a_weight_of_two_is_a_row_that_stands_there_twice_and_scale_does_not_matter() {
        let (x, labels) = problem(5, 60, 4);
        let weights: Vec<f64> = (0..60).map(|r| (r % 3) as f64).collect();
        let rows: Vec<usize> = (0..60).flat_map(|r| std::iter::repeat_n(r, r % 3)).collect();
        let columns = (0..4).flat_map(|j| rows.iter().map(move |&r| (j, r))).map(|(j, r)| x.column(j)[r]).collect();
        let twice = Design::from_columns(columns, rows.len()).unwrap();
        let repeated: Vec<bool> = rows.iter().map(|&r| labels[r]).collect();
        let solver = L1Logistic { lambda: 0.01, ..L1Logistic::default() };
        let weighted = solver.fit(&x, &labels, Some(&weights)).unwrap();
        let plain = solver.fit(&twice, &repeated, None).unwrap();
        assert!(weighted.weight.iter().zip(&plain.weight).all(|(a, b)| (a - b).abs() < 1e-6));
        let larger: Vec<f64> = weights.iter().map(|w| 8.0 * w).collect();
        assert_eq!(solver.fit(&x, &labels, Some(&larger)).unwrap(), weighted);
    }

    #[test]
    fn separable_rows_have_a_finite_answer_under_a_penalty() {
        let x = Design::from_columns(vec![-2.0, -1.0, 1.0, 2.0], 4).unwrap();
        let labels = [false, false, true, true];
        let fit = L1Logistic::default().fit(&x, &labels, None).unwrap();
        assert!(fit.weight[0] > 3.0 && fit.weight[0] < 20.0 && fit.bias.abs() < 1e-6, "{fit:?}");
        let free = L1Logistic { lambda: 0.0, ..L1Logistic::default() }.fit(&x, &labels, None);
        // without a penalty the weights grow until the gradient is as small as was asked for
        assert!(free.is_ok_and(|f| f.weight[0] > fit.weight[0]));
    }

    #[test]
    fn columns_that_are_much_alike_are_solved_too() {
        // one strong common factor, as in activations of one token in early layers
        let (rows, width) = (400, 60);
        let mut rng = Rng::new(11, 0);
        let common: Vec<f64> = (0..rows).map(|_| rng.normal()).collect();
        let columns: Vec<f64> =
            (0..width).flat_map(|_| common.iter().map(|c| c + 0.01 * rng.normal()).collect::<Vec<f64>>()).collect();
        let design = Design::from_columns(columns, rows).unwrap();
        let labels: Vec<bool> =
            (0..rows).map(|r| 40.0 * (design.column(0)[r] - design.column(1)[r]) + rng.normal() > 0.0).collect();
        for lambda in [1e-3, 3e-4, 1e-5] {
            let solver = L1Logistic { lambda, tolerance: 1e-7, ..L1Logistic::default() };
            let fit = solver.fit(&design, &labels, None).unwrap();
            assert!(fit.steps < 60, "{lambda}: {} steps", fit.steps);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let (x, labels) = problem(7, 10, 2);
        let fit = |solver: L1Logistic, labels: &[bool], w: Option<&[f64]>| solver.fit(&x, labels, w);
        let solver = L1Logistic::default();
        assert!(matches!(fit(solver, &labels[1..], None), Err(ProbeError::Count { what: "labels", .. })));
        assert!(matches!(fit(solver, &labels, Some(&[0.0; 10])), Err(ProbeError::Setting { field: "weights", .. })));
        let negative = L1Logistic { lambda: -1.0, ..solver };
        assert!(matches!(fit(negative, &labels, None), Err(ProbeError::Setting { field: "lambda", .. })));
        let hurried = L1Logistic { max_steps: 1, ..solver };
        assert!(matches!(fit(hurried, &labels, None), Err(ProbeError::NotConverged { iterations: 1, .. })));
    }
}
