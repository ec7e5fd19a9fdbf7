//! Keep at random: the paper's second control (arXiv 2406.11430).
//!
//! Each action draws anew, as the paper's does, from (seed, layer, head, tokens seen, position): layers and heads
//! differ, runs repeat, and neither threads nor the ratio change the draws.

use meden_stats::rng::Rng;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::spec::ready;
use crate::press::{LayerView, Needs, Press, Scores};

/// Uniform scores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Random {
    /// Seed of the draws.
    pub seed: u64,
}

ready!(Random);

impl Press for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        scores.each(layer, |number, head, row| {
            let place = ((layer.layer as u64) << 48) | ((number as u64 & 0xffff) << 32) | layer.next as u64;
            for (score, &position) in row.iter_mut().zip(head.positions()) {
                *score = Rng::new(self.seed ^ (u64::from(position) << 20), place).uniform() as f32;
            }
        });
        Ok(())
    }
}
