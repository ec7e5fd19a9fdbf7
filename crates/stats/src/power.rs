//! How small an effect a study of a given size could see: to be said before it is run.

use crate::normal;

/// Standard error of an AUROC of `area` with `positives` and `negatives` independent rows (Hanley and McNeil, 1982).
/// Not a number where a class is missing or the area lies outside [0, 1].
pub fn auroc_standard_error(area: f64, positives: usize, negatives: usize) -> f64 {
    if positives == 0 || negatives == 0 || !(0.0..=1.0).contains(&area) {
        return f64::NAN;
    }
    let (p, n) = (positives as f64, negatives as f64);
    // chances that two positives both stand above one negative, and one positive above two negatives
    let two_positives = area / (2.0 - area);
    let two_negatives = 2.0 * area * area / (1.0 + area);
    let square = area * area;
    let variance =
        (area * (1.0 - area) + (p - 1.0) * (two_positives - square) + (n - 1.0) * (two_negatives - square)) / (p * n);
    variance.max(0.0).sqrt()
}

/// The smallest AUROC above 0.5 that a two-sided test at `alpha` tells from 0.5 with the given power. `None` where even
/// an area of 1 would be missed, a class is missing, or a level lies outside (0, 1).
pub fn least_auroc(positives: usize, negatives: usize, alpha: f64, power: f64) -> Option<f64> {
    let inside = |v: f64| v > 0.0 && v < 1.0;
    if positives == 0 || negatives == 0 || !inside(alpha) || !inside(power) {
        return None;
    }
    let needed = normal::quantile(1.0 - 0.5 * alpha) * auroc_standard_error(0.5, positives, negatives);
    let spare = normal::quantile(power);
    let seen = |area: f64| area - 0.5 - needed - spare * auroc_standard_error(area, positives, negatives) >= 0.0;
    if !seen(1.0) {
        return None;
    }
    let (mut low, mut high) = (0.5, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if seen(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rng, moments, ranking};

    #[test]
    fn the_standard_error_is_that_of_simulated_samples() {
        // two normal classes one apart: the area is the chance that N(1, 2) is above 0
        let area = normal::cdf(1.0 / 2f64.sqrt());
        let areas: Vec<f64> = (0..400)
            .map(|i| {
                let mut rng = Rng::new(9, i);
                let labels: Vec<bool> = (0..150).map(|i| i < 60).collect();
                let scores: Vec<f64> = labels.iter().map(|&l| rng.normal() + f64::from(u8::from(l))).collect();
                ranking::auroc(&labels, &scores).unwrap()
            })
            .collect();
        let simulated = moments::variance(&areas).sqrt();
        assert!((moments::mean(&areas) - area).abs() < 0.01);
        assert!((simulated / auroc_standard_error(area, 60, 90) - 1.0).abs() < 0.15, "{simulated}");
    }

    #[test]
    fn more_rows_see_smaller_effects_and_too_few_see_none() {
        let small = least_auroc(30, 30, 0.05, 0.8).unwrap();
        let large = least_auroc(300, 300, 0.05, 0.8).unwrap();
        assert!(0.5 < large && large < small && small < 0.75, "{large} {small}");
        assert_eq!(least_auroc(1, 1, 0.05, 0.8), None);
        assert_eq!(least_auroc(0, 10, 0.05, 0.8), None);
        assert_eq!(least_auroc(10, 10, 1.0, 0.8), None);
        assert!(auroc_standard_error(0.5, 0, 3).is_nan());
    }
}
