//! Leverage of the keys and attention inside chunks, blended.
//!
//! Chari & Van Durme, arXiv 2507.08143. `blending` times the standardised leverage plus the standardised chunk
//! attention, both over the tokens between the first `sink_size_start` and the last `sink_size_end`, which stay.
//! Without a number the blending is the share that is removed, as in the published code.

use serde::{Deserialize, Serialize};

use super::{leverage_score, non_causal_attention};
use crate::cache::LayerCache;
use crate::error::EngineError;
use crate::press::select::Protect;
use crate::press::spec::{Build, TensorRef, bad};
use crate::press::view::average_pool;
use crate::press::watch::{LayerState, Piece};
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compactor {
    /// First tokens that stay.
    pub sink_size_start: usize,
    /// Newest tokens that stay.
    pub sink_size_end: usize,
    /// Tokens a chunk.
    pub chunk_size: usize,
    /// Directions of the sketch.
    pub sketch_dimension: usize,
    /// Weight of the leverage; nothing means the share that is removed.
    pub blending: Option<f64>,
    /// Seed of the sketch.
    pub seed: u64,
    /// Standard normal numbers to take instead, `(layers, kv_heads, head_dim, sketch)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sketch: Option<TensorRef>,
}

impl Default for Compactor {
    fn default() -> Self {
        Compactor {
            sink_size_start: 8,
            sink_size_end: 4,
            chunk_size: 256,
            sketch_dimension: 48,
            blending: None,
            seed: 0,
            sketch: None,
        }
    }
}

struct Ready {
    spec: Compactor,
    leverage: leverage_score::Ready,
    attention: non_causal_attention::Ready,
}

impl Build for Compactor {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        if self.blending.is_some_and(|b| !b.is_finite()) {
            return Err(bad("compactor", "blending", self.blending.unwrap_or_default(), "a number, or nothing"));
        }
        let leverage = leverage_score::LeverageScore {
            sketch_dimension: self.sketch_dimension,
            seed: self.seed,
            sketch: self.sketch.clone(),
        };
        let attention = non_causal_attention::NonCausalAttention { chunk_size: self.chunk_size };
        Ok(std::sync::Arc::new(Ready {
            leverage: leverage.ready()?,
            attention: attention.ready(self.sink_size_start, self.sink_size_end)?,
            spec: self.clone(),
        }))
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "compactor"
    }

    fn needs(&self) -> Needs {
        self.leverage.needs().and(self.attention.needs())
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: self.spec.sink_size_start, recents: self.spec.sink_size_end }
    }

    fn observe(&self, piece: &Piece<'_>, cache: &mut LayerCache, state: &mut LayerState) -> Result<(), EngineError> {
        self.attention.look(piece, cache, state)
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let protect = self.protects(layer.target);
        let middle: Vec<Vec<u32>> = layer
            .heads
            .iter()
            .map(|h| (0..h.len()).filter(|&s| !protect.covers(s, h.positions())).map(|s| s as u32).collect())
            .collect();
        let heads: Vec<_> = layer.heads.iter().zip(&middle).map(|(head, slots)| head.subset(slots)).collect();
        let part = layer.with(&heads, layer.target);
        let (mut leverage, mut attention) = (Scores::of(&heads), Scores::of(&heads));
        self.leverage.leverage(&part, &mut leverage)?;
        self.attention.attention(&part, &mut attention)?;
        attention.rows_mut().iter_mut().for_each(|row| average_pool(row, 3));
        attention.standardise();
        let blending = self.spec.blending.unwrap_or(layer.removed) as f32;
        let all = leverage.rows().iter().zip(attention.rows());
        let blended: Vec<Vec<f32>> =
            all.map(|(l, a)| l.iter().zip(a).map(|(l, a)| blending * l + a).collect()).collect();
        let top = blended.iter().flatten().copied().fold(f32::NEG_INFINITY, f32::max);
        for ((row, slots), blended) in scores.rows_mut().iter_mut().zip(&middle).zip(&blended) {
            row.fill(if top.is_finite() { top } else { 0.0 });
            slots.iter().zip(blended).for_each(|(&slot, &score)| row[slot as usize] = score);
        }
        Ok(())
    }
}
