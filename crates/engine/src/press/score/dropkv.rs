//! Keep what the outputs of the last queries would miss most.
//!
//! Zhang et al., "DropKV: Decoupled Residual-Output Perturbation for KV Cache Eviction" (openreview MqfNzH3TVH). Without
//! slot j the output o of a query that gave it the weight p would move by exactly `p/(1-p) (o - v_j)`; the score is the
//! squared length of that, summed over the last `window_size` queries and averaged over the group of a kv head. The
//! window itself stays.

use serde::{Deserialize, Serialize};

use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::press::attention::{Outputs, attended, recent};
use crate::press::linear::product;
use crate::press::select::Protect;
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DropKv {
    /// Queries whose outputs are looked at; they stay themselves.
    pub window_size: usize,
}

impl Default for DropKv {
    fn default() -> Self {
        DropKv { window_size: 64 }
    }
}

/// The least that is left of a query's attention without one slot: keeps `p/(1-p)` finite.
const LEAST_REST: f32 = 1e-6;

impl Build for DropKv {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        if self.window_size == 0 {
            return Err(bad("dropkv", "window_size", 0, "at least 1 query"));
        }
        Ok(std::sync::Arc::new(self.clone()))
    }
}

impl Press for DropKv {
    fn name(&self) -> &'static str {
        "dropkv"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, values: true, recent_queries: self.window_size, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: 0, recents: self.window_size }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let queries = recent(layer, "dropkv", self.window_size)?;
        let outputs = attended(layer, &queries)?;
        let group = layer.group();
        for (number, (row, head)) in scores.rows_mut().iter_mut().zip(layer.heads).enumerate() {
            let (keys, values) = (head.keys(), head.values());
            for q_head in number * group..(number + 1) * group {
                let of_head = Head { layer, head, keys: &keys, values: &values, q_head };
                of_head.add(queries.positions, (queries.rows, &outputs), row)?;
            }
            row.iter_mut().for_each(|score| *score /= group as f32);
        }
        Ok(())
    }
}

/// A query head with the slots it reads.
struct Head<'a> {
    layer: &'a LayerView<'a>,
    head: &'a HeadCache,
    keys: &'a [f32],
    values: &'a [f32],
    q_head: usize,
}

impl Head<'_> {
    fn add(
        &self,
        positions: &[u32],
        (queries, outputs): (&[f32], &Outputs),
        row: &mut [f32],
    ) -> Result<(), EngineError> {
        let c = self.layer.config();
        let (dim, w) = (c.head_dim, positions.len());
        let of_head = |rows: &[f32]| -> Vec<f32> {
            rows.chunks_exact(c.q_heads * dim)
                .flat_map(|r| &r[self.q_head * dim..(self.q_head + 1) * dim])
                .copied()
                .collect()
        };
        let out = of_head(&outputs.rows);
        let squared = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
        let out_norms: Vec<f32> = out.chunks_exact(dim).map(squared).collect();
        let logits = product(self.layer, self.keys, of_head(queries), dim)?; // (slots, w)
        let dots = product(self.layer, self.values, out, dim)?; // (slots, w)
        let slots = logits.chunks_exact(w).zip(dots.chunks_exact(w)).zip(self.values.chunks_exact(dim));
        for (((logits, dots), value), (score, &at)) in slots.zip(row.iter_mut().zip(self.head.positions())) {
            let value_norm = squared(value);
            for i in (0..w).filter(|&i| at <= positions[i]) {
                let mut logit = logits[i] * c.attention_scale;
                if let Some(cap) = c.attention_softcap {
                    logit = cap * (logit / cap).tanh();
                }
                let p = (logit - outputs.lse[i * c.q_heads + self.q_head]).exp().min(1.0);
                let odds = p / (1.0 - p).max(LEAST_REST);
                *score += odds * odds * (value_norm - 2.0 * dots[i] + out_norms[i]).max(0.0);
            }
        }
        Ok(())
    }
}
