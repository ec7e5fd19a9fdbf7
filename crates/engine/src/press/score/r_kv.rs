//! Keep what the newest queries attend to and what is not said again later: for long chains of thought.
//!
//! Cai et al., "R-KV: Redundancy-aware KV Cache Compression for Training-Free Reasoning Models Acceleration", arXiv
//! 2505.24133. Importance I: the logits of the last `window_size` queries, the largest over a group, softmax over the
//! older slots, mean over the queries, largest over `kernel_size` neighbours. Redundancy R: cosines between all keys of
//! a head, without the diagonal and without, in each row, the latest key that is more similar than `threshold` (so that
//! one of a run of repetitions goes unpunished), mean over the rows, softmax. The score is
//! `mix_lambda I - (1 - mix_lambda) R`; the window stays. `mix_lambda` is 0.07 as in the published code (the paper says
//! 0.1).

use meden_kernels::ops::l2_norm;
use serde::{Deserialize, Serialize};

use super::expected_attention::softmax;
use crate::error::EngineError;
use crate::press::attention::recent;
use crate::press::linear::product;
use crate::press::select::Protect;
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RKv {
    /// Queries that vote; they stay themselves.
    pub window_size: usize,
    /// Neighbours that share their largest vote; odd.
    pub kernel_size: usize,
    /// Weight of the importance, in [0, 1].
    pub mix_lambda: f64,
    /// Cosine above which a key says the same again.
    pub threshold: f64,
}

impl Default for RKv {
    fn default() -> Self {
        RKv { window_size: 8, kernel_size: 7, mix_lambda: 0.07, threshold: 0.5 }
    }
}

impl Build for RKv {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        if self.window_size == 0 {
            return Err(bad("r_kv", "window_size", 0, "at least 1 query"));
        }
        if self.kernel_size.is_multiple_of(2) {
            return Err(bad("r_kv", "kernel_size", self.kernel_size, "an odd number"));
        }
        for (field, value) in [("mix_lambda", self.mix_lambda), ("threshold", self.threshold)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(bad("r_kv", field, value, "between 0 and 1"));
            }
        }
        Ok(std::sync::Arc::new(self.clone()))
    }
}

impl Press for RKv {
    fn name(&self) -> &'static str {
        "r_kv"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, recent_queries: self.window_size, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: 0, recents: self.window_size }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let queries = recent(layer, "r_kv", self.window_size)?;
        let first = queries.positions.first().copied().unwrap_or(0);
        for (number, (row, head)) in scores.rows_mut().iter_mut().zip(layer.heads).enumerate() {
            let keys = head.keys();
            let old = head.positions().partition_point(|&p| p < first);
            let dim = layer.config().head_dim;
            let importance = self.importance(layer, number, (&keys[..old * dim], queries.rows))?;
            let redundancy = self.redundancy(layer, keys)?;
            let lambda = self.mix_lambda as f32;
            for ((score, i), r) in row.iter_mut().zip(&importance).zip(&redundancy) {
                *score = lambda * i - (1.0 - lambda) * r;
            }
        }
        Ok(())
    }
}

impl RKv {
    /// What the window's queries make of the older keys of a kv head, one number a key.
    fn importance(
        &self,
        layer: &LayerView<'_>,
        head: usize,
        (keys, queries): (&[f32], &[f32]),
    ) -> Result<Vec<f32>, EngineError> {
        let c = layer.config();
        let (dim, group) = (c.head_dim, c.group());
        let w = queries.len() / (c.q_heads * dim);
        let old = keys.len() / dim;
        if old == 0 {
            return Ok(Vec::new());
        }
        let mut top = vec![f32::NEG_INFINITY; w * old]; // (w, old): the largest logit of the group
        for q_head in head * group..(head + 1) * group {
            let rows: Vec<f32> = queries
                .chunks_exact(c.q_heads * dim)
                .flat_map(|r| &r[q_head * dim..(q_head + 1) * dim])
                .copied()
                .collect();
            let logits = product(layer, &rows, keys.to_vec(), dim)?;
            for (top, logit) in top.iter_mut().zip(logits) {
                let mut logit = logit * c.attention_scale;
                if let Some(cap) = c.attention_softcap {
                    logit = cap * (logit / cap).tanh();
                }
                *top = if logit > *top || logit.is_nan() { logit } else { *top };
            }
        }
        let mut mean = vec![0f32; old];
        for row in top.chunks_exact_mut(old) {
            softmax(row);
            mean.iter_mut().zip(&*row).for_each(|(m, x)| *m += x / w as f32);
        }
        let half = self.kernel_size / 2;
        let neighbours = |at: usize| mean[at.saturating_sub(half)..(at + half + 1).min(old)].iter();
        Ok((0..old)
            .map(|at| neighbours(at).fold(f32::NEG_INFINITY, |a, &b| if b > a || b.is_nan() { b } else { a }))
            .collect())
    }

    /// How much of each key is said by others, one number a key, summing to one.
    fn redundancy(&self, layer: &LayerView<'_>, mut keys: Vec<f32>) -> Result<Vec<f32>, EngineError> {
        let dim = layer.config().head_dim;
        for key in keys.chunks_exact_mut(dim) {
            let norm = l2_norm(key) + 1e-8;
            key.iter_mut().for_each(|x| *x /= norm);
        }
        let n = keys.len() / dim;
        let mut mean = vec![0f64; n];
        for (block, rows) in keys.chunks(256 * dim).enumerate() {
            let mut cosines = product(layer, rows, keys.clone(), dim)?; // (rows, n)
            for (r, row) in cosines.chunks_exact_mut(n).enumerate() {
                row[block * 256 + r] = 0.0;
                if let Some(latest) = row.iter().rposition(|&cos| f64::from(cos) > self.threshold) {
                    row[latest] = 0.0;
                }
                mean.iter_mut().zip(&*row).for_each(|(m, &cos)| *m += f64::from(cos) / n as f64);
            }
        }
        let mut redundancy: Vec<f32> = mean.iter().map(|&m| m as f32).collect();
        softmax(&mut redundancy);
        Ok(redundancy)
    }
}
