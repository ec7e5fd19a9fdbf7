//! Keep where local key and value energy is high: CUR-like importance from squared norms.
//!
//! Sengupta et al., "CurDKV", arXiv 2509.15038. Squared norms of keys and values, each divided by its sum over aligned
//! windows, multiplied. It prefers LARGE key norms locally: the opposite sign of `knorm`.

use serde::{Deserialize, Serialize};

use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::press::select::Protect;
use crate::press::spec::ready;
use crate::press::{LayerView, Needs, Press, Scores};

/// Which energies count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeverageType {
    /// Of keys.
    Key,
    /// Of values.
    Value,
    /// Their mean.
    KvAvg,
    /// Their product.
    #[default]
    KvProduct,
}

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cur {
    /// First tokens that are kept.
    pub num_sinks: usize,
    /// Which energies count.
    pub leverage_type: LeverageType,
    /// Slots an energy is compared with; 0 for none.
    pub local_window_size: usize,
}

impl Default for Cur {
    fn default() -> Self {
        Cur { num_sinks: 4, leverage_type: LeverageType::KvProduct, local_window_size: 16 }
    }
}

ready!(Cur);

impl Press for Cur {
    fn name(&self) -> &'static str {
        "cur"
    }

    fn needs(&self) -> Needs {
        Needs { key_norms: true, values: true, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: self.num_sinks, recents: 0 }
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        scores.each(layer, |_, head, row| {
            let keys = || self.local(head.norms().iter().map(|n| n * n).collect());
            let values = || self.local(value_energy(head));
            let energy: Vec<f32> = match self.leverage_type {
                LeverageType::Key => keys(),
                LeverageType::Value => values(),
                LeverageType::KvAvg => keys().iter().zip(values()).map(|(k, v)| (k + v) / 2.0).collect(),
                LeverageType::KvProduct => keys().iter().zip(values()).map(|(k, v)| k * v).collect(),
            };
            let total: f32 = energy.iter().sum();
            row.iter_mut().zip(energy).for_each(|(score, e)| *score = if total > 0.0 { e / total } else { 0.0 });
        });
        Ok(())
    }
}

impl Cur {
    fn local(&self, mut energy: Vec<f32>) -> Vec<f32> {
        if self.local_window_size > 0 {
            for window in energy.chunks_mut(self.local_window_size) {
                let total: f32 = window.iter().sum();
                window.iter_mut().for_each(|e| *e = if total > 0.0 { *e / total } else { 0.0 });
            }
        }
        energy
    }
}

fn value_energy(head: &HeadCache) -> Vec<f32> {
    head.values().chunks_exact(head.layout().value_dim()).map(|v| v.iter().map(|x| x * x).sum()).collect()
}
