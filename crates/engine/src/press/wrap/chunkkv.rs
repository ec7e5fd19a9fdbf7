//! Chunks of the text stay or go whole, the same for every head.
//!
//! Liu et al., "ChunkKV: Semantic-Preserving KV Cache Compression for Efficient Long-Context LLM Inference", arXiv
//! 2502.00299. A chunk's score is the mean over its tokens of the sum over heads; the shorter tail counts as a chunk.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::snapkv;
use crate::error::EngineError;
use crate::press::select::{Keep, Protect};
use crate::press::spec::{Build, bad};
use crate::press::wrap::adakv::check_scores;
use crate::press::{LayerView, Press, PressSpec, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChunkKv {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// Tokens a chunk.
    pub chunk_length: usize,
}

impl Default for ChunkKv {
    fn default() -> Self {
        ChunkKv { press: snapkv(), chunk_length: 20 }
    }
}

struct Ready {
    inner: Arc<dyn Press>,
    length: usize,
}

impl Build for ChunkKv {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        if self.chunk_length == 0 {
            return Err(bad("chunkkv", "chunk_length", 0, "at least 1 token"));
        }
        Ok(Arc::new(Ready { inner: super::scorer("chunkkv", &self.press)?, length: self.chunk_length }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "chunkkv"
    }

    super::passes_on!(needs, score, protects, observe, layer_target, only_at_prefill_end, check);

    fn choose(&self, layer: &LayerView<'_>, scores: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        check_scores(layer, scores)?;
        // by position, since heads of another press may hold different slots; chunks are cut in the order of what is left
        let mut sums = BTreeMap::<u32, f64>::new();
        for (row, head) in scores.rows().iter().zip(layer.heads) {
            for (&position, &score) in head.positions().iter().zip(row) {
                *sums.entry(position).or_default() += f64::from(score);
            }
        }
        let positions: Vec<(u32, f64)> = sums.into_iter().collect();
        let chunks: Vec<&[(u32, f64)]> = positions.chunks(self.length).collect();
        let newest = positions.len().saturating_sub(protect.recents);
        let forced = |number: usize| {
            let slots = number * self.length..number * self.length + chunks[number].len();
            slots.end > newest || chunks[number].iter().any(|(p, _)| (*p as usize) < protect.sinks)
        };
        let wanted = match layer.kvpress() {
            true => ((chunks.len() as f64 * (1.0 - layer.removed)) as usize).max(1),
            false => (layer.target / self.length).max(1),
        };
        let mean = |chunk: &[(u32, f64)]| chunk.iter().map(|(_, s)| s).sum::<f64>() / chunk.len() as f64;
        let mut order: Vec<usize> = (0..chunks.len()).collect();
        order.sort_by(|&a, &b| {
            forced(b).cmp(&forced(a)).then(mean(chunks[b]).total_cmp(&mean(chunks[a]))).then(a.cmp(&b))
        });
        let count = wanted.max((0..chunks.len()).filter(|&c| forced(c)).count());
        let mut stay: Vec<u32> = order.iter().take(count).flat_map(|&c| chunks[c].iter().map(|(p, _)| *p)).collect();
        stay.sort_unstable();
        Ok(layer
            .heads
            .iter()
            .map(|head| {
                let held = head.positions().iter().enumerate();
                held.filter(|(_, p)| stay.binary_search(p).is_ok()).map(|(slot, _)| slot as u32).collect()
            })
            .collect())
    }
}
