//! Intervals for a mean and for a share.
//!
//! Two questions decide which one to use. Is the variance known well (many values)? Then [`normal_mean`]; else
//! [`t_mean`]. Are neighbours alike, as the losses of neighbouring tokens of a text are? Then both are too narrow, and
//! [`batch_means`] is the right one: it takes the means of long runs for independent values instead of the values.

use crate::{moments, normal, student};

/// An interval that covers the true value in a share `level` of repetitions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Confidence level in (0, 1), 0.95 for a 95% interval.
    pub level: f64,
}

impl Interval {
    /// Both ends through an increasing function: the interval of exp(mean) from that of the mean.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Interval {
        Interval { low: f(self.low), high: f(self.high), level: self.level }
    }

    /// Half the interval's width.
    pub fn half_width(&self) -> f64 {
        0.5 * (self.high - self.low)
    }

    /// Whether `value` lies in the interval, its ends included.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    fn around(centre: f64, half: f64, level: f64) -> Interval {
        Interval { low: centre - half, high: centre + half, level }
    }
}

fn standard_error(values: &[f64], level: f64) -> Option<f64> {
    if values.len() < 2 || !(level > 0.0 && level < 1.0) {
        return None;
    }
    Some((moments::variance(values) / values.len() as f64).sqrt())
}

/// Interval of the mean of many independent values. `None` for fewer than two values or a level outside (0, 1).
pub fn normal_mean(values: &[f64], level: f64) -> Option<Interval> {
    let half = normal::quantile(0.5 + 0.5 * level) * standard_error(values, level)?;
    Some(Interval::around(moments::mean(values), half, level))
}

/// Interval of the mean of few independent values (Student). `None` as for [`normal_mean`].
pub fn t_mean(values: &[f64], level: f64) -> Option<Interval> {
    let error = standard_error(values, level)?;
    let half = student::quantile(0.5 + 0.5 * level, (values.len() - 1) as f64) * error;
    Some(Interval::around(moments::mean(values), half, level))
}

/// Interval of the mean of a series whose neighbours are alike: the series is cut into `batches` runs of equal length
/// (a remainder of less than `batches` values goes into the last run), and the runs' means are treated as independent
/// values by [`t_mean`], around the mean of the whole series.
///
/// `None` with fewer than two batches, fewer values than batches, or a level outside (0, 1).
pub fn batch_means(values: &[f64], batches: usize, level: f64) -> Option<Interval> {
    if batches < 2 || values.len() < batches {
        return None;
    }
    let length = values.len() / batches;
    let means: Vec<f64> = (0..batches)
        .map(|b| {
            let end = if b + 1 == batches { values.len() } else { (b + 1) * length };
            moments::mean(&values[b * length..end])
        })
        .collect();
    let half = t_mean(&means, level)?.half_width();
    Some(Interval::around(moments::mean(values), half, level))
}

/// Wilson's interval (1927) of a share: `successes` of `n`. Unlike the normal one it stays inside [0, 1] and is right for
/// few and for extreme counts. `None` without trials, with more successes than trials, or a level outside (0, 1).
pub fn wilson(successes: u64, n: u64, level: f64) -> Option<Interval> {
    if n == 0 || successes > n || !(level > 0.0 && level < 1.0) {
        return None;
    }
    let (count, share) = (n as f64, successes as f64 / n as f64);
    let z = normal::quantile(0.5 + 0.5 * level);
    let shrink = 1.0 + z * z / count;
    let centre = (share + 0.5 * z * z / count) / shrink;
    let half = z / shrink * (share * (1.0 - share) / count + 0.25 * z * z / (count * count)).sqrt();
    // the ends are 0 and 1 exactly where all or none succeeded, up to rounding
    let low = if successes == 0 { 0.0 } else { centre - half };
    let high = if successes == n { 1.0 } else { centre + half };
    Some(Interval { low, high, level })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn few_values_get_the_wider_interval() {
        let values = [4.1, 5.0, 3.9, 4.4];
        let (normal, t) = (normal_mean(&values, 0.95).unwrap(), t_mean(&values, 0.95).unwrap());
        assert!(t.half_width() > normal.half_width());
        assert!((0.5 * (t.low + t.high) - 4.35).abs() < 1e-12);
        // sd sqrt(0.23), n 4, t(3) 3.1824463
        assert!((t.half_width() - 3.182_446_3 * 0.23f64.sqrt() / 2.0).abs() < 1e-6);
        assert!(t.contains(4.35) && !t.contains(9.0));
        assert_eq!(t_mean(&[1.0], 0.95), None);
        assert_eq!(t_mean(&values, 1.0), None);
    }

    /// An autoregressive series: the naive interval misses the true mean far too often, batch means do not.
    #[test]
    fn batch_means_cover_where_neighbours_are_alike() {
        let (mut naive, mut batched) = (0, 0);
        for repetition in 0..300 {
            let mut rng = Rng::new(11, repetition);
            let mut state = 0.0;
            let series: Vec<f64> = (0..3000)
                .map(|_| {
                    state = 0.8 * state + rng.normal();
                    state
                })
                .collect();
            naive += usize::from(t_mean(&series, 0.95).unwrap().contains(0.0));
            batched += usize::from(batch_means(&series, 30, 0.95).unwrap().contains(0.0));
        }
        assert!(naive < 220, "naive covers {naive} of 300");
        assert!((270..=297).contains(&batched), "batch means cover {batched} of 300");
    }

    #[test]
    fn mapping_keeps_order_and_level() {
        let i = t_mean(&[0.0, 1.0, 2.0], 0.9).unwrap().map(f64::exp);
        assert!(i.low < i.high);
        assert_eq!(i.level, 0.9);
        assert_eq!(batch_means(&[1.0, 2.0], 3, 0.95), None);
        assert_eq!(wilson(3, 2, 0.95), None);
        assert_eq!(wilson(0, 0, 0.95), None);
    }
}
