//! Making the numbers that some presses take from a file: one reading of ordinary text, a recipe a file.
//!
//! Each recipe writes what its press reads, in the published layout (safetensors; for DuoAttention a table and its
//! settings), and says in it which press, model, rotation and text it was made for. A press refuses the file of another
//! model.

mod duo;
mod kvzap;
mod moments;
mod qfilter;

use std::path::Path;
use std::sync::Arc;

use meden_files::safetensors_file::SafetensorsWriter;
use meden_kernels::dtype::DType;
use serde::{Deserialize, Serialize};

use crate::cache::kinds::KvTypes;
use crate::error::EngineError;
use crate::model::Model;
use crate::press::Press;
use crate::press::watch::Watch;
use crate::session::control::Control;
use crate::session::{LogitRows, Session, SessionOptions};

/// Version of the container.
const VERSION: &str = "1";

/// What can be calibrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Mean and covariance of the queries before rotation.
    ExpectedAttentionStats,
    /// Main direction of the rotated queries of each kv head.
    Qfilter,
    /// How far back each kv head's mean query looks at its mean key.
    DuoAttention,
    /// A linear map a layer from what attention reads to the logarithm of the KVzip+ score.
    Kvzap,
}

impl Recipe {
    /// All recipes.
    pub const ALL: [Recipe; 4] = [Recipe::ExpectedAttentionStats, Recipe::Qfilter, Recipe::DuoAttention, Recipe::Kvzap];

    /// The press it serves.
    pub fn press(self) -> &'static str {
        match self {
            Recipe::ExpectedAttentionStats => "expected_attention_stats",
            Recipe::Qfilter => "qfilter",
            Recipe::DuoAttention => "duo_attention",
            Recipe::Kvzap => "kvzap",
        }
    }

    /// Tokens of a sequence as in the paper.
    pub fn sequence(self) -> usize {
        match self {
            Recipe::ExpectedAttentionStats | Recipe::Kvzap => 1000,
            Recipe::Qfilter | Recipe::DuoAttention => 2048,
        }
    }
}

impl std::str::FromStr for Recipe {
    type Err = EngineError;
    fn from_str(text: &str) -> Result<Self, EngineError> {
        Recipe::ALL.into_iter().find(|r| r.press() == text).ok_or_else(|| EngineError::Setting {
            field: "press to calibrate",
            value: text.to_string(),
            allowed: Recipe::ALL.map(Recipe::press).join(", "),
        })
    }
}

/// One tensor of a calibration.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name, as published.
    pub name: String,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// Numbers.
    pub values: Vec<f32>,
}

/// What a recipe made.
#[derive(Clone, Debug)]
pub struct Calibration {
    recipe: Recipe,
    /// Tensors, in the layout the press reads.
    pub tensors: Vec<Tensor>,
    /// Tokens that were read.
    pub tokens: usize,
    /// How well the map fits what it was made from, where a recipe fits one: R² by layer.
    pub fit: Vec<f64>,
    model: String,
    rope: String,
}

impl Calibration {
    /// Write what the press reads: a safetensors file, or, for `duo_attention`, the published folder with
    /// `full_attention_heads.tsv` and `config.json`. `text_sha256` names the text it was made from.
    ///
    /// Errors: it cannot be written.
    pub fn write(&self, path: &Path, text_sha256: &str) -> Result<(), EngineError> {
        let tokens = self.tokens.to_string();
        let about = [
            ("press", self.recipe.press()),
            ("model", &self.model),
            ("rope", &self.rope),
            ("text_sha256", text_sha256),
            ("tokens", &tokens),
            ("version", VERSION),
        ];
        if self.recipe == Recipe::DuoAttention {
            return duo::write(path, &self.tensors, &about);
        }
        let mut file = about.iter().fold(SafetensorsWriter::new(), |file, (key, value)| file.meta(key, value));
        for tensor in &self.tensors {
            let bytes = tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            file = file.tensor(&tensor.name, DType::F32, &tensor.shape, bytes);
        }
        Ok(file.write(path)?)
    }
}

/// Calibrate a press on some sequences, each read by a session of its own.
///
/// Errors: no sequence, one that is too short for the recipe or too long for the model, cancellation.
pub fn calibrate(
    model: &Arc<Model>,
    recipe: Recipe,
    sequences: &[Vec<u32>],
    control: &mut Control<'_>,
) -> Result<Calibration, EngineError> {
    let least = 16;
    if sequences.is_empty() || sequences.iter().any(|s| s.len() < least) {
        return Err(EngineError::Setting {
            field: "calibration text",
            value: format!("{} sequences", sequences.len()),
            allowed: format!("at least one sequence, each of {least} tokens or more"),
        });
    }
    let mut texts = Texts { model, sequences, control };
    let (tensors, fit) = match recipe {
        Recipe::ExpectedAttentionStats => (moments::run(&mut texts)?, Vec::new()),
        Recipe::Qfilter => (qfilter::run(&mut texts)?, Vec::new()),
        Recipe::DuoAttention => (duo::run(&mut texts)?, Vec::new()),
        Recipe::Kvzap => kvzap::run(&mut texts)?,
    };
    Ok(Calibration {
        recipe,
        tensors,
        tokens: sequences.iter().map(Vec::len).sum(),
        fit,
        model: model.fingerprint().iter().map(|b| format!("{b:02x}")).collect(),
        rope: format!("{:?}", model.config().ropes),
    })
}

/// The sequences, and who is told how far it is.
struct Texts<'a, 'c> {
    model: &'a Arc<Model>,
    sequences: &'a [Vec<u32>],
    control: &'a mut Control<'c>,
}

impl Texts<'_, '_> {
    /// Read each sequence with some presses watching, then let `then` look at the session.
    fn read(
        &mut self,
        watch: &[Arc<dyn Press>],
        mut then: impl FnMut(&mut Session, &mut Control<'_>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let total = self.sequences.iter().map(Vec::len).sum();
        let mut done = 0;
        for ids in self.sequences {
            let options = SessionOptions { kv_type: KvTypes::F32, ..SessionOptions::default() };
            let mut session = Session::new(self.model.clone(), options)?;
            session.watch_with(Watch::new(watch.to_vec(), self.model.config()));
            let mut quiet = Control { cancel: self.control.cancel, ..Control::default() };
            session.score(ids, LogitRows::None, &mut quiet, &mut |_, _| Ok(()))?;
            then(&mut session, &mut quiet)?;
            done += ids.len();
            self.control.report(done, total);
        }
        Ok(())
    }
}
