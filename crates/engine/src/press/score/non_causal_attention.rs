//! Keep what the tokens of its own chunk attend to, in both directions.
//!
//! Chari & Van Durme, arXiv 2507.08143 (Compactor). The text is cut into chunks; inside each, every query attends to
//! every key, earlier or later; a key's score is the attention it receives, averaged over the group, times the norm
//! of its value, smoothed over three neighbours and standardised over the layer. The published code leaves out the
//! factor 1/√d; so does this press.
//!
//! Chunks are met while the text is read: at most one chunk of queries a layer is held.

use serde::{Deserialize, Serialize};

use crate::cache::LayerCache;
use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::press::spec::{Build, bad};
use crate::press::view::average_pool;
use crate::press::watch::{LayerState, Piece};
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NonCausalAttention {
    /// Tokens a chunk.
    pub chunk_size: usize,
}

impl Default for NonCausalAttention {
    fn default() -> Self {
        NonCausalAttention { chunk_size: 256 }
    }
}

impl NonCausalAttention {
    pub(crate) fn ready(&self, skip: usize, hold_back: usize) -> Result<Ready, EngineError> {
        if self.chunk_size == 0 {
            return Err(bad("non_causal_attention", "chunk_size", 0, "at least 1 token"));
        }
        Ok(Ready { chunk: self.chunk_size, skip, hold_back })
    }
}

impl Build for NonCausalAttention {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        Ok(std::sync::Arc::new(self.ready(0, 0)?))
    }
}

/// The press, over the tokens from `skip` on without the newest `hold_back`.
pub(crate) struct Ready {
    chunk: usize,
    skip: usize,
    hold_back: usize,
}

/// Queries that wait for their chunk to be complete.
struct Waiting<'a> {
    /// `(tokens, q_heads, head_dim)`.
    rows: &'a [f32],
}

impl Ready {
    fn column(&self) -> String {
        format!("non_causal_attention {} {} {}", self.chunk, self.skip, self.hold_back)
    }

    /// Mass of whole chunks goes into a column as soon as they are complete.
    pub(crate) fn look(
        &self,
        piece: &Piece<'_>,
        cache: &mut LayerCache,
        state: &mut LayerState,
    ) -> Result<(), EngineError> {
        let c = piece.model.config();
        let width = c.q_heads * c.head_dim;
        let name = self.column();
        let first = piece.positions.partition_point(|&p| (p as usize) < self.skip);
        let waiting = state.waiting.entry(name.clone()).or_default();
        waiting.rows.extend_from_slice(&piece.q[first * width..]);
        waiting.positions.extend_from_slice(&piece.positions[first..]);
        for head in cache.heads_mut() {
            head.column_mut(name.clone());
        }
        while waiting.positions.len() >= self.chunk + self.hold_back {
            let start = waiting.positions[0] as usize;
            let rows = Waiting { rows: &waiting.rows[..self.chunk * width] };
            let group = c.group();
            for (number, head) in cache.heads_mut().iter_mut().enumerate() {
                let slots = slots_of(head, start, self.chunk);
                let mass = chunk_mass(head, slots.clone(), (number, group, c.q_heads), &rows, 0);
                head.column_mut(name.clone())[slots].copy_from_slice(&mass);
            }
            waiting.drop_oldest(self.chunk);
        }
        Ok(())
    }

    pub(crate) fn attention(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let (c, name) = (layer.config(), self.column());
        let width = c.q_heads * c.head_dim;
        let waiting = layer.state.waiting.get(&name).ok_or_else(|| layer.missing("non_causal_attention", "queries"))?;
        let count = waiting.positions.len().saturating_sub(self.hold_back);
        let start = waiting.positions.first().map_or(layer.next, |&p| p as usize);
        let rows = Waiting { rows: &waiting.rows[..count * width] };
        // the reference pads the last chunk with zero queries and keys, whose logits are (nearly) zero, not hidden
        let padding = if layer.kvpress() && count > 0 { self.chunk - count } else { 0 };
        scores.each(layer, |number, head, row| {
            if let Some(column) = head.column(&name) {
                row.copy_from_slice(column);
            }
            let slots = slots_of(head, start, count);
            let mass = chunk_mass(head, slots.clone(), (number, c.group(), c.q_heads), &rows, padding);
            row[slots].copy_from_slice(&mass);
            for (score, value) in row.iter_mut().zip(head.values().chunks_exact(c.head_dim)) {
                *score *= meden_kernels::ops::l2_norm(value);
            }
        });
        Ok(())
    }
}

/// Slots whose positions lie in a chunk.
fn slots_of(head: &HeadCache, first: usize, count: usize) -> std::ops::Range<usize> {
    let at = |p: usize| head.positions().partition_point(|&x| (x as usize) < p);
    at(first)..at(first + count)
}

/// Attention that each slot of a chunk receives from the chunk's queries, averaged over the group.
fn chunk_mass(
    head: &HeadCache,
    slots: std::ops::Range<usize>,
    (number, group, q_heads): (usize, usize, usize),
    waiting: &Waiting<'_>,
    padding: usize,
) -> Vec<f32> {
    let dim = head.layout().key_dim();
    let mut keys = vec![0f32; slots.len() * dim];
    for (key, slot) in keys.chunks_exact_mut(dim).zip(slots.clone()) {
        head.key(slot, key);
    }
    let mut mass = vec![0f32; slots.len()];
    let mut weights = vec![0f32; slots.len()];
    for query in waiting.rows.chunks_exact(dim * q_heads) {
        for q in query[number * group * dim..(number + 1) * group * dim].chunks_exact(dim) {
            for (weight, key) in weights.iter_mut().zip(keys.chunks_exact(dim)) {
                *weight = q.iter().zip(key).map(|(q, k)| q * k).sum();
            }
            let floor = if padding > 0 { 0.0 } else { f32::NEG_INFINITY };
            let top = weights.iter().copied().fold(floor, f32::max);
            weights.iter_mut().for_each(|w| *w = (*w - top).exp());
            let beside = if padding > 0 { padding as f32 * (-top).exp() } else { 0.0 };
            let total: f32 = weights.iter().sum::<f32>() + beside;
            mass.iter_mut().zip(&weights).for_each(|(m, w)| *m += w / total / group as f32);
        }
    }
    if padding > 0 {
        // the zero queries spread their attention evenly over the chunk
        let even = padding as f32 / (padding + slots.len()) as f32;
        mass.iter_mut().for_each(|m| *m += even);
    }
    mass
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "non_causal_attention"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, values: true, hidden_states: true, ..Needs::default() }
    }

    fn observe(&self, piece: &Piece<'_>, cache: &mut LayerCache, state: &mut LayerState) -> Result<(), EngineError> {
        self.look(piece, cache, state)
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        self.attention(layer, scores)?;
        scores.rows_mut().iter_mut().for_each(|row| average_pool(row, 3));
        scores.standardise();
        Ok(())
    }
}
