//! Keep what the last queries attend to, pooled over neighbours.
//!
//! Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation", arXiv 2404.14469. The attention of the
//! last `window_size` queries to everything before them, averaged over the window, smoothed over `kernel_size`
//! neighbours, averaged over the group of a kv head. The window itself stays.

use meden_kernels::attention::Reduce;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::attention::{columns, group_mean, recent};
use crate::press::select::Protect;
use crate::press::spec::{Build, bad};
use crate::press::view::average_pool;
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapKv {
    /// Queries that vote; they stay themselves.
    pub window_size: usize,
    /// Slots that are smoothed over; odd.
    pub kernel_size: usize,
}

impl Default for SnapKv {
    fn default() -> Self {
        SnapKv { window_size: 64, kernel_size: 5 }
    }
}

impl SnapKv {
    pub(crate) fn check(&self, press: &str) -> Result<(), EngineError> {
        if self.window_size == 0 {
            return Err(bad(press, "window_size", 0, "at least 1 query"));
        }
        if self.kernel_size.is_multiple_of(2) {
            return Err(bad(press, "kernel_size", self.kernel_size, "an odd number"));
        }
        Ok(())
    }

    pub(crate) fn votes(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let queries = recent(layer, "snapkv", self.window_size)?;
        let first = queries.positions.first().copied().unwrap_or(0);
        let mass = group_mean(&columns(layer, &queries, None, Reduce::Sum)?, layer.group());
        let window = queries.positions.len() as f32;
        for ((row, mass), head) in scores.rows_mut().iter_mut().zip(&mass).zip(layer.heads) {
            let old = head.positions().partition_point(|&p| p < first);
            row[..old].iter_mut().zip(mass).for_each(|(score, m)| *score = m / window);
            average_pool(&mut row[..old], self.kernel_size);
        }
        if layer.kvpress() {
            // the window's sentinel, which wrappers of the reference see in their sums
            let top = scores.rows().iter().flatten().copied().fold(f32::NEG_INFINITY, f32::max);
            for (row, head) in scores.rows_mut().iter_mut().zip(layer.heads) {
                let old = head.positions().partition_point(|&p| p < first);
                row[old..].fill(top + 1.0);
            }
        }
        Ok(())
    }
}

impl Build for SnapKv {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        self.check("snapkv")?;
        Ok(std::sync::Arc::new(self.clone()))
    }
}

impl Press for SnapKv {
    fn name(&self) -> &'static str {
        "snapkv"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, recent_queries: self.window_size, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: 0, recents: self.window_size }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        self.votes(layer, scores)
    }
}
