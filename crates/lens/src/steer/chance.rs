//! How likely a latent would say as much by chance.
//!
//! Few permutations cannot give the small probabilities that thousands of tests ask for. So a gamma distribution with the
//! mean and the variance of the permuted values stands for them (a Pearson type III fit of a permutation distribution).

use meden_stats::Rng;

/// Labels in another order within each stratum.
pub fn shuffled(labels: &[bool], strata: &[u32], rng: &mut Rng) -> Vec<bool> {
    let mut groups: std::collections::BTreeMap<u32, Vec<usize>> = std::collections::BTreeMap::new();
    strata.iter().enumerate().for_each(|(row, s)| groups.entry(*s).or_default().push(row));
    let mut out = labels.to_vec();
    for rows in groups.values() {
        let mut of: Vec<bool> = rows.iter().map(|&r| labels[r]).collect();
        rng.shuffle(&mut of);
        rows.iter().zip(of).for_each(|(&r, y)| out[r] = y);
    }
    out
}

/// Probability of at least `value` where permutations gave these values, by a gamma fit; 1 where permutations change
/// nothing.
pub fn tail(value: f64, permuted: &[f64]) -> f64 {
    let n = permuted.len().max(2) as f64;
    let mean = permuted.iter().sum::<f64>() / n;
    let variance = permuted.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0);
    if variance <= 1e-24 || mean <= 0.0 {
        return 1.0;
    }
    upper_gamma(mean * mean / variance, value.max(0.0) * mean / variance)
}

/// Benjamini and Hochberg's step-up rule (1995): which hypotheses may be called false while the expected share of wrong
/// calls among all calls stays at `rate`.
pub fn benjamini_hochberg(p: &[f64], rate: f64) -> Vec<bool> {
    let mut sorted = p.to_vec();
    sorted.sort_by(f64::total_cmp);
    let m = p.len() as f64;
    let last = (0..sorted.len()).rev().find(|&i| sorted[i] <= rate * (i + 1) as f64 / m);
    p.iter().map(|p| last.is_some_and(|at| *p <= sorted[at])).collect()
}

/// Regularised upper incomplete gamma function, for `shape` > 0 and `x` >= 0: a series below, a continued fraction above.
fn upper_gamma(shape: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let front = (shape * x.ln() - x - ln_gamma(shape)).exp();
    if x < shape + 1.0 {
        let (mut term, mut sum, mut at) = (1.0 / shape, 1.0 / shape, shape);
        while term > sum * 1e-16 {
            at += 1.0;
            term *= x / at;
            sum += term;
        }
        return (1.0 - front * sum).clamp(0.0, 1.0);
    }
    let tiny = 1e-300;
    let mut b = x + 1.0 - shape;
    let (mut c, mut d) = (1.0 / tiny, 1.0 / b);
    let mut h = d;
    for i in 1..10_000 {
        let a = -f64::from(i) * (f64::from(i) - shape);
        b += 2.0;
        d = 1.0 / (a * d + b + tiny);
        c = b + a / c;
        h *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (front * h).clamp(0.0, 1.0)
}

/// Logarithm of the gamma function for x > 0, by Stirling's series.
fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 10.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series = (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0))) / x;
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamma_tails_have_their_closed_forms() {
        for x in [0.1f64, 1.0, 3.0, 20.0] {
            assert!((upper_gamma(1.0, x) - (-x).exp()).abs() < 1e-12);
            assert!((upper_gamma(2.0, x) - (1.0 + x) * (-x).exp()).abs() < 1e-12);
        }
        // chi-square, one degree of freedom: 5% lies above 3.841458820694124
        assert!((upper_gamma(0.5, 3.841_458_820_694_124 / 2.0) - 0.05).abs() < 1e-10);
    }

    #[test]
    fn the_step_up_rule_matches_a_case_done_by_hand() {
        // limits 0.0125, 0.025, 0.0375, 0.05: the third passes and takes the second, above its own limit, with it
        assert_eq!(benjamini_hochberg(&[0.03, 0.001, 0.5, 0.037], 0.05), [true, true, false, true]);
        assert_eq!(benjamini_hochberg(&[0.3, 0.2], 0.05), [false, false]);
        assert!(benjamini_hochberg(&[], 0.05).is_empty());
    }

    #[test]
    fn permutations_stay_within_strata_and_change_nothing_where_these_fix_the_label() {
        let (labels, strata) = ([true, false, true, true], [0, 0, 1, 1]);
        for draw in 0..20 {
            let other = shuffled(&labels, &strata, &mut Rng::new(1, draw));
            assert!(other[0] != other[1] && other[2] && other[3]);
        }
        assert_eq!(tail(0.3, &[0.2, 0.2, 0.2]), 1.0);
        assert!(tail(0.5, &[0.01, 0.02, 0.015, 0.005]) < 1e-6);
    }
}
