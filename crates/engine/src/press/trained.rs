//! Small trained nets, one a layer, that score a token when it is read: where they come from, and their scores.

use std::path::Path;
use std::sync::OnceLock;

use super::LayerView;
use super::data_file::{Calibrated, DataFile};
use super::view::Scores;
use crate::cache::LayerCache;
use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;

/// The nets of a file as they were read (`L`), and as the kernels run them (`R`), which is made at the first use.
pub(crate) struct Nets<L, R> {
    press: &'static str,
    layers: Vec<L>,
    source: String,
    made_for: Calibrated,
    ready: OnceLock<Vec<R>>,
}

impl<L, R> Nets<L, R> {
    /// Nets that were read from a file.
    pub fn new(press: &'static str, (path, file): (&Path, &DataFile), layers: Vec<L>) -> Nets<L, R> {
        let source = path.display().to_string();
        Nets { press, layers, source, made_for: file.calibrated(), ready: OnceLock::new() }
    }

    /// As they were read, once it is sure that the model has as many layers.
    ///
    /// Errors: another number of layers.
    pub fn layers_of(&self, config: &Config) -> Result<&[L], EngineError> {
        if self.layers.len() == config.layers {
            return Ok(&self.layers);
        }
        Err(self.refuse(format!(
            "{} has nets for {} layers, this model has {}",
            self.source,
            self.layers.len(),
            config.layers
        )))
    }

    /// The file.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// As they were read.
    pub fn read(&self, layer: usize) -> &L {
        &self.layers[layer]
    }

    /// A net as the kernels run it.
    pub fn ready(&self, layer: usize, make: impl Fn(&L) -> Result<R, EngineError>) -> Result<&R, EngineError> {
        if self.ready.get().is_none() {
            let made = self.layers.iter().map(make).collect::<Result<Vec<_>, _>>()?;
            let _ = self.ready.set(made); // another session may have been faster
        }
        self.ready.get().and_then(|nets| nets.get(layer)).ok_or_else(|| self.refuse("its nets are not there".into()))
    }

    /// Refuse the file of another press or model.
    pub fn fits(&self, model: &Model) -> Result<(), EngineError> {
        self.made_for.fits(self.press, model)
    }

    /// A refusal of this press.
    pub fn refuse(&self, why: String) -> EngineError {
        EngineError::Press { press: self.press.to_string(), why }
    }
}

/// Write scores `(tokens, kv_heads)` of the tokens just read into a column of each head.
pub(crate) fn write_newest(rows: &[f32], column: &'static str, cache: &mut LayerCache) {
    let kv_heads = cache.heads().len();
    let tokens = rows.len() / kv_heads.max(1);
    for (number, head) in cache.heads_mut().iter_mut().enumerate() {
        let first = head.len() - tokens;
        let scores = rows.iter().skip(number).step_by(kv_heads);
        head.column_mut(column)[first..].iter_mut().zip(scores).for_each(|(to, &from)| *to = from);
    }
}

/// Scores that were worked out when the tokens were read.
pub(crate) fn read_column(column: &'static str, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
    for (row, head) in scores.rows_mut().iter_mut().zip(layer.heads) {
        row.copy_from_slice(head.column(column).ok_or_else(|| layer.missing(column, "scores of its net"))?);
    }
    Ok(())
}
