//! Keep rates of every head from a file: a curve of utilities, searched offline.
//!
//! "Predicting Future Utility: Global Combinatorial Optimization for Task-Agnostic KV Cache Eviction" (LU-KV), arXiv
//! 2602.08585. The file is a NumPy array `(99, layers, kv_heads)`: at row i, the share that each head drops when i + 1
//! per cent of all are to go. A layer keeps its part of the budget, its heads theirs of the layer's, rounded by largest
//! remainders, one slot at least. Curves belong to one model and one scorer.

use std::path::PathBuf;
use std::sync::Arc;

use meden_files::npy::{self, Array};
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::model::config::Config;
use crate::press::data;
use crate::press::select::{Keep, Protect, best};
use crate::press::spec::Build;
use crate::press::{LayerShare, LayerView, Needs, Press, PressSpec, Scores};

/// The wrapper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LuKv {
    /// The press that scores.
    pub press: Box<PressSpec>,
    /// The curve, a `.npy` file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curve: Option<PathBuf>,
    /// First tokens that stay.
    pub n_sink: usize,
    /// Newest tokens that stay.
    pub window_size: usize,
}

impl Default for LuKv {
    fn default() -> Self {
        let scorer = crate::press::score::expected_attention::ExpectedAttention { epsilon: 0.02, ..Default::default() };
        LuKv { press: Box::new(PressSpec::ExpectedAttention(scorer)), curve: None, n_sink: 4, window_size: 1 }
    }
}

/// Rows of a curve: one for each per cent from 1 to 99.
const ROWS: usize = 99;

struct Ready {
    inner: Arc<dyn Press>,
    spec: LuKv,
    path: PathBuf,
    curve: Array,
}

impl Build for LuKv {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        let Some(path) = &self.curve else {
            return Err(EngineError::Press {
                press: "lukv".to_string(),
                why: "parameter `curve` is missing: a .npy file of shape (99, layers, kv_heads) with the share that each head drops"
                    .to_string(),
            });
        };
        let curve = npy::read(path, 64 << 20)?;
        if curve.shape.len() != 3 || curve.shape[0] != ROWS {
            let why = format!("shape {:?}; a curve is ({ROWS}, layers, kv_heads)", curve.shape);
            return Err(data::refuse("lukv", path, why));
        }
        if let Some(bad) = curve.values.iter().find(|v| !v.is_finite()) {
            return Err(data::refuse("lukv", path, format!("{bad} is not a share")));
        }
        let inner = super::scorer("lukv", &self.press)?;
        Ok(Arc::new(Ready { inner, spec: self.clone(), path: path.clone(), curve }))
    }

    fn inner(&self) -> Option<&PressSpec> {
        Some(&self.press)
    }
}

impl Ready {
    /// Shares that the heads of a layer keep when `removed` of all goes.
    fn keeps(&self, removed: f64, layer: usize) -> Vec<f64> {
        let (layers, heads) = (self.curve.shape[1], self.curve.shape[2]);
        let row = ((removed * 100.0).round_ties_even() as usize).clamp(1, ROWS) - 1;
        let drops = &self.curve.values[(row * layers + layer) * heads..][..heads];
        drops.iter().map(|&drop| 1.0 - f64::from(drop.clamp(0.0, 1.0))).collect()
    }
}

/// Shares of `n` slots as whole numbers: the floor of each, and one more for the largest remainders until `total` is
/// reached; one at least, `n` at most. Equal remainders go to the lower head.
fn counts(keeps: &[f64], n: usize, total: usize) -> Vec<usize> {
    let ideal: Vec<f64> = keeps.iter().map(|k| k * n as f64).collect();
    let mut counts: Vec<usize> = ideal.iter().map(|i| i.floor() as usize).collect();
    let mut order: Vec<usize> = (0..keeps.len()).collect();
    order.sort_by(|&a, &b| ideal[b].fract().total_cmp(&ideal[a].fract()).then(a.cmp(&b)));
    let missing = total.saturating_sub(counts.iter().sum());
    order.iter().take(missing).for_each(|&head| counts[head] += 1);
    counts.iter_mut().for_each(|count| *count = (*count).clamp(1, n.max(1)));
    counts
}

/// The same shares, stretched so that together the heads keep `total`; what a full head cannot take goes to the others.
fn stretched(keeps: &[f64], n: usize, total: usize) -> Vec<f64> {
    let most = keeps.len() as f64;
    let wanted = (total as f64 / n.max(1) as f64).min(most);
    let mut keeps: Vec<f64> = keeps.to_vec();
    for _ in 0..keeps.len() {
        let open: f64 = keeps.iter().filter(|k| **k < 1.0).sum();
        let full = keeps.iter().filter(|k| **k >= 1.0).count() as f64;
        if open > 0.0 && (wanted > full || full == 0.0) {
            let factor = (wanted - full) / open;
            keeps.iter_mut().filter(|k| **k < 1.0).for_each(|k| *k = (*k * factor).min(1.0));
        } else {
            let sum: f64 = keeps.iter().sum();
            keeps.iter_mut().for_each(|k| *k = if sum > 0.0 { *k * wanted / sum } else { wanted / most });
        }
    }
    keeps
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        "lukv"
    }

    fn needs(&self) -> Needs {
        Needs { data: true, ..self.inner.needs() }
    }

    super::passes_on!(score, observe, only_at_prefill_end);

    fn check(&self, config: &Config) -> Result<(), EngineError> {
        if self.curve.shape[1..] != [config.layers, config.kv_heads] {
            let why = format!(
                "shape {:?}, this model needs ({ROWS}, {}, {})",
                self.curve.shape, config.layers, config.kv_heads
            );
            return Err(data::refuse(self.name(), &self.path, why));
        }
        self.inner.check(config)
    }

    fn protects(&self, target: usize) -> Protect {
        self.inner.protects(target).and(Protect { sinks: self.spec.n_sink, recents: self.spec.window_size })
    }

    fn layer_target(&self, share: LayerShare<'_>) -> usize {
        let removed = 1.0 - share.exact / share.seen.max(1) as f64;
        if removed <= 0.0 || share.seen == 0 {
            return share.mean;
        }
        let of = |layer: usize| self.keeps(removed, layer).iter().sum::<f64>();
        let heads = self.curve.shape[2] as f64;
        if share.rounding == crate::press::policy::Rounding::Kvpress {
            return (of(share.layer) * share.seen as f64 / heads).round_ties_even() as usize;
        }
        let all: f64 = share.pressed.iter().map(|&layer| of(layer)).sum();
        let mine = if all > 0.0 { of(share.layer) * share.pressed.len() as f64 / all } else { 1.0 };
        ((share.exact * mine).round() as usize).clamp(1, share.seen)
    }

    fn choose(&self, layer: &LayerView<'_>, scores: &Scores, protect: Protect) -> Result<Keep, EngineError> {
        let n = layer.longest();
        let keeps = self.keeps(layer.removed, layer.layer);
        let counts = if layer.kvpress() {
            let sum = keeps.iter().sum::<f64>() * n as f64;
            counts(&keeps, n, (sum.round_ties_even() as usize).clamp(keeps.len(), keeps.len() * n))
        } else {
            let total = layer.target * keeps.len();
            counts(&stretched(&keeps, n, total), n, total)
        };
        best(layer, scores, &counts, protect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_given_to_the_largest_and_no_head_is_emptied() {
        assert_eq!(
            counts(&[0.25, 0.5, 0.0], 10, 8),
            [3, 5, 1],
            "2.5, 5, 0: the half goes up, the empty head keeps one"
        );
        assert_eq!(counts(&[0.25, 0.25], 10, 5), [3, 2], "equal remainders go to the lower head");
        assert_eq!(counts(&[1.0, 1.0], 4, 8), [4, 4]);
    }

    #[test]
    fn stretched_shares_meet_the_total_where_heads_have_room() {
        let near = |a: Vec<f64>, b: [f64; 2]| a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-12);
        assert!(near(stretched(&[0.2, 0.4], 10, 9), [0.3, 0.6]));
        assert!(near(stretched(&[0.2, 0.8], 10, 14), [0.4, 1.0]), "{:?}", stretched(&[0.2, 0.8], 10, 14));
        assert!(near(stretched(&[0.0, 0.0], 10, 10), [0.5, 0.5]));
        assert!(near(stretched(&[0.3, 1.0], 10, 20), [1.0, 1.0]));
    }
}
