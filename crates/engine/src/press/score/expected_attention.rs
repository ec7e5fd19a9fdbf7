//! Keep what future queries are expected to attend to, taking queries as Gaussian.
//!
//! Devoto et al., "Expected Attention: KV Cache Compression by Estimating Attention from Future Queries Distribution",
//! arXiv 2510.00636. With mean m and covariance C of the queries before rotation, and R the mean rotation of the next
//! `n_future_positions`, the expected logit of key k is `k.Rm s + k.RCRᵀk s²/2` (s the attention scale); its softmax
//! over the keys, averaged over a group, plus `epsilon`, is weighted by the norm of the value. Positions are the true
//! ones of the tokens to come, in chunks and in decode too.

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::linear::product;
use crate::press::rotation::MeanRotation;
use crate::press::select::Protect;
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExpectedAttention {
    /// Positions that the expectation is taken over.
    pub n_future_positions: usize,
    /// First tokens that are kept, and left out of the moments.
    pub n_sink: usize,
    /// Use the second moment too.
    pub use_covariance: bool,
    /// Weight by the norm of the value.
    pub use_vnorm: bool,
    /// Added to the expected weight before the norm multiplies it.
    pub epsilon: f64,
}

impl Default for ExpectedAttention {
    fn default() -> Self {
        ExpectedAttention { n_future_positions: 512, n_sink: 4, use_covariance: true, use_vnorm: true, epsilon: 0.0 }
    }
}

impl Build for ExpectedAttention {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        self.check("expected_attention")?;
        Ok(std::sync::Arc::new(self.clone()))
    }
}

impl Press for ExpectedAttention {
    fn name(&self) -> &'static str {
        "expected_attention"
    }

    fn needs(&self) -> Needs {
        Needs {
            keys: true,
            values: self.use_vnorm,
            query_mean: true,
            query_covariance: self.use_covariance,
            moments_skip: self.n_sink,
            ..Needs::default()
        }
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: self.n_sink, recents: 0 }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let moments = layer.state.moments.beyond(self.n_sink);
        if moments.count == 0 {
            // nothing but sinks has been read: all slots are alike, and protected
            return Ok(());
        }
        let dim = layer.config().head_dim;
        self.score_with(layer, scores, |q_head| {
            (moments.mean(q_head, dim), self.use_covariance.then(|| moments.covariance(q_head, dim)))
        })
    }
}

impl ExpectedAttention {
    pub(crate) fn check(&self, press: &str) -> Result<(), EngineError> {
        if self.n_future_positions == 0 {
            return Err(bad(press, "n_future_positions", 0, "at least 1"));
        }
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) {
            return Err(bad(press, "epsilon", self.epsilon, "0 or a small positive number"));
        }
        Ok(())
    }

    /// Score with the moments of each query head before rotation: mean `(head_dim)`, covariance `(head_dim, head_dim)`.
    pub(crate) fn score_with(
        &self,
        layer: &LayerView<'_>,
        scores: &mut Scores,
        moments: impl Fn(usize) -> (Vec<f64>, Option<Vec<f64>>),
    ) -> Result<(), EngineError> {
        let (dim, group) = (layer.config().head_dim, layer.group());
        let turn = MeanRotation::of_future(layer, self.n_future_positions);
        for (number, (row, head)) in scores.rows_mut().iter_mut().zip(layer.heads).enumerate() {
            let keys = head.keys();
            let first = head.positions().partition_point(|&p| (p as usize) < self.n_sink);
            let free = &keys[first * dim..];
            for q_head in number * group..(number + 1) * group {
                let (mut mean, mut covariance) = moments(q_head);
                turn.turn(&mut mean);
                if let Some(matrix) = covariance.as_mut() {
                    turn.turn_both(matrix, dim);
                }
                let mut logits = expected_logits(layer, free, (&mean, covariance.as_deref()))?;
                softmax(&mut logits);
                row[first..].iter_mut().zip(&logits).for_each(|(score, w)| *score += w / group as f32);
            }
            if self.use_vnorm {
                let values = head.values();
                for (score, value) in row.iter_mut().zip(values.chunks_exact(dim)) {
                    *score = (*score + self.epsilon as f32) * meden_kernels::ops::l2_norm(value);
                }
            }
        }
        Ok(())
    }
}

/// `k.m s + kᵀCk s²/2` of each key.
fn expected_logits(
    layer: &LayerView<'_>,
    keys: &[f32],
    (mean, covariance): (&[f64], Option<&[f64]>),
) -> Result<Vec<f32>, EngineError> {
    let (dim, scale) = (mean.len(), layer.config().attention_scale);
    let to_f32 = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let mean = to_f32(mean);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let mut logits: Vec<f32> = keys.chunks_exact(dim).map(|key| dot(key, &mean) * scale).collect();
    if let Some(covariance) = covariance {
        let turned = product(layer, keys, to_f32(covariance), dim)?; // C is symmetric
        for ((logit, key), turned) in logits.iter_mut().zip(keys.chunks_exact(dim)).zip(turned.chunks_exact(dim)) {
            *logit += dot(key, turned) * scale * scale / 2.0;
        }
    }
    Ok(logits)
}

pub(crate) fn softmax(logits: &mut [f32]) {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|l| *l = (*l - top).exp());
    let total: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|l| *l /= total);
}
