//! From scores to probabilities.

use meden_stats::classify;
use serde::{Deserialize, Serialize};

use super::ProbeError;
use super::logistic::sigmoid;

/// p = 1 / (1 + exp(-(slope * score + offset))), fitted on scores of rows that the probe had not seen (Platt, 1999).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// What a score is multiplied with (f32, so that a file in decimal digits holds it exactly).
    pub slope: f32,
    /// What is added.
    pub offset: f32,
    /// Rows that it was fitted on.
    pub rows: usize,
    /// Expected calibration error on those rows, ten bins.
    pub error: f64,
}

impl Calibration {
    /// The most likely curve for these scores. Labels are pulled a little towards the middle, as Platt does, so that
    /// scores that part the classes have a finite answer.
    ///
    /// # Errors
    /// Scores that are not one a label or not finite, a missing class.
    pub fn fit(labels: &[bool], scores: &[f64]) -> Result<Calibration, ProbeError> {
        if labels.len() != scores.len() {
            return Err(ProbeError::Count { what: "scores", found: scores.len(), needed: labels.len() });
        }
        if let Some(row) = scores.iter().position(|s| !s.is_finite()) {
            return Err(ProbeError::NotFinite { row, column: 0, value: scores[row] });
        }
        let positives = labels.iter().filter(|l| **l).count();
        let negatives = labels.len() - positives;
        if positives == 0 || negatives == 0 {
            let what = "rows of the rarer class".to_owned();
            return Err(ProbeError::TooFew { what, found: 0, needed: 1 });
        }
        let high = (positives as f64 + 1.0) / (positives as f64 + 2.0);
        let low = 1.0 / (negatives as f64 + 2.0);
        let targets: Vec<f64> = labels.iter().map(|&l| if l { high } else { low }).collect();
        let (slope, offset) = newton(&targets, scores);
        let mut fitted = Calibration { slope: slope as f32, offset: offset as f32, rows: labels.len(), error: 0.0 };
        let said: Vec<f64> = scores.iter().map(|&s| fitted.probability(s)).collect();
        fitted.error = classify::expected_calibration_error(labels, &said, 10).unwrap_or(f64::NAN);
        Ok(fitted)
    }

    /// The probability of the class labelled true.
    pub fn probability(&self, score: f64) -> f64 {
        sigmoid(f64::from(self.slope) * score + f64::from(self.offset))
    }
}

/// Newton's method on the two coefficients, scores brought to mean 0 and deviation 1 first, steps halved until the loss
/// falls.
fn newton(targets: &[f64], scores: &[f64]) -> (f64, f64) {
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let deviation = (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n).sqrt();
    let scale = if deviation > 0.0 { deviation } else { 1.0 };
    let x: Vec<f64> = scores.iter().map(|s| (s - mean) / scale).collect();
    let loss = |a: f64, b: f64| -> f64 {
        let row = |(x, t): (&f64, &f64)| {
            let z = a * x + b;
            z.max(0.0) - t * z + (-z.abs()).exp().ln_1p()
        };
        x.iter().zip(targets).map(row).sum()
    };
    let (mut a, mut b) = (0.0, 0.0);
    for _ in 0..100 {
        let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 1e-12, 0.0, 1e-12);
        for (x, t) in x.iter().zip(targets) {
            let p = sigmoid(a * x + b);
            let (slope, curve) = (p - t, p * (1.0 - p));
            ga += slope * x;
            gb += slope;
            haa += curve * x * x;
            hab += curve * x;
            hbb += curve;
        }
        if ga.abs().max(gb.abs()) < 1e-10 * n {
            break;
        }
        let determinant = haa * hbb - hab * hab;
        let (da, db) = ((hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant);
        let before = loss(a, b);
        let mut size = 1.0;
        while size > 1e-10 && loss(a - size * da, b - size * db) > before {
            size *= 0.5;
        }
        (a, b) = (a - size * da, b - size * db);
    }
    (a / scale, b - a * mean / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use meden_stats::Rng;

    #[test]
    fn scores_that_are_too_sure_are_brought_back() {
        let mut rng = Rng::new(1, 0);
        let truth: Vec<f64> = (0..4000).map(|_| 1.5 * rng.normal()).collect();
        let labels: Vec<bool> = truth.iter().map(|&z| rng.uniform() < sigmoid(z)).collect();
        let sure: Vec<f64> = truth.iter().map(|z| 10.0 * z + 30.0).collect();
        let fitted = Calibration::fit(&labels, &sure).unwrap();
        assert!((fitted.slope - 0.1).abs() < 0.01 && (fitted.offset + 3.0).abs() < 0.3, "{fitted:?}");
        assert!(fitted.error < 0.03, "{fitted:?}");
    }

    #[test]
    fn parted_classes_and_equal_scores_have_finite_answers() {
        let labels = [false, false, true, true];
        let parted = Calibration::fit(&labels, &[-2.0, -1.0, 1.0, 2.0]).unwrap();
        assert!(parted.slope > 0.0 && parted.slope.is_finite());
        assert!(parted.probability(5.0) < 1.0 && parted.probability(5.0) > 0.7);
        let equal = Calibration::fit(&labels, &[1.0; 4]).unwrap();
        assert!((equal.probability(1.0) - 0.5).abs() < 1e-6);
        assert!(Calibration::fit(&[true; 4], &[1.0; 4]).is_err());
        assert!(Calibration::fit(&labels, &[f64::INFINITY, 0.0, 0.0, 0.0]).is_err());
    }
}
