//! A threshold instead of a budget: what scores below it goes, once it is older than a window.
//!
//! The inference rule of dynamic memory sparsification (Łańcucki et al., "Inference-Time Hyper-Scaling with KV Cache
//! Compression", arXiv 2506.05345) around any scorer, without the trained evictors. How much stays is an outcome.
//! Scores are asked anew at each action: those of a token alone (key norms, say) never change, others may, and then a
//! token that stayed before can go later.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::select::{Keep, Protect};
use crate::press::spec::{Build, bad};
use crate::press::wrap::adakv::check_scores;
use crate::press::{LayerView, Press, PressSpec, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dms {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// Slots that score below this are evicted. In units of the inner press, so there is no default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Newest tokens that are not judged yet.
    pub window_size: usize,
}

impl Default for Dms {
    fn default() -> Self {
        let knorm = PressSpec::Knorm(crate::press::score::knorm::Knorm {});
        Dms { press: Box::new(knorm), threshold: None, window_size: 128 }
    }
}

struct Ready {
    inner: Arc<dyn Press>,
    threshold: f64,
    window: usize,
}

impl Build for Dms {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        let refuse = |why: String| EngineError::Press { press: "dms".to_string(), why };
        let Some(threshold) = self.threshold else {
            return Err(refuse(
                "parameter `threshold` is missing: the score below which a slot goes, as in dms(knorm, threshold=-12)"
                    .into(),
            ));
        };
        if threshold.is_nan() {
            return Err(bad("dms", "threshold", threshold, "a number"));
        }
        let budgeted = match &*self.press {
            PressSpec::Pyramidkv(_) => true,
            PressSpec::Compactor(compactor) => compactor.blending.is_none(),
            other => other.inner().is_some(),
        };
        if budgeted {
            return Err(refuse(format!(
                "it cannot hold `{}`, whose scores depend on a budget, and here is none",
                self.press
            )));
        }
        Ok(Arc::new(Ready { inner: super::scorer("dms", &self.press)?, threshold, window: self.window_size }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "dms"
    }

    super::passes_on!(needs, score, observe, only_at_prefill_end, check);

    /// What the inner press protects whatever the budget: an observation window, say.
    fn protects(&self, _: usize) -> Protect {
        self.inner.protects(0)
    }

    fn choose(&self, layer: &LayerView<'_>, scores: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        check_scores(layer, scores)?;
        let mut keep = Keep::with_capacity(layer.heads.len());
        for (row, head) in scores.rows().iter().zip(layer.heads) {
            let positions = head.positions();
            let stays = |slot: &usize| {
                f64::from(row[*slot]) >= self.threshold
                    || positions[*slot] as usize + self.window >= layer.next
                    || protect.covers(*slot, positions)
            };
            keep.push((0..row.len()).filter(stays).map(|slot| slot as u32).collect());
        }
        Ok(keep)
    }

    fn own_budget(&self) -> bool {
        true
    }
}
