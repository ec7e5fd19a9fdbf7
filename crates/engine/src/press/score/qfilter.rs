//! Keep keys that lie along the main direction of the model's queries.
//!
//! Godey et al., "Q-Filters: Leveraging QK Geometry for Efficient KV Cache Compression", arXiv 2503.02812. A file holds
//! one direction f a kv head, `q_filters` `(layers, kv_heads, head_dim)`, pointing away from the queries as published:
//! the score is `-f.k`. `meden kv calibrate` makes the file for any model.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;
use crate::press::data_file::{Calibrated, Data, DataFile, no_file};
use crate::press::spec::Build;
use crate::press::{LayerView, Needs, Press, Scores};

const NAME: &str = "qfilter";

/// The press.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QFilter {
    /// The file with the directions.
    pub file: Option<PathBuf>,
}

struct Ready {
    filters: Option<(Data, Calibrated)>,
}

impl Build for QFilter {
    fn build(&self) -> Result<Arc<dyn Press>, EngineError> {
        let load = |path: &PathBuf| -> Result<_, EngineError> {
            let file = DataFile::open(path)?;
            Ok((file.read(NAME, "q_filters")?, file.calibrated()))
        };
        Ok(Arc::new(Ready { filters: self.file.as_ref().map(load).transpose()? }))
    }
}

impl Ready {
    fn filters(&self) -> Result<&(Data, Calibrated), EngineError> {
        let how = "safetensors with q_filters; `meden kv calibrate --press qfilter` makes one";
        self.filters.as_ref().ok_or_else(|| no_file(NAME, how))
    }
}

impl Press for Ready {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        Needs { keys: true, data: true, ..Needs::default() }
    }

    fn check(&self, c: &Config) -> Result<(), EngineError> {
        self.filters()?.0.expect(NAME, &[c.layers, c.kv_heads, c.head_dim], "(layers, kv heads, head size)")
    }

    fn fits(&self, model: &Model) -> Result<(), EngineError> {
        self.filters()?.1.fits(NAME, model)
    }

    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        let (data, c) = (&self.filters()?.0, layer.config());
        scores.each(layer, |number, head, row| {
            let filter = data.part(layer.layer * c.kv_heads + number, c.head_dim);
            let keys = head.keys();
            for (score, key) in row.iter_mut().zip(keys.chunks_exact(c.head_dim)) {
                *score = -key.iter().zip(filter).map(|(k, f)| k * f).sum::<f32>();
            }
        });
        Ok(())
    }
}
