//! Keep what repeating the text needs: the text is read a second time, as its own continuation.
//!
//! Kim et al., "KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction", arXiv 2505.23416. After the
//! prefill each chunk c is repeated over the dense cache (the instruction, the last 8 tokens of the chunk before, the
//! chunk); a slot of the chunk is worth the largest attention it gets from the repeat, over queries and the group of
//! its head, in a softmax over the sinks, the chunk and the repeat itself. The lowest go, from all layers and heads
//! together, or the same number from each layer.
//!
//! `plus` is KVzip+ (Jégou & Jeblick, "KVzap", arXiv 2601.07891): the weight is multiplied by the norm of what the
//! value adds to the stream and divided by the norm of the stream at the query, before the attention's input norm as
//! the paper has it, or after it as kvpress does.
//!
//! A chat header is judged like the text, where the published code evicts it first.

use std::sync::Arc;

use meden_kernels::attention::{HeadView, Reduce};
use meden_kernels::ops::l2_norm;
use serde::{Deserialize, Serialize};

use crate::cache::LayerCache;
use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::press::linear::projected_norms_by_query_head;
use crate::press::replay::{Reading, Text, column_name, columns_of, no_room, raise};
use crate::press::select::Protect;
use crate::press::spec::{Build, bad};
use crate::press::wrap::adakv::check_scores;
use crate::press::wrap::pool::{PoolHead, pool};
use crate::press::{LayerView, Needs, Piece, Press, Scope, Scores};

/// Tokens of the chunk before that lead into a repeat.
const LEAD: usize = 8;
/// First tokens that every repeat sees, and that stay.
const SINKS: usize = 4;

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KvZip {
    /// Weigh by what the value adds to the stream (KVzip+).
    pub plus: bool,
    /// For `plus`: divide by the norm of the attention's normed input, as kvpress does, not by the stream's.
    pub normed_input: bool,
    /// The same number goes from each layer.
    pub layerwise: bool,
    /// Tokens that are repeated at a time; fewer where the context leaves no room for so many.
    pub chunk_size: usize,
    /// Token ids that ask for the repeat; may be empty.
    pub instruction: Vec<u32>,
}

impl Default for KvZip {
    fn default() -> Self {
        KvZip { plus: false, normed_input: false, layerwise: false, chunk_size: 2048, instruction: Vec::new() }
    }
}

impl Build for KvZip {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        if self.chunk_size == 0 {
            return Err(bad("kvzip", "chunk_size", 0, "at least 1 token"));
        }
        if self.normed_input && !self.plus {
            return Err(bad("kvzip", "normed_input", true, "true only together with plus=true, which divides by it"));
        }
        Ok(Arc::new(self.clone()))
    }
}

/// The repeats of a text: the instruction, the last tokens of the chunk before, the chunk.
fn repeats(text: &Text<'_>, instruction: &[u32], chunk_size: usize) -> Result<Vec<Reading>, EngineError> {
    let n = text.ids.len();
    let fixed = instruction.len() + LEAD;
    let chunk = chunk_size.min(text.room.saturating_sub(fixed)).min(n.max(1));
    if chunk == 0 {
        return Err(no_room("kvzip", fixed + 1, text));
    }
    let starts = (0..n).step_by(chunk);
    Ok(starts
        .map(|start| {
            let end = (start + chunk).min(n);
            let lead = &text.ids[start.saturating_sub(LEAD)..start];
            let ids = [instruction, lead, &text.ids[start..end]].concat();
            Reading { ids, chunk: start as u32..end as u32, first: n as u32 }
        })
        .collect())
}

impl Press for KvZip {
    fn name(&self) -> &'static str {
        "kvzip"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, values: self.plus, output_projection: self.plus, replay: true, ..Needs::default() }
    }

    fn only_at_prefill_end(&self) -> Option<&'static str> {
        Some("it reads the whole text a second time before it evicts")
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: SINKS, recents: 0 }
    }

    fn replay_key(&self) -> String {
        format!(
            "kvzip plus={} normed={} chunk={} {:?}",
            self.plus, self.normed_input, self.chunk_size, self.instruction
        )
    }

    fn readings(&self, text: &Text<'_>) -> Result<Vec<Reading>, EngineError> {
        repeats(text, &self.instruction, self.chunk_size)
    }

    fn observe_again(&self, reading: &Reading, piece: &Piece<'_>, cache: &mut LayerCache) -> Result<(), EngineError> {
        let seen = |p: u32| (p as usize) < SINKS || reading.chunk.contains(&p) || p >= reading.first;
        let slots: Vec<Vec<u32>> = cache
            .heads()
            .iter()
            .map(|head| (0..head.len() as u32).filter(|&s| seen(head.positions()[s as usize])).collect())
            .collect();
        let part: Vec<HeadCache> = cache.heads().iter().zip(&slots).map(|(head, slots)| head.subset(slots)).collect();
        let views: Vec<HeadView<'_>> = part.iter().map(HeadCache::view).collect();
        let weights = self.plus.then(|| {
            let rows = if self.normed_input { piece.hidden } else { piece.residual };
            rows.chunks_exact(piece.model.config().hidden).map(|row| 1.0 / l2_norm(row)).collect::<Vec<f32>>()
        });
        let columns = columns_of(piece, &views, weights.as_deref(), Reduce::Max)?;
        let group = piece.model.config().group();
        for (number, head) in cache.heads_mut().iter_mut().enumerate() {
            let positions = head.positions().to_vec();
            for (g, column) in columns[number * group..(number + 1) * group].iter().enumerate() {
                let judged = slots[number].iter().zip(column).map(|(&slot, &weight)| (slot as usize, weight));
                let judged = judged.filter(|&(slot, _)| reading.chunk.contains(&positions[slot]));
                raise(head, column_name(self, g), judged);
            }
        }
        Ok(())
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let norms = self.plus.then(|| projected_norms_by_query_head(layer, 2)).transpose()?;
        let group = layer.group();
        for (number, (row, head)) in scores.rows_mut().iter_mut().zip(layer.heads).enumerate() {
            for g in 0..group {
                let column = head.column(&column_name(self, g)).ok_or_else(|| layer.missing("kvzip", "replay"))?;
                for (slot, (score, &weight)) in row.iter_mut().zip(column).enumerate() {
                    let norm = norms.as_ref().map_or(1.0, |norms| norms[number * group + g][slot]);
                    let worth = weight * norm;
                    if worth > *score || worth.is_nan() {
                        *score = worth;
                    }
                }
            }
        }
        Ok(())
    }

    fn scope(&self) -> Scope {
        Scope::Cache
    }

    fn share_out(&self, layers: &[(LayerView<'_>, Scores)], counts: &mut [Vec<usize>]) -> Result<(), EngineError> {
        share_out(layers, counts, (self.layerwise, SINKS))
    }
}

/// The highest scores of all layers and heads together stay, or of the heads of each layer; no head is guaranteed more
/// than what is protected: the policy's, and the press's own first tokens.
pub(crate) fn share_out(
    layers: &[(LayerView<'_>, Scores)],
    counts: &mut [Vec<usize>],
    (layerwise, sinks): (bool, usize),
) -> Result<(), EngineError> {
    let mut heads = Vec::new();
    let mut total = 0;
    for ((layer, scores), counts) in layers.iter().zip(&mut *counts) {
        check_scores(layer, scores)?;
        let protect = layer.protect.and(Protect { sinks, recents: 0 });
        let of_layer: Vec<PoolHead<'_>> = layer
            .heads
            .iter()
            .zip(scores.rows())
            .map(|(head, row)| PoolHead { scores: row, positions: head.positions(), protect })
            .collect();
        let target = layer.target * layer.heads.len();
        if layerwise {
            counts.iter_mut().zip(pool(&of_layer, target, 0)).for_each(|(count, kept)| *count = kept.len());
        } else {
            total += target;
            heads.extend(of_layer);
        }
    }
    if !layerwise {
        let kept = pool(&heads, total, 0);
        counts.iter_mut().flatten().zip(kept).for_each(|(count, kept)| *count = kept.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_the_instruction_a_lead_and_the_chunk() {
        let ids: Vec<u32> = (100..125).collect();
        let readings = repeats(&Text { ids: &ids, room: 1000 }, &[7, 8], 10).unwrap();
        assert_eq!(readings.len(), 3);
        assert_eq!(readings[0].ids, [&[7, 8], &ids[..10]].concat());
        assert_eq!(readings[2].ids, [&[7, 8], &ids[12..20], &ids[20..25]].concat());
        assert_eq!((readings[2].chunk.clone(), readings[2].first), (20..25, 25));
    }

    #[test]
    fn a_full_context_makes_chunks_smaller_and_then_refuses() {
        let ids: Vec<u32> = (0..30).collect();
        let readings = repeats(&Text { ids: &ids, room: 16 }, &[7, 8], 2048).unwrap();
        assert!(readings.iter().all(|r| r.ids.len() <= 16), "{readings:?}");
        assert_eq!(readings.iter().map(|r| r.chunk.len()).sum::<usize>(), 30);
        let error = repeats(&Text { ids: &ids, room: 10 }, &[7, 8], 2048).unwrap_err().to_string();
        assert!(error.contains("context of 40") && error.contains("11 are needed"), "{error}");
    }
}
