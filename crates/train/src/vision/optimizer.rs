//! AdamW over weights by name. A weight that a step does not train keeps value and moments untouched, decay included, and
//! counts no update.

use std::collections::BTreeMap;

use meden_kernels::ops::{AdamState, AdamStep, adam};
use meden_kernels::{Isa, Pool};
use meden_vision::vit::{Params, Part};

use super::error::TrainError;

/// Which weights decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Matrices; not norms, biases, tokens, positions and factors.
    Matrices,
    /// All.
    All,
}

/// Constants of AdamW; with a decay of 0 it is Adam.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct OptimizerOptions {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub decay: f32,
    /// Which weights decay.
    pub decays: Decay,
    /// The rate of a block is multiplied by this for each block behind it, as the embeddings' is; 1 leaves it alone.
    pub layer_decay: f64,
    /// Largest Euclidean norm of all gradients of a step; larger ones are scaled down to it. 0 means no limit.
    pub clip: f64,
}

impl Default for OptimizerOptions {
    fn default() -> Self {
        OptimizerOptions {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            decay: 0.05,
            decays: Decay::Matrices,
            layer_decay: 1.0,
            clip: 1.0,
        }
    }
}

impl OptimizerOptions {
    /// What a weight's rate is multiplied by: the last norm and the classifier by 1, the last block by the decay, the
    /// embeddings by its power with one more than the number of blocks (as BEiT's and timm's layer decay).
    fn layer_factor(&self, part: Part, layers: usize) -> f64 {
        let behind = match part {
            Part::Block(layer, _) => layers - layer,
            Part::NormWeight | Part::NormBias | Part::HeadWeight | Part::HeadBias => 0,
            Part::DistilledHeadWeight | Part::DistilledHeadBias => 0,
            _ => layers + 1,
        };
        self.layer_decay.powi(behind as i32)
    }
}

/// Moments and how often each weight was updated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Optimizer {
    /// First moments.
    pub first: Params,
    /// Second moments.
    pub second: Params,
    /// Updates of each weight.
    pub updates: BTreeMap<Part, u64>,
}

impl Optimizer {
    /// Applies `gradients` to the weights that they name; answers their norm before clipping.
    ///
    /// # Errors
    /// A norm that is not finite: nothing is changed then.
    pub fn apply(
        &mut self,
        (pool, isa): (&Pool, Isa),
        params: &mut Params,
        gradients: &Params,
        ((options, rate, step), layers): ((&OptimizerOptions, f64, u64), usize),
    ) -> Result<f64, TrainError> {
        let square = |values: &[f32]| values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        // Each weight's sum in one task, added in order: threads change no bit.
        let all: Vec<&[f32]> = gradients.iter().map(|(_, g)| g).collect();
        let mut squares = vec![0f64; all.len()];
        pool.chunks(&mut squares, 1, |i, out| out[0] = square(all[i]));
        let norm = squares.iter().sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(TrainError::NotFinite { step, what: "the norm of the gradients".into(), value: norm });
        }
        let scale = if options.clip > 0.0 && norm > options.clip { options.clip / norm } else { 1.0 };
        for (part, gradient) in gradients.iter() {
            let Some(values) = params.get_mut(part) else { continue };
            for moments in [&mut self.first, &mut self.second] {
                if !moments.contains(part) {
                    moments.insert(part, vec![0.0; gradient.len()]);
                }
            }
            let updates = self.updates.entry(part).or_insert(0);
            *updates += 1;
            let (Some(first), Some(second)) = (self.first.get_mut(part), self.second.get_mut(part)) else { continue };
            let decays = options.decays == Decay::All || part.decays();
            let constants = AdamStep {
                rate: (rate * options.layer_factor(part, layers)) as f32,
                beta1: options.beta1,
                beta2: options.beta2,
                eps: options.eps,
                decay: if decays { options.decay } else { 0.0 },
                step: *updates,
            };
            adam(pool, isa, AdamState { values, first, second }, gradient, scale as f32, constants);
        }
        Ok(norm)
    }
}
