//! A ratio of its own for each layer, around any scorer.
//!
//! Layers differ in how much they can lose (the skipped layers of arXiv 2406.11430 are the plainest case). The list names
//! the share that each layer REMOVES; what stays of all is 1 minus its mean, so a budget is not given.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::model::config::Config;
use crate::press::budget::{keep_of, keep_of_kvpress};
use crate::press::policy::Rounding;
use crate::press::spec::{Build, bad};
use crate::press::{LayerShare, LayerView, Press, PressSpec, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerLayer {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// Share that each layer of the model removes, in [0, 1); 0 for layers with a sliding window.
    pub compression_ratios: Vec<f64>,
}

impl Default for PerLayer {
    fn default() -> Self {
        let knorm = PressSpec::Knorm(crate::press::score::knorm::Knorm {});
        PerLayer { press: Box::new(knorm), compression_ratios: Vec::new() }
    }
}

struct Ready {
    inner: Arc<dyn Press>,
    ratios: Vec<f64>,
}

impl Build for PerLayer {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        if self.compression_ratios.is_empty() {
            return Err(EngineError::Press {
                press: "per_layer".to_string(),
                why: "parameter `compression_ratios` is missing: a share to remove for each layer of the model, as in per_layer(knorm, compression_ratios=[0, 0, 0.5, 0.5])".to_string(),
            });
        }
        if let Some(ratio) = self.compression_ratios.iter().find(|r| !(0.0..1.0).contains(*r)) {
            return Err(bad("per_layer", "compression_ratios", ratio, "numbers from 0 to below 1"));
        }
        let inner = super::scorer("per_layer", &self.press)?;
        Ok(Arc::new(Ready { inner, ratios: self.compression_ratios.clone() }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "per_layer"
    }

    super::passes_on!(needs, score, protects, observe, choose, only_at_prefill_end);

    fn check(&self, config: &Config) -> Result<(), EngineError> {
        let refuse = |why: String| EngineError::Press { press: self.name().to_string(), why };
        if self.ratios.len() != config.layers {
            return Err(refuse(format!(
                "`compression_ratios` has {} numbers, the model {} layers",
                self.ratios.len(),
                config.layers
            )));
        }
        let slides = |layer: &usize| config.attention[*layer].window.is_some() && self.ratios[*layer] > 0.0;
        if let Some(layer) = (0..config.layers).find(slides) {
            return Err(refuse(format!(
                "layer {layer} has a sliding window, which bounds it already; its number in `compression_ratios` has to be 0"
            )));
        }
        self.inner.check(config)
    }

    fn layer_target(&self, share: LayerShare<'_>) -> usize {
        let ratio = self.ratios[share.layer];
        match share.rounding {
            Rounding::Meden => keep_of(share.seen, ratio),
            Rounding::Kvpress => keep_of_kvpress(share.seen, ratio),
        }
    }

    fn own_budget(&self) -> bool {
        true
    }
}
