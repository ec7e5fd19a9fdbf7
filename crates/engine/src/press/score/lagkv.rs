//! Keep tokens whose keys and values spread wide, seen in the range of the partition that follows.
//!
//! Liang et al., "LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important", arXiv
//! 2504.04704. After the sinks the slots are cut into partitions of `lag_size`; each is normalised channel by channel
//! with the smallest and largest value of the next one, and a token's score is the standard deviation over channels,
//! softened over its partition. Sinks, the last partition and what remains behind it stay.

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LagKv {
    /// First tokens that are kept.
    pub n_sink: usize,
    /// Tokens a partition.
    pub lag_size: usize,
    /// Compare scores across partitions, instead of ranks inside each.
    pub cross_scoring: bool,
}

impl Default for LagKv {
    fn default() -> Self {
        LagKv { n_sink: 4, lag_size: 128, cross_scoring: false }
    }
}

impl Build for LagKv {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        if self.lag_size == 0 {
            return Err(bad("lagkv", "lag_size", 0, "at least 1 token"));
        }
        Ok(std::sync::Arc::new(self.clone()))
    }
}

impl Press for LagKv {
    fn name(&self) -> &'static str {
        "lagkv"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, values: true, ..Needs::default() }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        scores.each(layer, |_, head, row| {
            let (slots, lag) = (row.len(), self.lag_size);
            let sinks = self.n_sink.min(slots);
            row.fill(1.0);
            let parts = (slots - sinks) / lag;
            if slots < sinks + 2 * lag {
                let rest = (slots - sinks) as f32;
                row[sinks..].iter_mut().enumerate().for_each(|(i, s)| *s = i as f32 / rest);
                return;
            }
            let (keys, key_dim) = (head.keys(), head.layout().key_dim());
            let (values, value_dim) = (head.values(), head.layout().value_dim());
            for part in 0..parts - 1 {
                let at = |p: usize, dim: usize| (sinks + p * lag) * dim..(sinks + (p + 1) * lag) * dim;
                let of_keys = spread(&keys[at(part, key_dim)], &keys[at(part + 1, key_dim)], key_dim);
                let of_values = spread(&values[at(part, value_dim)], &values[at(part + 1, value_dim)], value_dim);
                let row = &mut row[at(part, 1)];
                for ((score, k), v) in row.iter_mut().zip(of_keys).zip(of_values) {
                    *score = (k + v) / 2.0;
                }
                if !self.cross_scoring {
                    ranks(row);
                }
            }
        });
        Ok(())
    }
}

/// Standard deviation over channels of each row of `part`, normalised by the range of `next`; softmax over the rows.
fn spread(part: &[f32], next: &[f32], dim: usize) -> Vec<f32> {
    let (mut low, mut high) = (vec![f32::INFINITY; dim], vec![f32::NEG_INFINITY; dim]);
    for row in next.chunks_exact(dim) {
        for ((l, h), &x) in low.iter_mut().zip(&mut high).zip(row) {
            *l = l.min(x);
            *h = h.max(x);
        }
    }
    let mut spreads: Vec<f32> = part
        .chunks_exact(dim)
        .map(|row| {
            // a channel that does not move in the next partition says nothing
            let scaled = row.iter().zip(low.iter().zip(&high));
            let scaled: Vec<f32> = scaled.map(|(x, (l, h))| if h > l { (x - l) / (h - l) } else { 0.0 }).collect();
            let mean = scaled.iter().sum::<f32>() / dim as f32;
            let squares: f32 = scaled.iter().map(|x| (x - mean) * (x - mean)).sum();
            (squares / (dim as f32 - 1.0).max(1.0)).sqrt()
        })
        .collect();
    let top = spreads.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    spreads.iter_mut().for_each(|s| *s = (*s - top).exp());
    let total: f32 = spreads.iter().sum();
    spreads.iter_mut().for_each(|s| *s /= total);
    spreads
}

/// Replace scores by their rank divided by their number.
fn ranks(row: &mut [f32]) {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a)));
    let count = row.len() as f32;
    for (rank, slot) in order.into_iter().enumerate() {
        row[slot] = rank as f32 / count;
    }
}
