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

#[cfg(test)]
mod tests {
    use super::*;

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
