//! One pool of slots for the heads of a layer: each head keeps as much as its scores earn.
//!
//! Feng et al., "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference", arXiv
//! 2407.11550. Each head keeps at least `alpha_safeguard` of the uniform number. Heads end up with unequal lengths, and
//! the pages that a head does not use are really free.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::pool::{PoolHead, pool, safeguard};
use super::snapkv;
use crate::error::EngineError;
use crate::press::select::{Keep, Protect, not_a_number};
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Press, PressSpec, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdaKv {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// Share of the uniform number that each head keeps in any case, in [0, 1].
    pub alpha_safeguard: f64,
}

impl Default for AdaKv {
    fn default() -> Self {
        AdaKv { press: snapkv(), alpha_safeguard: 0.2 }
    }
}

pub(crate) fn check_alpha(press: &str, alpha: f64) -> Result<(), EngineError> {
    if (0.0..=1.0).contains(&alpha) { Ok(()) } else { Err(bad(press, "alpha_safeguard", alpha, "between 0 and 1")) }
}

struct Ready {
    inner: Arc<dyn Press>,
    alpha: f64,
}

impl Build for AdaKv {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        check_alpha("adakv", self.alpha_safeguard)?;
        let inner = super::scorer("adakv", &self.press)?;
        Ok(Arc::new(Ready { inner, alpha: self.alpha_safeguard }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

/// Refuse scores that are not numbers, by name and place.
pub(crate) fn check_scores(layer: &LayerView<'_>, scores: &Scores) -> Result<(), EngineError> {
    for (number, (row, head)) in scores.rows().iter().zip(layer.heads).enumerate() {
        if let Some(slot) = row.iter().position(|s| s.is_nan()) {
            return Err(not_a_number(layer.layer, number, head.positions()[slot]));
        }
    }
    Ok(())
}

/// The slots that a layer's heads keep out of one pool.
pub(crate) fn pooled(
    layer: &LayerView<'_>,
    scores: &Scores,
    protect: Protect,
    alpha: f64,
) -> Result<Keep, EngineError> {
    check_scores(layer, scores)?;
    let heads: Vec<PoolHead<'_>> = layer
        .heads
        .iter()
        .zip(scores.rows())
        .map(|(head, row)| PoolHead { scores: row, positions: head.positions(), protect })
        .collect();
    Ok(pool(&heads, layer.target * heads.len(), safeguard(layer.target, alpha)))
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "adakv"
    }

    super::passes_on!(needs, score, protects, observe, layer_target, only_at_prefill_end, check);

    fn choose(&self, layer: &LayerView<'_>, scores: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        pooled(layer, scores, protect, self.alpha)
    }
}
