//! The paper's probe as its code trains it: raw activations, Adam, a fixed number of passes, no early stopping.
//!
//! From the settings of arXiv 2410.16090 (and of the code its authors published): binary cross-entropy plus
//! lambda (|w|_1 + |b|), Adam with a rate of 2e-3 that falls by 5% each epoch, 20 epochs, batches of 64, rows shuffled
//! each epoch. The result depends on the seed, so figures over seeds give mean and deviation.

use meden_stats::Rng;

use super::logistic::{Fit, sigmoid};
use super::{ProbeError, Rows};

/// Settings of the paper's training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaperSgd {
    /// Weight of the penalty: 3e-4 in the paper, 6e-4 in its code.
    pub lambda: f64,
    /// First learning rate.
    pub rate: f64,
    /// What the rate is multiplied with after each epoch.
    pub decay: f64,
    /// Passes over the rows.
    pub epochs: usize,
    /// Rows of a step.
    pub batch: usize,
    /// Seed of the first weights and of the shuffles.
    pub seed: u64,
}

impl Default for PaperSgd {
    fn default() -> Self {
        PaperSgd { lambda: 3e-4, rate: 2e-3, decay: 0.95, epochs: 20, batch: 64, seed: 0 }
    }
}

/// Adam's constants (Kingma and Ba, 2015).
const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

impl PaperSgd {
    /// Trains on rows as they are.
    ///
    /// # Errors
    /// Labels that are not one a row; a batch, a number of epochs or a penalty that makes no sense.
    pub fn fit(&self, rows: &Rows, labels: &[bool]) -> Result<Fit, ProbeError> {
        self.check(rows, labels)?;
        let width = rows.width();
        let mut rng = Rng::new(self.seed, 0);
        // uniform in ±1/sqrt(width), as a linear layer begins in the paper's framework
        let bound = 1.0 / (width as f64).sqrt();
        let mut w: Vec<f64> = (0..=width).map(|_| bound * (2.0 * rng.uniform() - 1.0)).collect();
        let (mut first, mut second) = (vec![0.0; width + 1], vec![0.0; width + 1]);
        let mut order: Vec<usize> = (0..rows.len()).collect();
        let (mut rate, mut steps) = (self.rate, 0);
        let mut gradient = vec![0.0; width + 1];
        for _ in 0..self.epochs {
            rng.shuffle(&mut order);
            for batch in order.chunks(self.batch) {
                self.gradient(rows, labels, batch, (&w, &mut gradient));
                steps += 1;
                let (fade1, fade2) = (1.0 - BETA1.powi(steps), 1.0 - BETA2.powi(steps));
                for (((w, g), m), v) in w.iter_mut().zip(&gradient).zip(&mut first).zip(&mut second) {
                    *m = BETA1 * *m + (1.0 - BETA1) * g;
                    *v = BETA2 * *v + (1.0 - BETA2) * g * g;
                    *w -= rate * (*m / fade1) / ((*v / fade2).sqrt() + EPSILON);
                }
            }
            rate *= self.decay;
        }
        let bias = w.pop().unwrap_or(0.0);
        let objective = self.objective(rows, labels, (&w, bias));
        Ok(Fit { weight: w, bias, objective, steps: steps as usize })
    }

    /// Of the batch's mean loss and the penalty; the derivative of |w| at 0 is 0.
    fn gradient(&self, rows: &Rows, labels: &[bool], batch: &[usize], (w, gradient): (&[f64], &mut [f64])) {
        let width = rows.width();
        for (g, &w) in gradient.iter_mut().zip(w) {
            *g = if w == 0.0 { 0.0 } else { self.lambda * w.signum() };
        }
        for &row in batch {
            let values = rows.row(row);
            let z: f64 = w[width] + values.iter().zip(w).map(|(&v, w)| f64::from(v) * w).sum::<f64>();
            let slope = (sigmoid(z) - f64::from(u8::from(labels[row]))) / batch.len() as f64;
            gradient.iter_mut().zip(values).for_each(|(g, &v)| *g += slope * f64::from(v));
            gradient[width] += slope;
        }
    }

    fn objective(&self, rows: &Rows, labels: &[bool], (w, bias): (&[f64], f64)) -> f64 {
        let loss = |row: usize| {
            let z: f64 = bias + rows.row(row).iter().zip(w).map(|(&v, w)| f64::from(v) * w).sum::<f64>();
            let z = if labels[row] { -z } else { z };
            z.max(0.0) + (-z.abs()).exp().ln_1p()
        };
        let mean = (0..rows.len()).map(loss).sum::<f64>() / rows.len() as f64;
        mean + self.lambda * (w.iter().map(|w| w.abs()).sum::<f64>() + bias.abs())
    }

    fn check(&self, rows: &Rows, labels: &[bool]) -> Result<(), ProbeError> {
        if labels.len() != rows.len() {
            return Err(ProbeError::Count { what: "labels", found: labels.len(), needed: rows.len() });
        }
        let refuse = |field, value: String, allowed| Err(ProbeError::Setting { field, value, allowed });
        if !(self.lambda >= 0.0 && self.lambda.is_finite()) {
            return refuse("lambda", self.lambda.to_string(), "0 and more");
        }
        if !(self.rate > 0.0 && self.rate.is_finite() && self.decay > 0.0 && self.decay <= 1.0) {
            return refuse("rate", format!("{} with a decay of {}", self.rate, self.decay), "above 0, decay up to 1");
        }
        if self.batch == 0 || self.epochs == 0 {
            return refuse("batch", format!("{} in {} epochs", self.batch, self.epochs), "1 and more of both");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Design, L1Logistic, Standard};
    use super::*;

    fn rows(n: usize) -> (Rows, Vec<bool>) {
        let mut rng = Rng::new(4, 0);
        let values: Vec<f32> = (0..n * 6).map(|_| rng.normal() as f32).collect();
        let rows = Rows::new(values, 6).unwrap();
        let labels = (0..n).map(|r| f64::from(rows.row(r)[0]) + 0.7 * rng.normal() > 0.0).collect();
        (rows, labels)
    }

    #[test]
    fn it_comes_near_the_exact_minimum_of_the_same_objective() {
        let (rows, labels) = rows(2000);
        let sgd = PaperSgd { rate: 2e-2, epochs: 60, ..PaperSgd::default() }.fit(&rows, &labels).unwrap();
        let design = Design::new(&rows, &Standard::none(6));
        let exact = L1Logistic::default().fit(&design, &labels, None).unwrap();
        assert!(sgd.objective >= exact.objective - 1e-12);
        assert!(sgd.objective < exact.objective + 5e-3, "{} against {}", sgd.objective, exact.objective);
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let (rows, labels) = rows(100);
        let fit = |seed| PaperSgd { seed, epochs: 2, ..PaperSgd::default() }.fit(&rows, &labels).unwrap();
        assert_eq!(fit(1), fit(1));
        assert_ne!(fit(1), fit(2));
        let bad = PaperSgd { batch: 0, ..PaperSgd::default() }.fit(&rows, &labels);
        assert!(matches!(bad, Err(ProbeError::Setting { field: "batch", .. })));
    }
}
