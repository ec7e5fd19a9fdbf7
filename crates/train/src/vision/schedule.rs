//! The learning rate of each step.

/// How the rate falls after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine to zero.
    Cosine,
    /// A straight line to zero.
    Linear,
    /// Not at all.
    Constant,
}

impl Schedule {
    /// The rate of `step` (from 0) of `total`, after `warmup` steps in which it rises in a line to `peak`.
    pub fn rate(self, peak: f64, step: u64, warmup: u64, total: u64) -> f64 {
        if step < warmup {
            return peak * (step + 1) as f64 / warmup as f64;
        }
        let done = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
        match self {
            Schedule::Cosine => peak * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()),
            Schedule::Linear => peak * (1.0 - done).max(0.0),
            Schedule::Constant => peak,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_to_the_peak_and_fall_to_zero() {
        for schedule in [Schedule::Cosine, Schedule::Linear] {
            let rates: Vec<f64> = (0..100).map(|s| schedule.rate(1.0, s, 10, 100)).collect();
            assert!((rates[9] - 1.0).abs() < 1e-12 && (rates[10] - 1.0).abs() < 1e-12);
            assert!(rates[..10].is_sorted() && rates[10..].is_sorted_by(|a, b| a >= b) && rates[99] < 0.02);
        }
        assert_eq!(Schedule::Constant.rate(0.5, 99, 0, 100), 0.5);
    }
}
