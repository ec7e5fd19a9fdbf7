//! Keep values of high leverage, weighted by how the queries so far meet their keys.
//!
//! CapKV, arXiv 2604.25975. With m the mean query under the mean rotation of the next `n_future_positions`, and w_j =
//! exp(tau (cos(m, k_j) - max cos)), the capacity matrix of a query head is `A = I + sum_j (w_j + epsilon) v_j v_jᵀ`
//! and the score `w_j v_jᵀ A⁻¹ v_j`, averaged over the group. Cosines and the rotation of the anchor are the published
//! code's; the paper has neither.

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::press::linear::{cholesky, inverse_form};
use crate::press::rotation::MeanRotation;
use crate::press::select::Protect;
use crate::press::spec::{Build, bad};
use crate::press::{LayerView, Needs, Press, Scores};

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cap {
    /// Sharpness of the weights.
    pub tau: f64,
    /// Positions that the rotation is averaged over.
    pub n_future_positions: usize,
    /// First tokens that are kept, and left out of everything.
    pub n_sink: usize,
    /// Added to the weights in the capacity matrix.
    pub epsilon: f64,
}

impl Default for Cap {
    fn default() -> Self {
        Cap { tau: 5.0, n_future_positions: 512, n_sink: 4, epsilon: 1e-6 }
    }
}

impl Build for Cap {
    fn build(&self) -> Result<std::sync::Arc<dyn Press>, EngineError> {
        if self.n_future_positions == 0 {
            return Err(bad("cap", "n_future_positions", 0, "at least 1"));
        }
        for (field, value) in [("tau", self.tau), ("epsilon", self.epsilon)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(bad("cap", field, value, "a number of at least 0"));
            }
        }
        Ok(std::sync::Arc::new(self.clone()))
    }
}

impl Press for Cap {
    fn name(&self) -> &'static str {
        "cap"
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, values: true, query_mean: true, moments_skip: self.n_sink, ..Needs::default() }
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
        let (dim, group) = (layer.config().head_dim, layer.group());
        let turn = MeanRotation::of_future(layer, self.n_future_positions);
        scores.each(layer, |number, head, row| {
            let first = head.positions().partition_point(|&p| (p as usize) < self.n_sink);
            let (keys, values) = (head.keys(), head.values());
            let free = Slots { keys: &keys[first * dim..], values: &values[first * dim..], dim };
            for q_head in number * group..(number + 1) * group {
                let mut anchor = moments.mean(q_head, dim);
                turn.turn(&mut anchor);
                for (score, capacity) in row[first..].iter_mut().zip(self.capacities(&anchor, &free)) {
                    *score += capacity / group as f32;
                }
            }
        });
        Ok(())
    }
}

/// Keys and values of a head, `(slots, head_dim)` each.
struct Slots<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    dim: usize,
}

impl Cap {
    fn capacities(&self, anchor: &[f64], slots: &Slots<'_>) -> Vec<f32> {
        let dim = slots.dim;
        let norm = anchor.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
        let mut weights: Vec<f64> = slots
            .keys
            .chunks_exact(dim)
            .map(|key| {
                let dot: f64 = key.iter().zip(anchor).map(|(&k, a)| f64::from(k) * a).sum();
                let of_key = f64::from(meden_kernels::ops::l2_norm(key)).max(1e-12);
                self.tau * (dot / norm / of_key).clamp(-1.0, 1.0)
            })
            .collect();
        let top = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        weights.iter_mut().for_each(|w| *w = (*w - top).exp());
        let mut matrix = vec![0f64; dim * dim]; // the lower triangle is all that is read
        for (value, w) in slots.values.chunks_exact(dim).zip(&weights) {
            for (i, row) in matrix.chunks_exact_mut(dim).enumerate() {
                let scaled = (w + self.epsilon) * f64::from(value[i]);
                row[..=i].iter_mut().zip(value).for_each(|(sum, &v)| *sum += scaled * f64::from(v));
            }
        }
        (0..dim).for_each(|i| matrix[i * dim + i] += 1.0);
        let factor = cholesky(&matrix, dim);
        let mut x = vec![0f64; dim];
        slots
            .values
            .chunks_exact(dim)
            .zip(&weights)
            .map(|(value, w)| match &factor {
                Some(l) => {
                    x.iter_mut().zip(value).for_each(|(x, &v)| *x = f64::from(v));
                    (w * inverse_form(l, &mut x)) as f32
                }
                None => f32::NAN, // a value that is not a number: refused by name and position
            })
            .collect()
    }
}
