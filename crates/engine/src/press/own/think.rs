//! The channels of the keys that matter least go; no token does.
//!
//! Xu et al., "ThinK: Thinner Key Cache by Query-Driven Pruning", arXiv 2407.21018. A channel i of a head scores the mean
//! square of the last `window_size` queries in it (averaged over the group) times the mean square of the keys; the lowest
//! `key_channel_compression_ratio` of the channels are dropped from the keys read so far. The newest tokens (the policy's
//! recents) keep their keys whole, as in the paper, and so do all that come later. Old keys move to narrower pages, so
//! their bytes are really freed: a ratio r frees r/2 of what they took.

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::attention::recent;
use crate::press::select::{Keep, Protect};
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Think {
    /// Share of the key channels that is dropped, in [0, 1).
    pub key_channel_compression_ratio: f64,
    /// Queries that vote.
    pub window_size: usize,
}

impl Default for Think {
    fn default() -> Self {
        Think { key_channel_compression_ratio: 0.5, window_size: 32 }
    }
}

impl Build for Think {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        if !(0.0..1.0).contains(&self.key_channel_compression_ratio) {
            let (name, ratio) = ("key_channel_compression_ratio", self.key_channel_compression_ratio);
            return Err(bad("think", name, ratio, "from 0 to below 1"));
        }
        if self.window_size == 0 {
            return Err(bad("think", "window_size", 0, "at least 1 query"));
        }
        Ok(std::sync::Arc::new(self.clone()))
    }
}

impl Think {
    /// Channels that go.
    fn pruned(&self, head_dim: usize) -> usize {
        (head_dim as f64 * self.key_channel_compression_ratio) as usize
    }
}

impl Press for Think {
    fn name(&self) -> &'static str {
        "think"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, recent_queries: self.window_size, ..Needs::default() }
    }

    fn score(&self, _: &LayerView<'_>, _: &mut Scores) -> Result<(), EngineError> {
        Ok(())
    }

    fn choose(&self, layer: &LayerView<'_>, _: &Scores, _: Protect) -> Result<Keep, EngineError> {
        Ok(layer.heads.iter().map(|head| (0..head.len() as u32).collect()).collect())
    }

    fn channels(&self, layer: &LayerView<'_>) -> Result<Option<Vec<Vec<u32>>>, EngineError> {
        let (c, group) = (layer.config(), layer.group());
        let pruned = self.pruned(c.head_dim);
        if pruned == 0 {
            return Ok(None);
        }
        let queries = recent(layer, self.name(), self.window_size)?;
        let mut kept = Vec::with_capacity(c.kv_heads);
        for (number, head) in layer.heads.iter().enumerate() {
            let mut of_queries = vec![0f64; c.head_dim];
            for row in queries.rows.chunks_exact(c.q_heads * c.head_dim) {
                for q in row[number * group * c.head_dim..][..group * c.head_dim].chunks_exact(c.head_dim) {
                    add_squares(&mut of_queries, q);
                }
            }
            let mut of_keys = vec![0f64; c.head_dim];
            head.keys().chunks_exact(c.head_dim).for_each(|key| add_squares(&mut of_keys, key));
            // the means divide every channel alike, so that sums rank as they do
            let score: Vec<f64> = of_queries.iter().zip(&of_keys).map(|(q, k)| q * k).collect();
            kept.push(best_channels(&score, c.head_dim - pruned));
        }
        Ok(Some(kept))
    }

    fn narrows_to(&self, head_dim: usize) -> Option<usize> {
        Some(head_dim - self.pruned(head_dim)).filter(|&left| left < head_dim)
    }

    fn own_budget(&self) -> bool {
        true
    }

    fn only_at_prefill_end(&self) -> Option<&'static str> {
        Some("channels are chosen once, for the whole prompt")
    }
}

fn add_squares(sums: &mut [f64], row: &[f32]) {
    sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
}

/// The best `count` channels, ascending; equal ones go to the lower.
fn best_channels(score: &[f64], count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..score.len() as u32).collect();
    order.sort_by(|&a, &b| score[b as usize].total_cmp(&score[a as usize]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_channels_stay_in_order_and_ties_go_to_the_lower() {
        assert_eq!(best_channels(&[1.0, 5.0, 0.0, 5.0, 1.0], 3), [0, 1, 3]);
    }
}
