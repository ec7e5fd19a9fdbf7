//! Keep keys unlike the mean key: `S = -cos(k_j, mean of k / |k|)`.
//!
//! Park et al., "KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in
//! Resource-Constrained Environments", arXiv 2504.15364. The paper works block by block: the schedule
//! `prefill_chunk:N` does that for real, `block(keydiff)` after a dense prefill.

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::spec::ready;
use crate::press::{LayerView, Needs, Press, Scores};

/// The paper's score.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyDiff {}

ready!(KeyDiff);

impl Press for KeyDiff {
    fn name(&self) -> &'static str {
        "keydiff"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, ..Needs::default() }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        scores.each(layer, |_, head, row| {
            let (keys, dim) = (head.keys(), head.layout().key_dim());
            let norm = |key: &[f32]| key.iter().map(|k| k * k).sum::<f32>().sqrt().max(1e-12);
            let mut anchor = vec![0f64; dim];
            for key in keys.chunks_exact(dim) {
                let inverse = 1.0 / norm(key);
                anchor.iter_mut().zip(key).for_each(|(a, k)| *a += f64::from(k * inverse));
            }
            let anchor: Vec<f32> = anchor.iter().map(|a| (a / head.len() as f64) as f32).collect();
            let length = norm(&anchor);
            for (score, key) in row.iter_mut().zip(keys.chunks_exact(dim)) {
                let dot: f32 = key.iter().zip(&anchor).map(|(k, a)| k * a).sum();
                *score = -dot / (norm(key) * length).max(1e-8);
            }
        });
        Ok(())
    }
}
