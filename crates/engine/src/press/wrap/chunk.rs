//! The same share of every chunk of the text, each scored by itself.
//!
//! The chunked compression of Finch (Corallo & Papotti, TACL 2024) around any press that reads keys and values only.
//! Queries of the past are not kept, so presses that read them are refused: the schedule `prefill_chunk:N` presses each
//! chunk as it is read, with its own queries.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::select::{Keep, Protect, best};
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Press, PressSpec, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Chunk {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// Tokens a chunk.
    pub chunk_length: usize,
}

impl Default for Chunk {
    fn default() -> Self {
        Chunk { press: Box::new(PressSpec::Knorm(crate::press::score::knorm::Knorm {})), chunk_length: 1024 }
    }
}

struct Ready {
    inner: Arc<dyn Press>,
    length: usize,
}

impl Build for Chunk {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        if self.chunk_length == 0 {
            return Err(bad("chunk", "chunk_length", 0, "at least 1 token"));
        }
        let inner = local_scorer("chunk", &self.press)?;
        Ok(Arc::new(Ready { inner, length: self.chunk_length }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

/// A press whose scores of a part of the text come from that part's keys and values alone.
pub(crate) fn local_scorer(wrapper: &str, inner: &PressSpec) -> Result<Arc<dyn Press>, EngineError> {
    let press = super::scorer(wrapper, inner)?;
    let needs = press.needs();
    if needs.recent_queries > 0 || needs.query_mean || needs.attention_mass || needs.hidden_states {
        return Err(EngineError::Press {
            press: wrapper.to_string(),
            why: format!(
                "it cannot hold `{}`, which reads {}: press each chunk as it is read instead, with the schedule prefill_chunk:N",
                inner.name(),
                needs.words()
            ),
        });
    }
    Ok(press)
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "chunk"
    }

    super::passes_on!(needs, layer_target, only_at_prefill_end, check);

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        for first in (0..layer.longest()).step_by(self.length) {
            let part = Part::of(layer, first, self.length);
            let mut of_part = Scores::of(&part.heads);
            self.inner.score(&layer.with(&part.heads, layer.target), &mut of_part)?;
            for (row, part) in scores.rows_mut().iter_mut().zip(of_part.rows()) {
                let first = first.min(row.len());
                row[first..first + part.len()].copy_from_slice(part);
            }
        }
        Ok(())
    }

    fn choose(&self, layer: &LayerView<'_>, scores: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        // what the press protects, it protects in every chunk, as published; the policy's sinks and recents once
        let inner = if layer.kvpress() { Protect::default() } else { self.inner.protects(layer.target) };
        choose_in_chunks(layer, scores, self.length, (protect, inner))
    }
}

/// The same share of each chunk of `length` slots, one at least. `whole` is protected in the text, `each` in every chunk.
pub(crate) fn choose_in_chunks(
    layer: &LayerView<'_>,
    scores: &Scores,
    length: usize,
    (whole, each): (Protect, Protect),
) -> Result<Keep, EngineError> {
    let mut keep: Keep = vec![Vec::new(); layer.heads.len()];
    let share = layer.target as f64 / layer.longest().max(1) as f64;
    for first in (0..layer.longest()).step_by(length) {
        let part = Part::of(layer, first, length);
        let of_part = Part::scores(scores, first, length);
        let counts: Vec<usize> = part
            .heads
            .iter()
            .map(|h| {
                let kept =
                    if layer.kvpress() { h.len() as f64 * (1.0 - layer.removed) } else { h.len() as f64 * share };
                (kept as usize).max(1)
            })
            .collect();
        // the newest slots of the text that fall into this chunk
        let after = layer.longest().saturating_sub(first + length);
        let recents = whole.recents.saturating_sub(after);
        let view = layer.with(&part.heads, layer.target);
        let protect = Protect { sinks: whole.sinks, recents }.and(each);
        for (keep, slots) in keep.iter_mut().zip(best(&view, &of_part, &counts, protect)?) {
            keep.extend(slots.iter().map(|s| s + first as u32));
        }
    }
    Ok(keep)
}

/// The slots of a chunk, as heads of their own.
struct Part {
    heads: Vec<crate::cache::head::HeadCache>,
}

impl Part {
    fn of(layer: &LayerView<'_>, first: usize, length: usize) -> Part {
        let slots = |len: usize| (first.min(len) as u32..(first + length).min(len) as u32).collect::<Vec<u32>>();
        Part { heads: layer.heads.iter().map(|head| head.subset(&slots(head.len()))).collect() }
    }

    fn scores(scores: &Scores, first: usize, length: usize) -> Scores {
        let part = |row: &Vec<f32>| row[first.min(row.len())..(first + length).min(row.len())].to_vec();
        Scores::from_rows(scores.rows().iter().map(part).collect())
    }
}
