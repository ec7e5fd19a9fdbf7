//! SnapKV's score with budgets that shrink from the first layer to the last.
//!
//! Cai et al., "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling", arXiv 2406.02069.
//! With B slots a layer on average the last layer keeps B / beta, the first 2B - B / beta, the others lie on a line.
//! Where that does not fit between the window and the text, every layer keeps B.

use serde::{Deserialize, Serialize};

use super::snapkv::SnapKv;
use crate::error::EngineError;
use crate::press::select::Protect;
use crate::press::spec::{Build, bad};
use crate::press::{LayerShare, LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PyramidKv {
    /// Queries that vote; they stay themselves.
    pub window_size: usize,
    /// Slots that are smoothed over; odd.
    pub kernel_size: usize,
    /// How much less the last layer keeps than the average one.
    pub beta: f64,
}

impl Default for PyramidKv {
    fn default() -> Self {
        PyramidKv { window_size: 64, kernel_size: 5, beta: 20.0 }
    }
}

impl PyramidKv {
    fn snapkv(&self) -> SnapKv {
        SnapKv { window_size: self.window_size, kernel_size: self.kernel_size }
    }
}

impl Build for PyramidKv {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        self.snapkv().check("pyramidkv")?;
        if self.beta.is_nan() || self.beta < 1.0 {
            return Err(bad("pyramidkv", "beta", self.beta, "at least 1"));
        }
        Ok(std::sync::Arc::new(self.clone()))
    }
}

impl Press for PyramidKv {
    fn name(&self) -> &'static str {
        "pyramidkv"
    }

    fn needs(&self) -> Needs {
        self.snapkv().needs()
    }

    fn protects(&self, target: usize) -> Protect {
        self.snapkv().protects(target)
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        self.snapkv().votes(layer, scores)
    }

    fn layer_target(&self, share: LayerShare<'_>) -> usize {
        let (n, window, mean) = (share.seen as f64, self.window_size as f64, share.exact);
        let mut least = mean / self.beta;
        let mut most = 2.0 * mean - least;
        if most >= n - window {
            most = n - window;
            least = 2.0 * mean - most;
        }
        if !(n >= most && most >= least && least >= window) || share.pressed.len() < 2 {
            return mean.round_ties_even() as usize;
        }
        // by its place among the pressed layers, so that their mean is the budget
        let place = share.pressed.partition_point(|&layer| layer < share.layer);
        let step = (most - least) / (share.pressed.len() - 1) as f64;
        (most - place as f64 * step).round_ties_even() as usize
    }
}
