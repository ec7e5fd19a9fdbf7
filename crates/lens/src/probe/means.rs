//! The direction between the means of the two classes: no training, no setting.

use super::Examples;
use super::logistic::Fit;

/// The difference of the class means, and the bias that puts the border half-way. Rows weigh `weights`.
pub(super) fn fit(examples: &Examples, weights: Option<&[f64]>) -> Fit {
    let width = examples.rows.width();
    let mut sums = [vec![0.0; width], vec![0.0; width]];
    let mut totals = [0.0; 2];
    for (row, &label) in examples.labels.iter().enumerate() {
        let (class, weight) = (usize::from(label), weights.map_or(1.0, |w| w[row]));
        totals[class] += weight;
        sums[class].iter_mut().zip(examples.rows.row(row)).for_each(|(s, &v)| *s += weight * f64::from(v));
    }
    let [negative, positive] = sums;
    let mean = |sum: f64, class: usize| sum / totals[class].max(f64::MIN_POSITIVE);
    let means = positive.iter().zip(&negative).map(|(&p, &n)| (mean(p, 1), mean(n, 0)));
    let (mut weight, mut bias) = (Vec::with_capacity(width), 0.0);
    for (p, n) in means {
        weight.push(p - n);
        bias -= (p - n) * 0.5 * (p + n);
    }
    Fit { weight, bias, objective: f64::NAN, steps: 0 }
}
