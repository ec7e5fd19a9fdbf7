//! Sums, means and central moments.
//!
//! Why not plain loops: a mean of a million log-probabilities summed naively loses digits that a comparison of two
//! runs needs. [`sum`] compensates; [`Moments`] updates in one pass without subtracting large squares.

/// Sum with Neumaier's compensation: the error does not grow with the number of terms.
pub fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut total, mut lost) = (0.0f64, 0.0f64);
    for value in values {
        let next = total + value;
        lost += if total.abs() >= value.abs() { (total - next) + value } else { (value - next) + total };
        total = next;
    }
    // A total that is infinite or not a number has made `lost` not a number too; the plain total then says more.
    if lost.is_finite() { total + lost } else { total }
}

/// Arithmetic mean; not a number for no values.
pub fn mean(values: &[f64]) -> f64 {
    sum(values.iter().copied()) / values.len() as f64
}

/// Unbiased variance (divisor n - 1); not a number for fewer than two values.
pub fn variance(values: &[f64]) -> f64 {
    let centre = mean(values);
    if values.len() < 2 {
        return f64::NAN;
    }
    sum(values.iter().map(|v| (v - centre) * (v - centre))) / (values.len() - 1) as f64
}

/// Mean of `values` with non-negative `weights`; `None` where the lengths differ, a weight is negative or not a
/// number, or the weights sum to zero.
pub fn weighted_mean(values: &[f64], weights: &[f64]) -> Option<f64> {
    let total = sum(weights.iter().copied());
    if values.len() != weights.len() || weights.iter().any(|w| w.is_nan() || *w < 0.0) || total <= 0.0 {
        return None;
    }
    Some(sum(values.iter().zip(weights).map(|(v, w)| v * w)) / total)
}

/// Count, mean and central moments to the fourth, gathered in one pass and mergeable (Pébay, "Formulas for robust,
/// one-pass parallel computation of covariances and arbitrary-order statistical moments", 2008).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    count: u64,
    mean: f64,
    second: f64,
    third: f64,
    fourth: f64,
}

impl Moments {
    /// The moments of all `values`.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Moments {
        let mut moments = Moments::default();
        values.into_iter().for_each(|v| moments.push(v));
        moments
    }

    /// Takes in one value.
    pub fn push(&mut self, value: f64) {
        let single = Moments { count: 1, mean: value, ..Moments::default() };
        *self = self.merge(&single);
    }

    /// The moments of both sets together.
    pub fn merge(&self, other: &Moments) -> Moments {
        if self.count == 0 || other.count == 0 {
            return if self.count == 0 { *other } else { *self };
        }
        let (n_a, n_b) = (self.count as f64, other.count as f64);
        let n = n_a + n_b;
        let delta = other.mean - self.mean;
        let step = delta / n;
        Moments {
            count: self.count + other.count,
            mean: self.mean + step * n_b,
            second: self.second + other.second + delta * step * n_a * n_b,
            third: self.third
                + other.third
                + delta * step * step * n_a * n_b * (n_a - n_b)
                + 3.0 * step * (n_a * other.second - n_b * self.second),
            fourth: self.fourth
                + other.fourth
                + delta * step * step * step * n_a * n_b * (n_a * n_a - n_a * n_b + n_b * n_b)
                + 6.0 * step * step * (n_a * n_a * other.second + n_b * n_b * self.second)
                + 4.0 * step * (n_a * other.third - n_b * self.third),
        }
    }

    /// How many values were taken in.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean; not a number for no values.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.mean }
    }

    /// Unbiased variance (divisor n - 1); not a number for fewer than two values.
    pub fn variance(&self) -> f64 {
        if self.count < 2 {
            return f64::NAN;
        }
        self.second / (self.count - 1) as f64
    }

    /// Standard deviation, the root of [`Moments::variance`].
    pub fn deviation(&self) -> f64 {
        self.variance().sqrt()
    }

    /// Skewness g1 = m3 / m2^1.5 with moments of divisor n; not a number where all values are equal.
    pub fn skewness(&self) -> f64 {
        (self.count as f64).sqrt() * self.third / self.second.powf(1.5)
    }

    /// Excess kurtosis g2 = m4 / m2² - 3 with moments of divisor n; not a number where all values are equal.
    pub fn excess_kurtosis(&self) -> f64 {
        self.count as f64 * self.fourth / (self.second * self.second) - 3.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_keeps_what_a_naive_sum_loses() {
        assert_eq!(sum([1e16, 1.0, -1e16]), 1.0);
        assert_eq!(sum([1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(sum([f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(sum([f64::NAN, 1.0]).is_nan());
    }

    #[test]
    fn one_pass_moments_agree_with_two_passes_and_with_a_merge() {
        let values: Vec<f64> = (0..200).map(|i| ((i * 37 % 101) as f64 * 0.3).exp().ln_1p() + 1e6).collect();
        let all = Moments::of(values.iter().copied());
        let parts = Moments::of(values[..71].iter().copied()).merge(&Moments::of(values[71..].iter().copied()));
        let centre = mean(&values);
        let central = |k: i32| mean(&values.iter().map(|v| (v - centre).powi(k)).collect::<Vec<_>>());
        let kurtosis = central(4) / central(2).powi(2) - 3.0;
        let skewness = central(3) / central(2).powf(1.5);
        for m in [all, parts] {
            assert_eq!(m.count(), 200);
            assert!((m.mean() - centre).abs() < 1e-6);
            assert!((m.variance() - variance(&values)).abs() < 1e-6);
            assert!((m.skewness() - skewness).abs() < 1e-6);
            assert!((m.excess_kurtosis() - kurtosis).abs() < 1e-6);
        }
    }

    #[test]
    fn too_few_values_are_not_a_number_rather_than_zero() {
        assert!(mean(&[]).is_nan());
        assert!(variance(&[1.0]).is_nan());
        assert!(Moments::default().mean().is_nan());
        assert!(Moments::of([2.0]).variance().is_nan());
    }

    #[test]
    fn weights_have_to_make_sense() {
        assert_eq!(weighted_mean(&[1.0, 4.0], &[2.0, 1.0]), Some(2.0));
        assert_eq!(weighted_mean(&[1.0], &[1.0, 1.0]), None);
        assert_eq!(weighted_mean(&[1.0, 2.0], &[0.0, 0.0]), None);
        assert_eq!(weighted_mean(&[1.0, 2.0], &[2.0, -1.0]), None);
    }
}
