//! Chunks of the text stay or go whole, the same for every head.
//!
//! Liu et al., "ChunkKV: Semantic-Preserving KV Cache Compression for Efficient Long-Context LLM Inference", arXiv
//! 2502.00299. A chunk's score is the mean over its tokens of the sum over heads; the shorter tail counts as a chunk.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::snapkv;
use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::press::select::{Keep, Protect};
use crate::press::spec::{Build, bad};
use crate::press::view::{slots_at, sum_by_position};
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
        // chunks are cut in the order of what is left
        let held = layer.heads.iter().map(HeadCache::positions);
        let (positions, sums) = sum_by_position(held.zip(scores.rows().iter().map(Vec::as_slice)));
        let chunks: Vec<(&[u32], &[f64])> = positions.chunks(self.length).zip(sums.chunks(self.length)).collect();
        let newest = positions.len().saturating_sub(protect.recents);
        let forced = |number: usize| {
            let chunk = chunks[number].0;
            number * self.length + chunk.len() > newest || chunk.iter().any(|&p| (p as usize) < protect.sinks)
        };
        let wanted = match layer.kvpress() {
            true => ((chunks.len() as f64 * (1.0 - layer.removed)) as usize).max(1),
            false => (layer.target / self.length).max(1),
        };
        let mean = |(_, sums): (&[u32], &[f64])| sums.iter().sum::<f64>() / sums.len() as f64;
        let mut order: Vec<usize> = (0..chunks.len()).collect();
        order.sort_by(|&a, &b| {
            forced(b).cmp(&forced(a)).then(mean(chunks[b]).total_cmp(&mean(chunks[a]))).then(a.cmp(&b))
        });
        let count = wanted.max((0..chunks.len()).filter(|&c| forced(c)).count());
        let mut stay: Vec<u32> = order.iter().take(count).flat_map(|&c| chunks[c].0).copied().collect();
        stay.sort_unstable();
        Ok(slots_at(layer.heads, &stay))
    }
}
