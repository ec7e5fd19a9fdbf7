//! One pool of slots for all pressed layers and heads: AdaKV's idea (arXiv 2407.11550) across layers.
//!
//! Acts once all layers have read their tokens, since every layer's scores have to be known. Scores of different
//! layers are compared as they are, so it suits presses whose scores mean the same everywhere, such as attention
//! weights; `standardise` compares them in units of each layer's spread instead.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::adakv::{check_alpha, check_scores};
use super::pool::{PoolHead, pool, safeguard};
use super::snapkv;
use crate::error::EngineError;
use crate::press::spec::Build;
use crate::press::{LayerView, Press, PressSpec, Scope, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pooled {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// Share of the uniform number that each head keeps in any case, in [0, 1].
    pub alpha_safeguard: f64,
    /// Compare scores in units of each layer's standard deviation.
    pub standardise: bool,
}

impl Default for Pooled {
    fn default() -> Self {
        Pooled { press: snapkv(), alpha_safeguard: 0.2, standardise: false }
    }
}

struct Ready {
    inner: Arc<dyn Press>,
    spec: Pooled,
}

impl Build for Pooled {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        check_alpha("pooled", self.alpha_safeguard)?;
        Ok(Arc::new(Ready { inner: super::scorer("pooled", &self.press)?, spec: self.clone() }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "pooled"
    }

    super::passes_on!(needs, protects, observe, layer_target, only_at_prefill_end, check);

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        self.inner.score(layer, scores)?;
        if self.spec.standardise {
            scores.standardise();
        }
        Ok(())
    }

    fn scope(&self) -> Scope {
        Scope::Cache
    }

    fn share_out(&self, layers: &[(LayerView<'_>, Scores)], counts: &mut [Vec<usize>]) -> Result<(), EngineError> {
        let mut heads = Vec::new();
        let mut total = 0;
        for (layer, scores) in layers {
            check_scores(layer, scores)?;
            let protect = layer.protect.and(self.inner.protects(layer.target));
            total += layer.target * layer.heads.len();
            for (head, row) in layer.heads.iter().zip(scores.rows()) {
                heads.push(PoolHead { scores: row, positions: head.positions(), protect });
            }
        }
        let mean = total / heads.len().max(1);
        let kept = pool(&heads, total, safeguard(mean, self.spec.alpha_safeguard));
        for (count, kept) in counts.iter_mut().flatten().zip(kept) {
            *count = kept.len();
        }
        Ok(())
    }
}
