//! Chunks stay whole unless one or two of their tokens are all that matters: then only those stay.
//!
//! ChunkKV (arXiv 2502.00299) with the entropy gate of kvpress. A chunk's score is the mean over its tokens of the sum
//! over heads; its entropy that of its tokens' scores as a distribution, divided by the logarithm of its length. Chunks
//! are taken by score; one at or above the median score whose entropy lies below the median entropy keeps its best
//! `low_entropy_chunk_length` tokens only. What is left of the budget goes to the best tokens that remain, so the number
//! is exact. One set for all heads.

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
pub struct EntropyChunkKv {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// Tokens a chunk.
    pub chunk_length: usize,
    /// Tokens that stay of an important chunk of low entropy.
    pub low_entropy_chunk_length: usize,
}

impl Default for EntropyChunkKv {
    fn default() -> Self {
        EntropyChunkKv { press: snapkv(), chunk_length: 10, low_entropy_chunk_length: 4 }
    }
}

struct Ready {
    inner: Arc<dyn Press>,
    length: usize,
    spiky: usize,
}

impl Build for EntropyChunkKv {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        let name = "entropy_chunkkv";
        if self.chunk_length < 2 {
            return Err(bad(name, "chunk_length", self.chunk_length, "at least 2 tokens"));
        }
        if !(1..self.chunk_length).contains(&self.low_entropy_chunk_length) {
            let allowed = format!("1 to {}, below the chunk's length", self.chunk_length - 1);
            return Err(bad(name, "low_entropy_chunk_length", self.low_entropy_chunk_length, &allowed));
        }
        let inner = super::scorer(name, &self.press)?;
        Ok(Arc::new(Ready { inner, length: self.chunk_length, spiky: self.low_entropy_chunk_length }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

const EPS: f64 = 1e-8;

/// Entropy of the scores of a chunk, moved up where some are negative, as a share of the largest possible.
fn entropy(scores: &[f64]) -> f64 {
    if scores.len() < 2 {
        return 0.0;
    }
    let low = scores.iter().copied().fold(0.0, f64::min);
    let sum = scores.iter().map(|s| s - low).sum::<f64>() + EPS;
    let h: f64 = scores.iter().map(|s| (s - low) / sum).map(|p| -p * (p + EPS).ln()).sum();
    (h / (scores.len() as f64).ln()).clamp(0.0, 1.0)
}

/// The lower of the two middle values.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// The best of some slots that are not taken yet, ties to the lower one.
fn take(scores: &[f64], slots: std::ops::Range<usize>, count: usize, taken: &mut [bool]) -> usize {
    let mut free: Vec<usize> = slots.filter(|&slot| !taken[slot]).collect();
    free.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    free.truncate(count);
    free.iter().for_each(|&slot| taken[slot] = true);
    free.len()
}

/// Which of the slots stay; `taken` comes with those that are protected.
fn choose(scores: &[f64], budget: usize, (length, spiky): (usize, usize), taken: &mut [bool]) {
    let mut left = budget.saturating_sub(taken.iter().filter(|t| **t).count());
    let mean = |chunk: &[f64]| chunk.iter().sum::<f64>() / chunk.len() as f64;
    let means: Vec<f64> = scores.chunks(length).map(mean).collect();
    let entropies: Vec<f64> = scores.chunks(length).map(entropy).collect();
    let (score_median, entropy_median) = (median(&means), median(&entropies));
    let mut order: Vec<usize> = (0..means.len()).collect();
    order.sort_by(|&a, &b| means[b].total_cmp(&means[a]).then(a.cmp(&b)));
    for chunk in order {
        let slots = chunk * length..((chunk + 1) * length).min(scores.len());
        let whole = !(means[chunk] >= score_median && entropies[chunk] < entropy_median);
        // protected slots of a spiky chunk count as its best
        let held = taken[slots.clone()].iter().filter(|t| **t).count();
        let wanted = if whole { slots.len() } else { spiky.min(slots.len()).saturating_sub(held) };
        left -= take(scores, slots, wanted.min(left), taken);
    }
    take(scores, 0..scores.len(), left, taken);
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "entropy_chunkkv"
    }

    super::passes_on!(needs, score, protects, observe, layer_target, only_at_prefill_end, check);

    fn choose(&self, layer: &LayerView<'_>, scores: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        check_scores(layer, scores)?;
        let held = layer.heads.iter().map(HeadCache::positions);
        let (positions, sums) = sum_by_position(held.zip(scores.rows().iter().map(Vec::as_slice)));
        let mut stays: Vec<bool> = (0..positions.len()).map(|slot| protect.covers(slot, &positions)).collect();
        choose(&sums, layer.target.max(1), (self.length, self.spiky), &mut stays);
        let stay: Vec<u32> = positions.iter().zip(&stays).filter(|(_, stays)| **stays).map(|(p, _)| *p).collect();
        Ok(slots_at(layer.heads, &stay))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(scores: &[f64], budget: usize, protected: &[usize]) -> Vec<usize> {
        let mut taken: Vec<bool> = (0..scores.len()).map(|slot| protected.contains(&slot)).collect();
        choose(scores, budget, (4, 1), &mut taken);
        (0..scores.len()).filter(|&slot| taken[slot]).collect()
    }

    #[test]
    fn a_spiky_chunk_keeps_its_spike_and_frees_slots_for_others() {
        // means 2.5, 1.5, 1, 0.25; entropies 0, 1, 1, 1: the first chunk is one token
        let scores = [0., 10., 0., 0., 1.5, 1.5, 1.5, 1.5, 1., 1., 1., 1., 0.25, 0.25, 0.25, 0.25];
        assert_eq!(kept(&scores, 5, &[]), [1, 4, 5, 6, 7]);
        assert_eq!(kept(&scores, 7, &[]), [1, 4, 5, 6, 7, 8, 9], "a chunk that does not fit gives its best");
        assert_eq!(kept(&scores, 5, &[0, 15]), [0, 4, 5, 6, 15], "what is protected counts, and the spike is filled");
        assert_eq!(kept(&scores, 14, &[]).len(), 14, "the number is exact");
        assert_eq!(kept(&scores, 16, &[]).len(), 16);
    }

    #[test]
    fn entropy_is_one_for_equal_scores_and_zero_for_a_single_one() {
        assert!((entropy(&[2.0; 4]) - 1.0).abs() < 1e-6);
        assert!(entropy(&[0.0, 5.0, 0.0, 0.0]) < 1e-6);
        assert_eq!(entropy(&[3.0]), 0.0);
        let half = entropy(&[-1.0, 1.0, 1.0, -1.0]);
        assert!((half - 0.5).abs() < 1e-6, "{half}: negative scores are moved up");
    }
}
