//! How an autoencoder is trained.

use serde::{Deserialize, Serialize};

use super::error::TrainError;

/// Everything that decides the result beside the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Latents.
    pub width: usize,
    /// Latents that may be active in a row.
    pub k: usize,
    /// Rows of a step.
    pub batch: usize,
    /// How often every row is seen.
    pub epochs: f64,
    /// Largest step size; the reference's rule `2e-4 / sqrt(width / 2^14)`, doubled for short runs, where it is not given.
    pub rate: Option<f64>,
    /// Share of steps that the step size rises over.
    pub warm_up: f64,
    /// Share of steps at the end that it falls to zero over.
    pub decay: f64,
    /// Largest length of the gradient.
    pub clip: f64,
    /// Weight of the loss of dead latents.
    pub aux: f64,
    /// A latent is dead when it has not fired for so many rows.
    pub dead_after: u64,
    /// Rows longer than this many times the median are left out (attention sinks).
    pub longest: f32,
    /// Seed of weights and order.
    pub seed: u64,
}

impl Recipe {
    /// The recipe for so many rows.
    pub fn new(width: usize, k: usize, rows: u64) -> Recipe {
        Recipe {
            width,
            k,
            batch: 4096,
            epochs: 1.0,
            rate: None,
            warm_up: 0.05,
            decay: 0.3,
            clip: 1.0,
            aux: 1.0 / 32.0,
            dead_after: (rows / 25).max(20_000),
            longest: 8.0,
            seed: 0,
        }
    }

    /// Refuses what cannot be trained.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(&self, d: usize) -> Result<(), TrainError> {
        let bad = |field, value: String, why: &str| TrainError::setting(field, value, why);
        if self.width == 0 || self.width == d {
            let why =
                format!("at least 1, and not {d}, the values of a row, since files could not tell rows from columns");
            return Err(bad("width", self.width.to_string(), &why));
        }
        if !(1..=self.width).contains(&self.k) {
            return Err(bad("k", self.k.to_string(), &format!("1 to {}, the number of latents", self.width)));
        }
        if self.batch == 0 {
            return Err(bad("batch", self.batch.to_string(), "at least 1 row"));
        }
        if !(self.epochs > 0.0 && self.epochs <= 1000.0) {
            return Err(bad("epochs", self.epochs.to_string(), "more than 0"));
        }
        if self.rate.is_some_and(|r| !(r > 0.0 && r < 1.0)) {
            return Err(bad("rate", self.rate.unwrap_or_default().to_string(), "between 0 and 1"));
        }
        let shares = self.warm_up >= 0.0 && self.decay >= 0.0 && self.warm_up + self.decay <= 1.0;
        if !shares {
            return Err(bad("warm_up", self.warm_up.to_string(), "with decay a share of the steps, 0 to 1 together"));
        }
        if !(self.clip > 0.0) || !(self.aux >= 0.0) || !(self.longest > 1.0) {
            return Err(bad("clip", self.clip.to_string(), "above 0; aux not below 0; longest above 1"));
        }
        Ok(())
    }

    /// Steps for so many rows.
    pub fn steps(&self, rows: u64) -> usize {
        ((rows as f64 * self.epochs / self.batch as f64) as usize).max(1)
    }

    /// Step size of a step, counted from 0.
    pub fn rate_at(&self, step: usize, steps: usize) -> f64 {
        let most = self.rate.unwrap_or_else(|| 4e-4 / (self.width as f64 / f64::from(1 << 14)).sqrt());
        let (rise, fall) = (self.warm_up * steps as f64, self.decay * steps as f64);
        let up = if rise > 0.0 { ((step + 1) as f64 / rise).min(1.0) } else { 1.0 };
        let left = (steps - step.min(steps)) as f64;
        let down = if fall > 0.0 { (left / fall).min(1.0) } else { 1.0 };
        most * up.min(down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_size_rises_stays_and_falls_to_nothing() {
        let recipe = Recipe::new(4608, 32, 1_000_000);
        let rate = |step| recipe.rate_at(step, 1000);
        let most = rate(500);
        assert!((most - 7.54e-4).abs() < 1e-6, "{most}");
        assert!(rate(0) < most / 40.0 && rate(49) == most && rate(699) == most);
        assert!(rate(999) < most / 250.0 && rate(850) < most && rate(850) > rate(900));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let good = Recipe::new(4608, 32, 1_000_000);
        assert!(good.check(576).is_ok());
        for bad in [
            Recipe { width: 576, ..good.clone() },
            Recipe { k: 0, ..good.clone() },
            Recipe { k: 4609, ..good.clone() },
            Recipe { batch: 0, ..good.clone() },
            Recipe { epochs: 0.0, ..good.clone() },
            Recipe { rate: Some(f64::NAN), ..good.clone() },
            Recipe { warm_up: 0.9, ..good.clone() },
            Recipe { clip: 0.0, ..good.clone() },
        ] {
            assert!(bad.check(576).is_err(), "{bad:?}");
        }
    }
}
