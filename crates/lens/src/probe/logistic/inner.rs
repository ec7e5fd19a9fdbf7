//! One Newton step: the penalised minimum of a quadratic.

use meden_engine::press::linear::{cholesky, solve};

use super::{soft, subgradient};

/// Most passes over the active coordinates for one step.
const PASSES: usize = 2000;
/// Passes before the first system that is solved at once; each further one comes after twice as many.
const POLISH: usize = 20;

/// The penalised second-order expansion around a point, over its active coordinates.
pub(super) struct Inner {
    pub gradient: Vec<f64>,
    pub lambda: Vec<f64>,
    pub at: Vec<f64>,
    /// (n, n)
    pub hessian: Vec<f64>,
}

impl Inner {
    /// The step to its minimum, one coordinate at a time, until no condition is missed by more than `enough`. Columns that
    /// are much alike take thousands of passes; each costs only the square of the active coordinates.
    pub fn solve(&self, enough: f64) -> Vec<f64> {
        let n = self.at.len();
        let mut step = vec![0.0; n];
        let mut slope = self.gradient.clone(); // of the expansion, at the step
        let mut next = POLISH;
        for pass in 0..PASSES {
            let mut missed = 0.0f64;
            for i in 0..n {
                let row = &self.hessian[i * n..(i + 1) * n];
                let at = self.at[i] + step[i];
                let change = soft(at - slope[i] / row[i], self.lambda[i] / row[i]) - at;
                if change != 0.0 {
                    step[i] += change;
                    missed = missed.max(change.abs() * row[i]);
                    slope.iter_mut().zip(row).for_each(|(s, h)| *s += change * h);
                }
            }
            // small changes alone say little where columns are alike: look at the conditions themselves
            if missed <= enough && self.missed(&step, &slope) <= enough {
                break;
            }
            if pass + 1 == next {
                self.polish(&mut step, &mut slope);
                next *= 2;
            }
        }
        step
    }

    /// Goes towards the minimum over the coordinates that are not zero, their signs held: all the way, or to where the
    /// first of them becomes zero. One solved system does what thousands of passes do where columns are much alike.
    fn polish(&self, step: &mut [f64], slope: &mut [f64]) {
        let n = step.len();
        let free: Vec<usize> = (0..n).filter(|&i| self.at[i] + step[i] != 0.0).collect();
        let m = free.len();
        let mut matrix = vec![0.0; m * m];
        for (a, &i) in free.iter().enumerate() {
            free.iter().enumerate().for_each(|(b, &j)| matrix[a * m + b] = self.hessian[i * n + j]);
            matrix[a * m + a] *= 1.0 + 1e-12;
        }
        let sign = |i: usize| (self.at[i] + step[i]).signum();
        let mut change: Vec<f64> = free.iter().map(|&i| -(slope[i] + self.lambda[i] * sign(i))).collect();
        let Some(l) = cholesky(&matrix, m) else { return };
        solve(&l, &mut change);
        let mut size = 1.0;
        let mut first = None;
        for (&i, &d) in free.iter().zip(&change) {
            let at = self.at[i] + step[i];
            let meets = -at / d;
            if meets > 0.0 && meets < size {
                (size, first) = (meets, Some(i));
            }
        }
        if !change.iter().all(|d| d.is_finite()) {
            return;
        }
        for (&i, &d) in free.iter().zip(&change) {
            let moved = if first == Some(i) { -self.at[i] - step[i] } else { size * d };
            step[i] += moved;
            let row = &self.hessian[i * n..(i + 1) * n];
            slope.iter_mut().zip(row).for_each(|(s, h)| *s += moved * h);
        }
    }

    fn missed(&self, step: &[f64], slope: &[f64]) -> f64 {
        let of = |i: usize| subgradient(self.at[i] + step[i], slope[i], self.lambda[i]);
        (0..step.len()).map(of).fold(0.0, f64::max)
    }
}
