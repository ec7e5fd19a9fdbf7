//! The question at the end of the prompt votes on the context before it.
//!
//! Corallo & Papotti, "FINCH: Prompt-guided Key-Value Cache Compression for Large Language Models" (TACL 2024). As in
//! SnapKV, the attention of the last queries, here the question's `window_size` tokens; each query's row is weighted by
//! the number of keys it sees, averaged over the question and the group, not pooled. The question stays. Kept keys are
//! rotated to positions 0, 1, … unless `rerotate_keys` is off; with `chunk_length` each chunk of the text keeps the same
//! share.

use meden_kernels::attention::Reduce;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::attention::{columns, group_mean, recent};
use crate::press::select::{Keep, Protect, best};
use crate::press::spec::{Build, bad};
use crate::press::wrap::chunk::choose_in_chunks;
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Finch {
    /// Tokens of the question, which ends the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_size: Option<usize>,
    /// Tokens a chunk; nothing means the text is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_length: Option<usize>,
    /// Weight each query by the number of keys it sees.
    pub normalize_scores: bool,
    /// Rotate what stays to positions 0, 1, ….
    pub rerotate_keys: bool,
}

impl Default for Finch {
    fn default() -> Self {
        Finch { window_size: None, chunk_length: None, normalize_scores: true, rerotate_keys: true }
    }
}

struct Ready {
    spec: Finch,
    window: usize,
}

impl Build for Finch {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        let Some(window) = self.window_size else {
            return Err(EngineError::Press {
                press: "finch".to_string(),
                why: "parameter `window_size` is missing: the number of tokens of the question that ends the prompt"
                    .to_string(),
            });
        };
        if window == 0 {
            return Err(bad("finch", "window_size", 0, "at least 1 token"));
        }
        if self.chunk_length == Some(0) {
            return Err(bad("finch", "chunk_length", 0, "at least 1 token"));
        }
        Ok(std::sync::Arc::new(Ready { spec: self.clone(), window }))
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "finch"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, recent_queries: self.window, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: 0, recents: self.window }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let queries = recent(layer, self.name(), self.window)?;
        let first = queries.positions.first().copied().unwrap_or(0);
        let count = queries.positions.len() as f32;
        let seen: Vec<f32> = queries.positions.iter().map(|&p| p as f32).collect();
        let weights = self.spec.normalize_scores.then_some(&seen[..]);
        let mass = group_mean(&columns(layer, &queries, weights, Reduce::Sum)?, layer.group());
        for ((row, mass), head) in scores.rows_mut().iter_mut().zip(&mass).zip(layer.heads) {
            let old = head.positions().partition_point(|&p| p < first);
            row[..old].iter_mut().zip(mass).for_each(|(score, m)| *score = m / count);
        }
        Ok(())
    }

    fn choose(&self, layer: &LayerView<'_>, scores: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        match self.spec.chunk_length {
            Some(length) => choose_in_chunks(layer, scores, length, (protect, Protect::default())),
            None => best(layer, scores, &layer.uniform(), protect),
        }
    }

    fn renumbers(&self) -> bool {
        self.spec.rerotate_keys
    }

    fn only_at_prefill_end(&self) -> Option<&'static str> {
        Some("its window is the question, which ends the prompt")
    }
}
