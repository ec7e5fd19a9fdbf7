//! Choose again after each block: keep the first B tokens, add a block, keep the best B of both, and so on.
//!
//! The block-wise eviction of KeyDiff (arXiv 2504.15364) after a dense prefill, as kvpress has it. Every block was read
//! with the whole text in view; the schedule `prefill_chunk:N` is the real thing, with a bounded peak.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::chunk::local_scorer;
use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::press::select::{Keep, Protect, best};
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Press, PressSpec, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Block {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// Tokens a block.
    pub block_size: usize,
}

impl Default for Block {
    fn default() -> Self {
        Block { press: Box::new(PressSpec::Keydiff(crate::press::score::keydiff::KeyDiff {})), block_size: 128 }
    }
}

struct Ready {
    inner: Arc<dyn Press>,
    size: usize,
}

impl Build for Block {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        if self.block_size == 0 {
            return Err(bad("block", "block_size", 0, "at least 1 token"));
        }
        Ok(Arc::new(Ready { inner: local_scorer("block", &self.press)?, size: self.block_size }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "block"
    }

    super::passes_on!(needs, score, protects, layer_target, only_at_prefill_end, check);

    fn choose(&self, layer: &LayerView<'_>, _: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        let target = layer.target;
        let mut keep: Keep = layer.heads.iter().map(|h| (0..h.len().min(target) as u32).collect()).collect();
        let mut first = target;
        while first < layer.longest() {
            let end = (first + self.size).min(layer.longest());
            for (keep, head) in keep.iter_mut().zip(layer.heads) {
                keep.extend((first.min(head.len()) as u32)..(end.min(head.len()) as u32));
            }
            let heads: Vec<HeadCache> = layer.heads.iter().zip(&keep).map(|(h, slots)| h.subset(slots)).collect();
            let part = layer.with(&heads, target);
            let mut scores = Scores::of(&heads);
            self.inner.score(&part, &mut scores)?;
            let chosen = best(&part, &scores, &vec![target; heads.len()], protect)?;
            for (keep, chosen) in keep.iter_mut().zip(chosen) {
                *keep = chosen.iter().map(|&at| keep[at as usize]).collect();
            }
            first = end;
        }
        Ok(keep)
    }
}
