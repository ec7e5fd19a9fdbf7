//! Lazy layers keep their first and newest tokens, the others keep everything.
//!
//! Zhang et al., "SimLayerKV: A Simple Framework for Layer-Level KV Cache Reduction", arXiv 2410.13846. A layer is lazy
//! if the last `n_last` queries give more than `lazy_threshold` of their attention (averaged over heads) to the first
//! `n_initial` tokens and to the newest `n_recent` before them. It then keeps the first `n_initial` and the newest
//! `n_recent - n_last`, as the published code does. Suggested thresholds: 0.9 for Llama 3, 0.65 for Llama 2, 0.8 for
//! Mistral, 0.85 for Qwen; 1 means no layer is lazy.

use meden_kernels::attention::Reduce;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::attention::{columns, group_mean, recent};
use crate::press::select::{Keep, Protect};
use crate::press::spec::{Build, bad};
use crate::press::wrap::adakv::check_scores;
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimLayerKv {
    /// Share of attention, in [0, 1], above which a layer is lazy.
    pub lazy_threshold: f64,
    /// Newest queries that are asked.
    pub n_last: usize,
    /// Newest tokens of a lazy layer.
    pub n_recent: usize,
    /// First tokens of a lazy layer.
    pub n_initial: usize,
}

impl Default for SimLayerKv {
    fn default() -> Self {
        SimLayerKv { lazy_threshold: 0.9, n_last: 1, n_recent: 1024, n_initial: 4 }
    }
}

impl SimLayerKv {
    /// Share of attention of the layer's last queries that its first and newest tokens receive.
    fn laziness(&self, layer: &LayerView<'_>, scores: &Scores) -> f64 {
        let near = |positions: &[u32], slot: usize| {
            (positions[slot] as usize) < self.n_initial || slot + self.n_recent + self.n_last >= positions.len()
        };
        let of_head = scores.rows().iter().zip(layer.heads).map(|(row, head)| {
            let slots = (0..row.len()).filter(|&slot| near(head.positions(), slot));
            slots.map(|slot| f64::from(row[slot])).sum::<f64>()
        });
        of_head.sum::<f64>() / layer.heads.len() as f64
    }
}

impl Build for SimLayerKv {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        if !(0.0..=1.0).contains(&self.lazy_threshold) {
            return Err(bad("simlayerkv", "lazy_threshold", self.lazy_threshold, "between 0 and 1"));
        }
        if self.n_last == 0 {
            return Err(bad("simlayerkv", "n_last", 0, "at least 1 query"));
        }
        if self.n_recent <= self.n_last {
            return Err(bad("simlayerkv", "n_recent", self.n_recent, "more than n_last"));
        }
        Ok(std::sync::Arc::new(self.clone()))
    }
}

impl Press for SimLayerKv {
    fn name(&self) -> &'static str {
        "simlayerkv"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, recent_queries: self.n_last, ..Needs::default() }
    }

    /// Attention that the last queries give to what stands before them.
    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let queries = recent(layer, self.name(), self.n_last)?;
        let first = queries.positions.first().copied().unwrap_or(0);
        let count = queries.positions.len() as f32;
        let mass = group_mean(&columns(layer, &queries, None, Reduce::Sum)?, layer.group());
        for ((row, mass), head) in scores.rows_mut().iter_mut().zip(&mass).zip(layer.heads) {
            let old = head.positions().partition_point(|&p| p < first);
            row[..old].iter_mut().zip(mass).for_each(|(score, m)| *score = m / count);
        }
        Ok(())
    }

    fn choose(&self, layer: &LayerView<'_>, scores: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        check_scores(layer, scores)?;
        let short = layer.longest() <= self.n_initial + self.n_recent + self.n_last;
        let lazy = !short && self.lazy_threshold < 1.0 && self.laziness(layer, scores) > self.lazy_threshold;
        let stay = protect.and(Protect { sinks: self.n_initial, recents: self.n_recent - self.n_last });
        let kept = |positions: &[u32]| {
            let slots = (0..positions.len()).filter(|&slot| !lazy || stay.covers(slot, positions));
            slots.map(|slot| slot as u32).collect()
        };
        Ok(layer.heads.iter().map(|head| kept(head.positions())).collect())
    }

    fn own_budget(&self) -> bool {
        true
    }
}
