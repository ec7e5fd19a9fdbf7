//! Keep at random: the paper's second control (arXiv 2406.11430).
//!
//! Each action draws anew, as the paper's does, from (seed, layer, head, tokens seen, position): layers and heads
//! differ, runs repeat, and neither threads nor the ratio change the draws.

use meden_stats::rng::Rng;

use super::{Needs, Press, PressPoint};
use crate::cache::head::HeadCache;
use crate::error::EngineError;

/// Uniform scores.
pub struct Random {
    /// Seed of the draws.
    pub seed: u64,
}

impl Press for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn score(&self, at: PressPoint, head: &HeadCache, out: &mut [f32]) -> Result<(), EngineError> {
        let place = ((at.layer as u64) << 48) | ((at.head as u64 & 0xffff) << 32) | at.seen as u64;
        for (score, &position) in out.iter_mut().zip(head.positions()) {
            *score = Rng::new(self.seed ^ (u64::from(position) << 20), place).uniform() as f32;
        }
        Ok(())
    }
}
