//! How the values of one vector are spread: moments, sparsity, norms.
//!
//! Made for the rows of a residual stream, whose few massive channels these measures are about (arXiv 2410.16090, where
//! kurtosis, Hoyer and Gini tell which source a model will follow). Moments in two passes, sums in f64.

use crate::moments::sum;

/// Measures of one vector of n values. Those that a vector leaves undefined (all values equal, all zero, too few) are
/// not a number rather than a plausible zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distribution {
    /// n.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Variance with divisor n.
    pub variance: f64,
    /// Third standardised moment, `m3 / m2^1.5`.
    pub skewness: f64,
    /// Fourth standardised moment, `m4 / m2²`, not excess: 3 for a Gaussian.
    pub kurtosis: f64,
    /// Hoyer's sparsity, `(√n - l1/l2) / (√n - 1)`: 0 for equal magnitudes, 1 for a single non-zero value (Hoyer 2004).
    pub hoyer: f64,
    /// Gini index of the magnitudes, with n - i + 1/2 (Hurley & Rickard 2009): 0 for equal magnitudes, 1 - 1/n for a
    /// single non-zero value.
    pub gini: f64,
    /// The same with n - i + 1, as the code of 2410.16090 has it: `gini - 1/n`.
    pub gini_code: f64,
    /// Sum of magnitudes.
    pub l1: f64,
    /// Euclidean norm.
    pub l2: f64,
    /// `l2 / √n`.
    pub rms: f64,
    /// Least value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// `(Σx²)² / (n Σx⁴)`: the share of the values that the squared norm is spread over.
    pub participation: f64,
    /// Share of the squared norm in the largest magnitude.
    pub top_1_share: f64,
    /// Share of the squared norm in the four largest magnitudes.
    pub top_4_share: f64,
}

impl Distribution {
    /// Names of the measures, in the order of [`measures`](Distribution::measures).
    pub const NAMES: [&'static str; 15] = [
        "mean",
        "variance",
        "skewness",
        "kurtosis",
        "hoyer",
        "gini",
        "gini_code",
        "l1",
        "l2",
        "rms",
        "min",
        "max",
        "participation",
        "top_1_share",
        "top_4_share",
    ];

    /// The measures of some values; `None` where there are none or one is not finite.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Distribution> {
        let x: Vec<f64> = values.into_iter().collect();
        if x.is_empty() || x.iter().any(|v| !v.is_finite()) {
            return None;
        }
        let n = x.len() as f64;
        let mean = sum(x.iter().copied()) / n;
        let moment = |k: i32| sum(x.iter().map(|v| (v - mean).powi(k))) / n;
        let variance = moment(2);
        let mut sizes: Vec<f64> = x.iter().map(|v| v.abs()).collect();
        sizes.sort_unstable_by(f64::total_cmp);
        let l1 = sum(sizes.iter().copied());
        let squares = sum(sizes.iter().map(|v| v * v));
        let l2 = squares.sqrt();
        let ranked = sum(sizes.iter().enumerate().map(|(i, v)| (n - i as f64) * v));
        let gini_code = 1.0 - 2.0 / n * ranked / l1;
        let top = |k: usize| sum(sizes.iter().rev().take(k).map(|v| v * v)) / squares;
        Some(Distribution {
            count: x.len(),
            mean,
            variance,
            skewness: moment(3) / variance.powf(1.5),
            kurtosis: moment(4) / (variance * variance),
            hoyer: (n.sqrt() - l1 / l2) / (n.sqrt() - 1.0),
            gini: gini_code + 1.0 / n,
            gini_code,
            l1,
            l2,
            rms: l2 / n.sqrt(),
            min: x.iter().copied().fold(f64::INFINITY, f64::min),
            max: x.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            participation: squares * squares / (n * sum(sizes.iter().map(|v| v.powi(4)))),
            top_1_share: top(1),
            top_4_share: top(4),
        })
    }

    /// All measures, in the order of [`NAMES`](Distribution::NAMES).
    pub fn measures(&self) -> [f64; 15] {
        [
            self.mean,
            self.variance,
            self.skewness,
            self.kurtosis,
            self.hoyer,
            self.gini,
            self.gini_code,
            self.l1,
            self.l2,
            self.rms,
            self.min,
            self.max,
            self.participation,
            self.top_1_share,
            self.top_4_share,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    fn close(value: f64, want: f64, within: f64) {
        assert!((value - want).abs() <= within, "{value} is not {want}");
    }

    #[test]
    fn known_distributions_have_their_known_measures() {
        let n = 1_000_000;
        let mut rng = Rng::new(7, 1);
        let d = Distribution::of((0..n).map(|_| rng.normal())).unwrap();
        close(d.kurtosis, 3.0, 0.02);
        close(d.hoyer, 1.0 - (2.0 / std::f64::consts::PI).sqrt(), 2e-3);
        close(d.gini, 2f64.sqrt() - 1.0, 2e-3);
        close(d.l1 / n as f64, 0.7979, 2e-3);
        close(d.participation, 1.0 / 3.0, 2e-3);
        let d = Distribution::of((0..n).map(|_| 2.0 * rng.uniform() - 1.0)).unwrap();
        close(d.kurtosis, 1.8, 0.01);
        close(d.gini, 1.0 / 3.0, 2e-3);
        close(d.hoyer, 1.0 - 3f64.sqrt() / 2.0, 2e-3);
        let mut laplace = || {
            let u = rng.uniform() - 0.5;
            -u.signum() * (1.0 - 2.0 * u.abs()).max(1e-300).ln()
        };
        let d = Distribution::of((0..n).map(|_| laplace())).unwrap();
        close(d.kurtosis, 6.0, 0.15);
        close(d.hoyer, 1.0 - 0.5f64.sqrt(), 2e-3);
        close(d.gini, 0.5, 2e-3);
    }

    #[test]
    fn a_single_value_and_equal_values_are_the_ends_of_the_scales() {
        let n = 64;
        let one = Distribution::of((0..n).map(|i| if i == 5 { -3.0 } else { 0.0 })).unwrap();
        let p = 1.0 / n as f64;
        close(one.kurtosis, (1.0 - 3.0 * p * (1.0 - p)) / (p * (1.0 - p)), 1e-9);
        close(one.hoyer, 1.0, 1e-12);
        close(one.gini, 1.0 - p, 1e-12);
        close(one.participation, p, 1e-12);
        assert_eq!((one.top_1_share, one.top_4_share, one.min, one.max), (1.0, 1.0, -3.0, 0.0));
        let equal = Distribution::of((0..n).map(|i| if i % 2 == 0 { 2.0 } else { -2.0 })).unwrap();
        close(equal.hoyer, 0.0, 1e-12);
        close(equal.gini, 0.0, 1e-12);
        close(equal.gini_code, -p, 1e-12);
        close(equal.participation, 1.0, 1e-12);
        close(equal.top_4_share, 4.0 * p, 1e-12);
    }

    #[test]
    fn order_and_scale_play_no_part_where_they_must_not() {
        let mut rng = Rng::new(3, 1);
        let mut x: Vec<f64> = (0..577).map(|_| rng.normal().powi(3)).collect();
        let d = Distribution::of(x.iter().copied()).unwrap();
        let scaled = Distribution::of(x.iter().map(|v| -7.5 * v)).unwrap();
        for (a, b) in [
            (d.kurtosis, scaled.kurtosis),
            (d.hoyer, scaled.hoyer),
            (d.gini, scaled.gini),
            (d.top_1_share, scaled.top_1_share),
        ] {
            close(a, b, 1e-9);
        }
        let shifted = Distribution::of(x.iter().map(|v| v + 10.0)).unwrap();
        close(shifted.kurtosis, d.kurtosis, 1e-6);
        assert!((shifted.hoyer - d.hoyer).abs() > 0.1 && (shifted.gini - d.gini).abs() > 0.1);
        rng.shuffle(&mut x);
        for (a, b) in Distribution::of(x).unwrap().measures().into_iter().zip(d.measures()) {
            close(a, b, 1e-9 * b.abs().max(1.0));
        }
    }

    #[test]
    fn what_has_no_measure_is_not_a_number_and_what_is_no_number_has_no_measures() {
        assert_eq!(Distribution::of([]), None);
        assert_eq!(Distribution::of([1.0, f64::NAN]), None);
        assert_eq!(Distribution::of([1.0, f64::INFINITY]), None);
        let zeros = Distribution::of([0.0; 4]).unwrap();
        assert!(zeros.kurtosis.is_nan() && zeros.hoyer.is_nan() && zeros.gini.is_nan() && zeros.l2 == 0.0);
        assert!(Distribution::of([5.0]).unwrap().hoyer.is_nan());
        assert_eq!(Distribution::NAMES.len(), zeros.measures().len());
    }
}
