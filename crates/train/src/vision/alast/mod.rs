//! Adaptive layer and token selection: Devoto, Alvetreti, Pomponi, Di Lorenzo, Minervini, Scardapane, "Adaptive Layer
//! Selection for Efficient Vision Transformer Fine-Tuning" (arXiv 2408.08670).
//!
//! Each block has a budget in (0, 1). It moves with the change of the class token that the block makes ([`delta`]), says
//! how many patches go on to the next block ([`keep_count`], [`select`]), and how likely the block is to be trained at
//! all ([`draw`]). Budgets are plain data and know no tensor.

mod budget;
mod delta;
mod flops;
mod layers;
mod tokens;

pub use budget::{Alpha, Budgets, FirstDelta};
pub use delta::{Delta, delta};
pub use flops::{Flops, State, adapter_flops, block_flops, step_flops};
pub use layers::{Layers, draw};
pub use tokens::{keep_count, select};

use super::lora::LoraOptions;

/// Every knob.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct AlastOptions {
    /// How fast budgets follow deltas.
    pub alpha: Alpha,
    /// Budget of every block at the beginning.
    pub b0: f64,
    /// Least and largest budget.
    pub clip: (f64, f64),
    /// How a delta is reduced.
    pub delta: Delta,
    /// What the first delta does.
    pub first_delta: FirstDelta,
    /// How the trained blocks are chosen.
    pub layers: Layers,
    /// Trained blocks of a step; 0 means three quarters of all, rounded.
    pub k: usize,
    /// Divides budgets before their softmax.
    pub temperature: f64,
    /// Whether patches are dropped.
    pub tokens: bool,
    /// Patches that go on at least.
    pub min_tokens: usize,
    /// Kept patches are rounded up to a multiple.
    pub token_bucket: usize,
    /// Whether patch embedding, tokens and positions are left alone.
    pub freeze_embed: bool,
    /// Low-rank additions that the chosen blocks train instead of their weights; embeddings and the last norm are left
    /// alone then.
    pub lora: Option<LoraOptions>,
    /// Share of full tuning's multiply-adds that a slow controller steers budgets to; `None` for no controller.
    pub target_flops: Option<f64>,
}

impl Default for AlastOptions {
    fn default() -> Self {
        AlastOptions {
            alpha: Alpha::Auto,
            b0: 0.9,
            clip: (0.5, 1.0),
            delta: Delta::Mean,
            first_delta: FirstDelta::Observe,
            layers: Layers::Sample,
            k: 0,
            temperature: 1.0,
            tokens: true,
            min_tokens: 8,
            token_bucket: 1,
            freeze_embed: false,
            lora: None,
            target_flops: None,
        }
    }
}

impl AlastOptions {
    /// The baseline that adaptivity has to beat: blocks drawn evenly, budgets that stay at `b0`.
    pub fn fixed(self) -> AlastOptions {
        AlastOptions { alpha: Alpha::Fixed(0.0), layers: Layers::Uniform, ..self }
    }

    /// Trained blocks of a step in a model of `layers` blocks.
    pub fn trained(&self, layers: usize) -> usize {
        if self.k == 0 { (0.75 * layers as f64).round() as usize } else { self.k }
    }
}
