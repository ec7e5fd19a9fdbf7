//! What is evicted leaves its value with the most similar token that stays.
//!
//! After "Token Merging" (Bolya et al., arXiv 2210.09461) and D2O (Wan et al., arXiv 2406.13035), as kvpress has it. An
//! evicted slot e goes to the kept slot t whose key has the highest cosine c with its own; if c reaches the threshold it
//! weighs `g = max(c, 0) |v_e| / (|v_e| + |v_t| + 1e-6)`, and `v_t` becomes `(v_t + sum g v_e) / (1 + sum g)`. Keys are
//! left as they are. A threshold above 1 is plain eviction.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::press::select::Keep;
use crate::press::spec::{Build, bad};
use crate::press::{Edits, LayerView, Needs, Press, PressSpec, Scope, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Merging {
    /// The press that chooses.
    pub press: Box<PressSpec>,
    /// Least cosine at which values are merged.
    pub similarity_threshold: f64,
    /// Share of the evicted, the most similar first, that is merged; in (0, 1].
    pub merge_fraction: f64,
}

impl Default for Merging {
    fn default() -> Self {
        let knorm = PressSpec::Knorm(crate::press::score::knorm::Knorm {});
        Merging { press: Box::new(knorm), similarity_threshold: 0.0, merge_fraction: 1.0 }
    }
}

struct Ready {
    inner: Arc<dyn Press>,
    spec: Merging,
}

impl Build for Merging {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        if !(self.similarity_threshold.is_finite() && self.similarity_threshold >= 0.0) {
            return Err(bad("merging", "similarity_threshold", self.similarity_threshold, "0 or more"));
        }
        if !(self.merge_fraction > 0.0 && self.merge_fraction <= 1.0) {
            return Err(bad("merging", "merge_fraction", self.merge_fraction, "above 0, at most 1"));
        }
        let refuse = |why: &str| EngineError::Press {
            press: "merging".to_string(),
            why: format!("it cannot hold `{}`, {why}", self.press.name()),
        };
        let inner = self.press.build()?;
        if inner.scope() == Scope::Cache || inner.renumbers() || inner.needs().replay {
            return Err(refuse("which acts on all layers together"));
        }
        if edits(&self.press) || narrows(&self.press) {
            return Err(refuse("which changes the cache itself"));
        }
        Ok(Arc::new(Ready { inner, spec: self.clone() }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

/// Presses that change keys or values, and can therefore not stand inside another that does.
pub(crate) fn edits(spec: &PressSpec) -> bool {
    matches!(spec, PressSpec::Merging(_))
}

/// Presses that take channels from keys, alone or at the end of others.
fn narrows(spec: &PressSpec) -> bool {
    matches!(spec, PressSpec::Think(_)) || spec.parts().iter().any(narrows)
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "merging"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, values: true, ..self.inner.needs() }
    }

    super::passes_on!(score, protects, observe, layer_target, choose, only_at_prefill_end, check, own_budget);

    fn edit(&self, layer: &LayerView<'_>, keep: &Keep, edits: &mut Edits) -> Result<(), EngineError> {
        let mut merged: Vec<Vec<(u32, Vec<f32>)>> = vec![Vec::new(); layer.heads.len()];
        layer.model.pool().chunks(&mut merged, 1, |number, merged| {
            merged[0] = merge(&layer.heads[number], &keep[number], &self.spec);
        });
        for (number, merged) in merged.into_iter().enumerate() {
            edits.values.extend(merged.into_iter().map(|(slot, value)| (number, slot, value)));
        }
        Ok(())
    }
}

const EPS: f32 = 1e-6;

fn norm(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// New values of the kept slots of a head that take something over.
fn merge(head: &HeadCache, keep: &[u32], spec: &Merging) -> Vec<(u32, Vec<f32>)> {
    if keep.len() == head.len() || keep.is_empty() {
        return Vec::new();
    }
    let (dim, value_dim) = (head.layout().key_dim(), head.layout().value_dim());
    let mut keys = head.keys();
    for key in keys.chunks_exact_mut(dim) {
        let scale = 1.0 / norm(key).max(EPS);
        key.iter_mut().for_each(|k| *k *= scale);
    }
    let key = |slot: u32| &keys[slot as usize * dim..][..dim];
    let gone = (0..head.len() as u32).filter(|slot| keep.binary_search(slot).is_err());
    // (evicted, its most similar survivor, their cosine); equal cosines go to the lower position
    let pairs: Vec<(u32, u32, f32)> = gone
        .map(|from| {
            let mut best = (keep[0], f32::NEG_INFINITY);
            for &to in keep {
                let cosine: f32 = key(from).iter().zip(key(to)).map(|(a, b)| a * b).sum();
                if cosine > best.1 {
                    best = (to, cosine);
                }
            }
            (from, best.0, best.1)
        })
        .collect();
    let least = spec.similarity_threshold.max(cut(&pairs, spec));
    let values = head.values();
    let value = |slot: u32| &values[slot as usize * value_dim..][..value_dim];
    let mut sums = BTreeMap::<u32, (f32, Vec<f32>)>::new();
    for &(from, to, cosine) in pairs.iter().filter(|pair| f64::from(pair.2) >= least) {
        let (of_from, of_to) = (norm(value(from)), norm(value(to)));
        let weight = cosine.max(0.0) * of_from / (of_from + of_to + EPS);
        if weight > 0.0 {
            let (total, sum) = sums.entry(to).or_insert_with(|| (0.0, vec![0.0; value_dim]));
            *total += weight;
            sum.iter_mut().zip(value(from)).for_each(|(s, v)| *s += weight * v);
        }
    }
    let merged = sums.into_iter().map(|(to, (total, mut sum))| {
        sum.iter_mut().zip(value(to)).for_each(|(s, v)| *s = (*s + v) / (1.0 + total));
        (to, sum)
    });
    merged.collect()
}

/// The cosine from which on the wanted share of the evicted is merged: a quantile, with what fails the threshold at
/// the bottom.
fn cut(pairs: &[(u32, u32, f32)], spec: &Merging) -> f64 {
    if spec.merge_fraction >= 1.0 {
        return f64::NEG_INFINITY;
    }
    let passes = |c: f64| if c >= spec.similarity_threshold { c } else { f64::NEG_INFINITY };
    let mut cosines: Vec<f64> = pairs.iter().map(|pair| passes(f64::from(pair.2))).collect();
    cosines.sort_by(f64::total_cmp);
    let at = (1.0 - spec.merge_fraction) * (cosines.len() - 1) as f64;
    let (low, high) = (cosines[at.floor() as usize], cosines[at.ceil() as usize]);
    // between what passes and what does not there is nothing to interpolate
    if low.is_finite() { low + (high - low) * at.fract() } else { high }
}
