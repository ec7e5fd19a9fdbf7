//! Several tests at once, and exact tests of counts.

/// Holm's step-down adjustment (1979): the i-th smallest of m p values is multiplied by m - i + 1 (counted from 1) and
/// never falls below a smaller one's. An adjusted value below the level may be called significant, with the chance of
/// any false call among all m kept under the level. Values that are not numbers stay so and are not counted.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| !p[i].is_nan()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![f64::NAN; p.len()];
    let mut least = 0.0f64;
    for (step, &i) in order.iter().enumerate() {
        least = least.max((p[i] * (order.len() - step) as f64).min(1.0));
        adjusted[i] = least;
    }
    adjusted
}

/// Two-sided exact p of `first` against `second` when both were equally likely each time: the sign test, and McNemar's
/// exact test for the two kinds of discordant pairs. 1 without any count.
pub fn sign_test(first: u64, second: u64) -> f64 {
    let n = first + second;
    // log C(n, k) - n log 2 for k = 0, 1, ..., summed up to the smaller count
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    for k in 1..=first.min(second) {
        log_term += ((n - k + 1) as f64).ln() - (k as f64).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Benjamini and Hochberg's adjustment (1995) for the share of false calls: the i-th smallest of m p values is multiplied
/// by m / i and never rises above a larger one's. Values that are not numbers stay so and are not counted.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| !p[i].is_nan()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![f64::NAN; p.len()];
    let mut most = 1.0f64;
    for (place, &i) in order.iter().enumerate().rev() {
        most = most.min(p[i] * order.len() as f64 / (place + 1) as f64);
        adjusted[i] = most;
    }
    adjusted
}

/// McNemar's chi-squared with the continuity correction, `(|b - c| - 1)² / (b + c)`, and its p with one degree of
/// freedom. Not clamped at zero: equal counts give 1 / (b + c). `None` without discordant pairs; the exact p is
/// [`sign_test`], to be preferred for 25 pairs or fewer.
pub fn mcnemar_corrected(first: u64, second: u64) -> Option<(f64, f64)> {
    let n = first + second;
    if n == 0 {
        return None;
    }
    let statistic = (first.abs_diff(second) as f64 - 1.0).powi(2) / n as f64;
    Some((statistic, 2.0 * crate::normal::cdf(-statistic.sqrt())))
}

/// The mid-p variant of [`sign_test`], half as strict about the outcome that was seen: less careful, more powerful.
pub fn sign_test_mid(first: u64, second: u64) -> f64 {
    let n = first + second;
    if n == 0 {
        return 1.0;
    }
    if first == second {
        return (1.0 - 0.5 * binomial_half(n, first)).min(1.0);
    }
    (sign_test(first, second) - binomial_half(n, first.min(second))).clamp(0.0, 1.0)
}

/// C(n, k) / 2^n.
fn binomial_half(n: u64, k: u64) -> f64 {
    let log = (1..=k).map(|j| ((n - j + 1) as f64).ln() - (j as f64).ln()).sum::<f64>();
    (log - n as f64 * std::f64::consts::LN_2).exp()
}

/// Share of faulty items from the share flagged by a detector of known sensitivity and specificity (Rogan and Gladen,
/// 1978), cut to [0, 1]. `None` where the detector tells nothing (sensitivity + specificity at most 1).
pub fn rogan_gladen(flagged: f64, sensitivity: f64, specificity: f64) -> Option<f64> {
    let informed = sensitivity + specificity - 1.0;
    (informed > 0.0).then(|| ((flagged + specificity - 1.0) / informed).clamp(0.0, 1.0))
}

/// How many there are in all when one pass found `first`, an independent one `second`, and both found `shared`
/// (Chapman, 1951). Passes that find the same kinds make it a lower bound. `None` with more shared than found.
pub fn chapman(first: u64, second: u64, shared: u64) -> Option<f64> {
    (shared <= first.min(second)).then(|| (first as f64 + 1.0) * (second as f64 + 1.0) / (shared as f64 + 1.0) - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_gives_the_values_of_two_models_on_one_benchmark() {
        for ((b, c), statistic, exact) in [((343, 321), 0.6642, 0.4151), ((311, 293), 0.4785, 0.4891)] {
            assert!((mcnemar_corrected(b, c).unwrap().0 - statistic).abs() < 5e-5);
            assert!((sign_test(b, c) - exact).abs() < 5e-5);
            assert!(sign_test_mid(b, c) < sign_test(b, c));
        }
        assert_eq!(mcnemar_corrected(0, 0), None);
        assert!((mcnemar_corrected(2, 2).unwrap().0 - 0.25).abs() < 1e-12);
        assert!((sign_test_mid(0, 6) - 1.0 / 64.0).abs() < 1e-12);
    }

    #[test]
    fn benjamini_and_hochberg_matches_a_case_done_by_hand() {
        let adjusted = benjamini_hochberg(&[0.01, 0.04, 0.03, 0.005, f64::NAN]);
        for (a, e) in adjusted.iter().zip([0.02, 0.04, 0.04, 0.02]) {
            assert!((a - e).abs() < 1e-12, "{adjusted:?}");
        }
        assert!(adjusted[4].is_nan());
    }

    #[test]
    fn unseen_faults_are_estimated_where_that_is_possible() {
        assert!((chapman(82, 51, 47).unwrap() - 88.9).abs() < 0.05);
        assert_eq!(chapman(3, 3, 4), None);
        assert!((rogan_gladen(0.26, 0.8, 0.9).unwrap() - 0.16 / 0.7).abs() < 1e-12);
        assert_eq!(rogan_gladen(0.3, 0.5, 0.5), None);
    }

    #[test]
    fn holm_matches_a_case_done_by_hand_and_keeps_order() {
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (a, e) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((a - e).abs() < 1e-12, "{adjusted:?}");
        }
        let with_nan = holm(&[f64::NAN, 0.5, 0.9]);
        assert!(with_nan[0].is_nan());
        assert_eq!(&with_nan[1..], &[1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn the_sign_test_is_two_sided_and_exact() {
        assert_eq!(sign_test(0, 0), 1.0);
        assert_eq!(sign_test(4, 4), 1.0);
        assert!((sign_test(0, 6) - 2.0 / 64.0).abs() < 1e-15);
        assert!((sign_test(9, 1) - 2.0 * 11.0 / 1024.0).abs() < 1e-14);
        assert_eq!(sign_test(9, 1), sign_test(1, 9));
        assert!(sign_test(0, 5000) >= 0.0 && sign_test(2400, 2600) < 0.01);
    }
}
