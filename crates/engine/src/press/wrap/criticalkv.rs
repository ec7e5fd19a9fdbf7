//! Half of the budget by score, the other half by score times the norm of what the value adds to the stream.
//!
//! Feng et al., "Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective", arXiv
//! 2502.03805: the second half is ranked by `(S + epsilon) |Wo v|₁`, averaged over the group.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::snapkv;
use crate::error::EngineError;
use crate::press::linear::projected_norms;
use crate::press::select::{Protect, not_a_number, select};
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Needs, Press, PressSpec, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CriticalKv {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// Added to the score before the norm multiplies it.
    pub epsilon: f64,
    /// Share of the budget that the plain score fills.
    pub first_stage_ratio: f64,
}

impl Default for CriticalKv {
    fn default() -> Self {
        CriticalKv { press: snapkv(), epsilon: 1e-4, first_stage_ratio: 0.5 }
    }
}

pub(crate) fn check(press: &str, epsilon: f64, first: f64) -> Result<(), EngineError> {
    if !(epsilon.is_finite() && epsilon >= 0.0) {
        return Err(bad(press, "epsilon", epsilon, "0 or a small positive number"));
    }
    if !(0.0..=1.0).contains(&first) {
        return Err(bad(press, "first_stage_ratio", first, "between 0 and 1"));
    }
    Ok(())
}

struct Ready {
    inner: Arc<dyn Press>,
    spec: CriticalKv,
}

impl Build for CriticalKv {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        check("criticalkv", self.epsilon, self.first_stage_ratio)?;
        Ok(Arc::new(Ready { inner: super::scorer("criticalkv", &self.press)?, spec: self.clone() }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

/// Scores of the second stage, with the best `first[h]` of the plain score on top.
pub(crate) fn two_stages(
    layer: &LayerView<'_>,
    scores: &mut Scores,
    (first, epsilon, protect): (&[usize], f64, Protect),
) -> Result<(), EngineError> {
    let norms = projected_norms(layer, 1)?;
    let mut top = Vec::new();
    for (number, (row, head)) in scores.rows_mut().iter_mut().zip(layer.heads).enumerate() {
        if first[number] > 0 {
            select(row, head.positions(), first[number], protect, &mut top)
                .map_err(|slot| not_a_number(layer.layer, number, head.positions()[slot]))?;
        } else {
            top.clear();
        }
        row.iter_mut().zip(&norms[number]).for_each(|(score, norm)| *score = (*score + epsilon as f32) * norm);
        top.iter().for_each(|&slot| row[slot as usize] = f32::MAX);
    }
    Ok(())
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "criticalkv"
    }

    fn needs(&self) -> Needs {
        Needs { values: true, output_projection: true, ..self.inner.needs() }
    }

    super::passes_on!(protects, observe, layer_target, only_at_prefill_end, check);

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        self.inner.score(layer, scores)?;
        let ratio = self.spec.first_stage_ratio;
        let count = if ratio > 0.0 { ((layer.target as f64 * ratio) as usize).max(1) } else { 0 };
        // the reference lets sentinels of the inner score compete; here what is protected needs no place
        let protect = if layer.kvpress() { Protect::default() } else { self.inner.protects(layer.target) };
        two_stages(layer, scores, (&vec![count; layer.heads.len()], self.spec.epsilon, protect))
    }
}
