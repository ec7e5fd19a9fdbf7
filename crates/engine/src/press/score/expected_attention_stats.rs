//! Expected attention with the moments of the queries from a file instead of the text itself.
//!
//! Devoto et al., arXiv 2510.00636. The file holds `query_mean` `(layers, q_heads, head_dim)` and `query_cov` `(layers,
//! q_heads, head_dim, head_dim)` of the queries before rotation, the layout that is published for kvpress; `meden kv
//! calibrate` writes it for any model.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::expected_attention::ExpectedAttention;
use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;
use crate::press::data_file::{Calibrated, Data, DataFile, no_file};
use crate::press::select::Protect;
use crate::press::spec::Build;
use crate::press::{LayerView, Needs, Press, Scores};

const NAME: &str = "expected_attention_stats";

/// The press.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExpectedAttentionStats {
    /// The file with the moments.
    pub file: Option<PathBuf>,
    /// Positions that the expectation is taken over.
    pub n_future_positions: usize,
    /// First tokens that are kept.
    pub n_sink: usize,
    /// Use the second moment too.
    pub use_covariance: bool,
    /// Weight by the norm of the value.
    pub use_vnorm: bool,
    /// Added to the expected weight before the norm multiplies it.
    pub epsilon: f64,
}

impl Default for ExpectedAttentionStats {
    fn default() -> Self {
        let e = ExpectedAttention::default();
        ExpectedAttentionStats {
            file: None,
            n_future_positions: e.n_future_positions,
            n_sink: e.n_sink,
            use_covariance: e.use_covariance,
            use_vnorm: e.use_vnorm,
            epsilon: e.epsilon,
        }
    }
}

struct Moments {
    mean: Data,
    covariance: Option<Data>,
    made_for: Calibrated,
}

struct Ready {
    rule: ExpectedAttention,
    moments: Option<Moments>,
}

impl Build for ExpectedAttentionStats {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        let rule = ExpectedAttention {
            n_future_positions: self.n_future_positions,
            n_sink: self.n_sink,
            use_covariance: self.use_covariance,
            use_vnorm: self.use_vnorm,
            epsilon: self.epsilon,
        };
        rule.check(NAME)?;
        let load = |path: &PathBuf| -> Result<Moments, EngineError> {
            let file = DataFile::open(path)?;
            let covariance = self.use_covariance.then(|| file.read(NAME, "query_cov")).transpose()?;
            Ok(Moments { mean: file.read(NAME, "query_mean")?, covariance, made_for: file.calibrated() })
        };
        Ok(Arc::new(Ready { rule, moments: self.file.as_ref().map(load).transpose()? }))
    }
}

impl Ready {
    fn moments(&self) -> Result<&Moments, EngineError> {
        let how = "safetensors with query_mean and query_cov; `meden kv calibrate --press expected_attention_stats` makes one";
        self.moments.as_ref().ok_or_else(|| no_file(NAME, how))
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, values: self.rule.use_vnorm, data: true, ..Needs::default() }
    }

    fn protects(&self, _: usize) -> Protect {
        Protect { sinks: self.rule.n_sink, recents: 0 }
    }

    fn check(&self, c: &Config) -> Result<(), EngineError> {
        let m = self.moments()?;
        m.mean.expect(NAME, &[c.layers, c.q_heads, c.head_dim], "(layers, query heads, head size)")?;
        if let Some(covariance) = &m.covariance {
            let shape = [c.layers, c.q_heads, c.head_dim, c.head_dim];
            covariance.expect(NAME, &shape, "(layers, query heads, head size, head size)")?;
        }
        Ok(())
    }

    fn fits(&self, model: &Model) -> Result<(), EngineError> {
        self.moments()?.made_for.fits(NAME, model)
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let (m, c) = (self.moments()?, layer.config());
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        self.rule.score_with(layer, scores, |q_head| {
            let at = layer.layer * c.q_heads + q_head;
            let covariance = m.covariance.as_ref().map(|data| wide(data.part(at, c.head_dim * c.head_dim)));
            (wide(m.mean.part(at, c.head_dim)), covariance)
        })
    }
}
