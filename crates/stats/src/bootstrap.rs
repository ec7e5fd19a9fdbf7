//! Bootstrap intervals: what a statistic would have been on other samples, seen by drawing them from this one
//! (Efron 1979; blocks for series: Politis and Romano's circular scheme, 1992).

use crate::interval::Interval;
use crate::permutation::{members, percentile};
use crate::quantile::quantile_sorted;
use crate::rng::Rng;

/// How to resample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Number of samples drawn; 1,000 give ends good to about one percent of the level.
    pub draws: usize,
    /// Length of the blocks that are drawn: 1 for independent values, longer where neighbours are alike.
    pub block: usize,
    /// Confidence level in (0, 1).
    pub level: f64,
    /// Seed: the same one gives the same interval.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap { draws: 1000, block: 1, level: 0.95, seed: 0 }
    }
}

impl Bootstrap {
    /// The percentile interval of `statistic` over `values`. Draw i uses the random stream i, so the result does not
    /// depend on the order of work. `None` for no values, no draws, a level outside (0, 1), or a statistic that is not
    /// a number for some draw.
    pub fn interval(&self, values: &[f64], statistic: impl Fn(&[f64]) -> f64) -> Option<Interval> {
        if values.is_empty() || self.draws == 0 || !(self.level > 0.0 && self.level < 1.0) {
            return None;
        }
        let mut sample = Vec::with_capacity(values.len());
        let mut drawn = Vec::with_capacity(self.draws);
        for draw in 0..self.draws {
            self.resample(values, draw as u64, &mut sample);
            let value = statistic(&sample);
            if value.is_nan() {
                return None;
            }
            drawn.push(value);
        }
        drawn.sort_by(f64::total_cmp);
        let tail = 0.5 - 0.5 * self.level;
        Some(Interval {
            low: quantile_sorted(&drawn, tail)?,
            high: quantile_sorted(&drawn, 1.0 - tail)?,
            level: self.level,
        })
    }

    /// The percentile interval of a statistic of rows that come in clusters (all rows of one subject): clusters are
    /// drawn, and `statistic` is given the weight of each row, which is how often its cluster was drawn. Draws for which
    /// it has no value (a class that was not drawn) are left out. `None` without rows or draws, for a level outside
    /// (0, 1), and where more than one draw in ten has no value. `block` plays no part.
    pub fn clustered(&self, clusters: &[u32], statistic: impl Fn(&[f64]) -> Option<f64>) -> Option<Interval> {
        let drawn = self.clustered_draws(clusters, |weights| statistic(weights).filter(|v| !v.is_nan()));
        if !(self.level > 0.0 && self.level < 1.0) {
            return None;
        }
        percentile(drawn.into_iter().flatten().collect(), self.draws, self.level)
    }

    /// What `statistic` gives for each draw of clusters, in the order of the draws; for statistics that are no number.
    pub fn clustered_draws<T>(&self, clusters: &[u32], statistic: impl Fn(&[f64]) -> T) -> Vec<T> {
        let members = members(clusters);
        if members.is_empty() {
            return Vec::new();
        }
        let mut weights = vec![0.0; clusters.len()];
        (0..self.draws)
            .map(|draw| {
                let mut rng = Rng::new(self.seed, draw as u64);
                weights.fill(0.0);
                for _ in 0..members.len() {
                    let chosen = rng.below(members.len() as u64) as usize;
                    members[chosen].iter().for_each(|&row| weights[row] += 1.0);
                }
                statistic(&weights)
            })
            .collect()
    }

    /// One sample as long as `values`, put together from blocks that may wrap around the end: every value then has the
    /// same chance of being drawn.
    fn resample(&self, values: &[f64], draw: u64, sample: &mut Vec<f64>) {
        let n = values.len();
        let block = self.block.clamp(1, n);
        let mut rng = Rng::new(self.seed, draw);
        sample.clear();
        while sample.len() < n {
            let start = rng.below(n as u64) as usize;
            let take = block.min(n - sample.len());
            sample.extend((0..take).map(|i| values[(start + i) % n]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{interval, moments};

    #[test]
    fn the_mean_of_independent_values_gets_about_the_normal_interval() {
        let mut rng = Rng::new(3, 0);
        let values: Vec<f64> = (0..400).map(|_| rng.normal()).collect();
        let boot = Bootstrap::default().interval(&values, moments::mean).unwrap();
        let normal = interval::normal_mean(&values, 0.95).unwrap();
        assert!((boot.half_width() / normal.half_width() - 1.0).abs() < 0.1);
        assert_eq!(Some(boot), Bootstrap::default().interval(&values, moments::mean));
    }

    #[test]
    fn blocks_widen_the_interval_of_a_correlated_series() {
        let mut rng = Rng::new(4, 0);
        let mut state = 0.0;
        let series: Vec<f64> = (0..2000)
            .map(|_| {
                state = 0.8 * state + rng.normal();
                state
            })
            .collect();
        let single = Bootstrap::default().interval(&series, moments::mean).unwrap();
        let blocks = Bootstrap { block: 50, ..Bootstrap::default() };
        let blocks = blocks.interval(&series, moments::mean).unwrap();
        assert!(blocks.half_width() > 2.0 * single.half_width());
    }

    /// Ten rows of each subject are one observation, not ten.
    #[test]
    fn clusters_widen_the_interval_of_rows_that_are_alike() {
        let mut rng = Rng::new(5, 0);
        let own: Vec<f64> = (0..40).map(|_| rng.normal()).collect();
        let clusters: Vec<u32> = (0..400).map(|i| i / 10).collect();
        let rows: Vec<f64> = clusters.iter().map(|&c| own[c as usize] + 0.05 * rng.normal()).collect();
        let mean = |w: &[f64]| moments::weighted_mean(&rows, w);
        let clustered = Bootstrap::default().clustered(&clusters, mean).unwrap();
        let single = Bootstrap::default().interval(&rows, moments::mean).unwrap();
        assert!(clustered.half_width() > 2.5 * single.half_width(), "{clustered:?} {single:?}");
        let subjects = interval::normal_mean(&own, 0.95).unwrap();
        assert!((clustered.half_width() / subjects.half_width() - 1.0).abs() < 0.15);
        assert_eq!(Some(clustered), Bootstrap::default().clustered(&clusters, mean));
    }

    #[test]
    fn draws_without_a_value_are_left_out_unless_they_are_many() {
        let clusters = [0, 1, 2, 3];
        let of = |missing: f64| {
            let count = std::cell::Cell::new(0.0);
            Bootstrap::default().clustered(&clusters, |_| {
                count.set(count.get() + missing);
                if count.get() >= 1.0 {
                    count.set(count.get() - 1.0);
                    return None;
                }
                Some(1.0)
            })
        };
        assert!(of(0.05).is_some() && of(0.5).is_none());
        assert_eq!(Bootstrap::default().clustered(&[], |_| Some(0.0)), None);
    }

    #[test]
    fn nonsense_has_no_interval() {
        assert_eq!(Bootstrap::default().interval(&[], moments::mean), None);
        assert_eq!(Bootstrap::default().interval(&[1.0], |_| f64::NAN), None);
        let level = Bootstrap { level: 1.0, ..Bootstrap::default() };
        assert_eq!(level.interval(&[1.0, 2.0], moments::mean), None);
    }
}
