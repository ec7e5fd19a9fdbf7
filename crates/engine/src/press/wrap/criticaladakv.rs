//! Counts of AdaKV, choice of CriticalKV (arXiv 2502.03805): the pool says how much each head keeps; half of that by
//! score, the other half by score times the norm of what the value adds to the stream.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::adakv::{check_alpha, pooled};
use super::criticalkv::{check, two_stages};
use super::pool::safeguard;
use super::snapkv;
use crate::error::EngineError;
use crate::press::select::{Keep, Protect, best};
use crate::press::spec::Build;
use crate::press::{LayerView, Needs, Press, PressSpec, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CriticalAdaKv {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// Share of the uniform number that each head keeps in any case, in [0, 1].
    pub alpha_safeguard: f64,
    /// Added to the score before the norm multiplies it.
    pub epsilon: f64,
    /// Share of a head's slots that the plain score fills.
    pub first_stage_ratio: f64,
}

impl Default for CriticalAdaKv {
    fn default() -> Self {
        CriticalAdaKv { press: snapkv(), alpha_safeguard: 0.2, epsilon: 1e-4, first_stage_ratio: 0.5 }
    }
}

struct Ready {
    inner: Arc<dyn Press>,
    spec: CriticalAdaKv,
}

impl Build for CriticalAdaKv {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        check_alpha("criticaladakv", self.alpha_safeguard)?;
        check("criticaladakv", self.epsilon, self.first_stage_ratio)?;
        Ok(Arc::new(Ready { inner: super::scorer("criticaladakv", &self.press)?, spec: self.clone() }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "criticaladakv"
    }

    fn needs(&self) -> Needs {
        Needs { values: true, output_projection: true, ..self.inner.needs() }
    }

    super::passes_on!(score, protects, observe, layer_target, only_at_prefill_end, check);

    fn choose(&self, layer: &LayerView<'_>, scores: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        let alpha = self.spec.alpha_safeguard;
        let counts: Vec<usize> = pooled(layer, scores, protect, alpha)?.iter().map(Vec::len).collect();
        let safe = safeguard(layer.target, alpha);
        let first: Vec<usize> =
            counts.iter().map(|&c| ((c as f64 * self.spec.first_stage_ratio) as usize).max(safe)).collect();
        let mut scores = scores.clone();
        let forced = if layer.kvpress() { Protect::default() } else { protect };
        two_stages(layer, &mut scores, (&first, self.spec.epsilon, forced))?;
        best(layer, &scores, &counts, protect)
    }
}
