//! Budgets of blocks.
//!
//! `b(i+1) = clip(b(i) + alpha (delta(i+1) - delta(i)))`. No moving average: without clipping the sum telescopes to
//! `b(0) + alpha (delta(i) - delta(0))`. Carried in f64 from step to step.

use super::super::error::TrainError;

/// Steps that `Alpha::Auto` watches before budgets move.
const WATCHED: usize = 20;
/// How far a budget moves for one standard deviation of its delta, under `Alpha::Auto`.
const MOVE: f64 = 0.05;

/// How fast budgets follow deltas.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alpha {
    /// This.
    Fixed(f64),
    /// Such that one standard deviation of delta over the first 20 steps (the mean over blocks) moves a budget by 0.05.
    /// Until then budgets stay.
    Auto,
}

/// What the first delta of a block does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstDelta {
    /// It is only remembered.
    Observe,
    /// It counts from zero, as in the published code.
    Zero,
}

/// The state of all budgets.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Budgets {
    /// Budget of each block.
    pub values: Vec<f64>,
    /// Last delta of each block.
    pub previous: Vec<Option<f64>>,
    /// Deltas that `Alpha::Auto` has watched: one list a block. Empty once alpha is known.
    watched: Vec<Vec<f64>>,
    /// The alpha in use; `None` while it is being found.
    pub alpha: Option<f64>,
    clip: (f64, f64),
    first: FirstDelta,
    /// What budgets are multiplied by before they are used; 1 unless a target of multiply-adds is steered to.
    pub scale: f64,
}

/// Part of the way to the target that one step goes.
const GAIN: f64 = 0.1;
/// Least and largest factor of [`Budgets::steer`].
const SCALES: (f64, f64) = (0.2, 2.0);

impl Budgets {
    /// Budgets of `layers` blocks.
    ///
    /// # Errors
    /// A clip range or start outside (0, 1], or an alpha that is not finite.
    pub fn new(
        layers: usize,
        b0: f64,
        clip: (f64, f64),
        alpha: Alpha,
        first: FirstDelta,
    ) -> Result<Budgets, TrainError> {
        if !(clip.0 > 0.0 && clip.0 <= clip.1 && clip.1 <= 1.0) {
            let why = format!("{} to {} is no range within (0, 1]", clip.0, clip.1);
            return Err(TrainError::setting("clip", why));
        }
        if !(clip.0..=clip.1).contains(&b0) {
            return Err(TrainError::setting("b0", format!("{b0} is outside the clip range {} to {}", clip.0, clip.1)));
        }
        let alpha = match alpha {
            Alpha::Fixed(alpha) if alpha.is_finite() => Some(alpha),
            Alpha::Fixed(alpha) => return Err(TrainError::setting("alpha", format!("{alpha} is no finite number"))),
            Alpha::Auto => None,
        };
        let watched = if alpha.is_none() { vec![Vec::new(); layers] } else { Vec::new() };
        Ok(Budgets { values: vec![b0; layers], previous: vec![None; layers], watched, alpha, clip, first, scale: 1.0 })
    }

    /// Takes in a block's delta and answers its new budget.
    ///
    /// # Errors
    /// A delta that is not finite: nothing is changed then.
    pub fn update(&mut self, layer: usize, delta: f64, step: u64) -> Result<f64, TrainError> {
        if !delta.is_finite() {
            let what = format!("the class-token delta of block {layer}");
            return Err(TrainError::NotFinite { step, what, value: delta });
        }
        let before = match (self.previous[layer], self.first) {
            (Some(previous), _) => Some(previous),
            (None, FirstDelta::Zero) => Some(0.0),
            (None, FirstDelta::Observe) => None,
        };
        self.previous[layer] = Some(delta);
        match (self.alpha, before) {
            (Some(alpha), Some(before)) => {
                let moved = self.values[layer] + alpha * (delta - before);
                self.values[layer] = moved.clamp(self.clip.0, self.clip.1);
            }
            (None, _) => self.watch(layer, delta),
            (Some(_), None) => {}
        }
        Ok(self.in_use(layer))
    }

    /// The budget that tokens of a block are kept by.
    fn in_use(&self, layer: usize) -> f64 {
        if self.scale == 1.0 { self.values[layer] } else { (self.values[layer] * self.scale).min(1.0) }
    }

    /// Moves the common factor of all budgets a little, so that `share` of full tuning's multiply-adds, which the last
    /// step took, comes nearer to `target`.
    pub fn steer(&mut self, target: f64, share: f64) {
        // Tokens multiply from block to block: a small change of the factor is a large one of the count.
        let moved = self.scale * (target / share.max(1e-9)).powf(GAIN);
        self.scale = moved.clamp(SCALES.0, SCALES.1);
    }

    fn watch(&mut self, layer: usize, delta: f64) {
        self.watched[layer].push(delta);
        if self.watched.iter().all(|w| w.len() >= WATCHED) {
            let deviations = self.watched.iter().map(|w| meden_stats::moments::variance(w).sqrt());
            let mean = deviations.sum::<f64>() / self.watched.len() as f64;
            // Deltas that never differ move no budget, whatever alpha is.
            self.alpha = Some(if mean > 0.0 { MOVE / mean } else { 0.0 });
            self.watched.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_clipping_the_sum_telescopes_and_with_it_budgets_stay_inside() {
        let deltas: Vec<f64> = (0..200u64).map(|i| (i * 7919 % 1009) as f64 / 100.0).collect();
        let wide = (1e-9, 1.0);
        let mut free = Budgets::new(1, 0.5, wide, Alpha::Fixed(1e-3), FirstDelta::Observe).unwrap();
        let mut tight = Budgets::new(1, 0.9, (0.5, 1.0), Alpha::Fixed(0.3), FirstDelta::Zero).unwrap();
        for (step, d) in deltas.iter().enumerate() {
            let b = free.update(0, *d, step as u64).unwrap();
            assert!((b - (0.5 + 1e-3 * (d - deltas[0]))).abs() < 1e-9);
            assert!((0.5..=1.0).contains(&tight.update(0, *d, step as u64).unwrap()));
        }
        let error = tight.update(0, f64::NAN, 7).unwrap_err().to_string();
        assert!(error.contains("step 7") && error.contains("block 0"), "{error}");
    }

    #[test]
    fn alpha_zero_keeps_budgets_and_auto_waits_then_moves_by_the_deviation() {
        let mut still = Budgets::new(2, 0.9, (0.5, 1.0), Alpha::Fixed(0.0), FirstDelta::Zero).unwrap();
        let mut auto = Budgets::new(2, 0.75, (0.5, 1.0), Alpha::Auto, FirstDelta::Observe).unwrap();
        for step in 0..20 {
            for layer in 0..2 {
                assert_eq!(still.update(layer, step as f64, step).unwrap(), 0.9);
                assert_eq!(auto.update(layer, (step % 2) as f64 * 4.0, step).unwrap(), 0.75);
            }
        }
        let alpha = auto.alpha.unwrap();
        let before = auto.values[0];
        auto.update(0, 0.0, 20).unwrap();
        assert!((auto.values[0] - (before - 4.0 * alpha)).abs() < 1e-12 && alpha > 0.0);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for (b0, clip) in
            [(0.9, (0.0, 1.0)), (0.9, (0.5, 1.5)), (0.4, (0.5, 1.0)), (0.9, (0.8, 0.7)), (f64::NAN, (0.5, 1.0))]
        {
            assert!(Budgets::new(3, b0, clip, Alpha::Auto, FirstDelta::Observe).is_err(), "{b0} {clip:?}");
        }
        assert!(Budgets::new(3, 0.9, (0.5, 1.0), Alpha::Fixed(f64::INFINITY), FirstDelta::Observe).is_err());
    }
}
