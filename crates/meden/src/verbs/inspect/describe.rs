//! What can be said about a model's files. A model that cannot run here is described all the same, with the reason.

use std::collections::BTreeMap;
use std::path::Path;

use meden_engine::Config;
use meden_engine::text::Tokenizer;
use meden_files::safetensors_file::Safetensors;
use meden_files::{FileError, ModelFiles, TensorInfo, UnsupportedTensor};
use serde::Serialize;
use serde_json::{Map, Value};

use super::metadata;

/// The one object of `meden inspect --json`.
#[derive(Serialize)]
pub struct Description {
    /// Path of the file or folder.
    pub path: String,
    /// The container, as in "GGUF version 3".
    pub format: String,
    /// The model's own name.
    pub name: Option<String>,
    /// Architecture as the file names it; empty for weights without a configuration.
    pub architecture: String,
    /// Longest sequence in tokens.
    pub context_length: Option<usize>,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// The shape as the engine reads it; `None` where it cannot run the model.
    pub model: Option<Config>,
    /// Why the engine cannot run it.
    pub problem: Option<String>,
    /// The tokenizer.
    pub tokenizer: Option<TokenizerRow>,
    /// Why there is no tokenizer.
    pub tokenizer_problem: Option<String>,
    /// Source of the chat template.
    pub chat_template: Option<String>,
    /// Tensor types with their counts.
    pub types: Vec<TypeRow>,
    /// Every tensor under the file's own name.
    pub tensors: Vec<TensorRow>,
    /// Metadata; long arrays are told by length.
    pub metadata: Map<String, Value>,
}

/// One tensor type.
#[derive(Serialize)]
pub struct TypeRow {
    /// Name as the format has it.
    pub name: String,
    /// How many tensors.
    pub tensors: usize,
    /// Bytes of those tensors.
    pub bytes: u64,
    /// Whether they can be computed with here.
    pub readable: bool,
}

/// One tensor.
#[derive(Serialize)]
pub struct TensorRow {
    /// The file's name for it.
    pub name: String,
    /// Element type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Bytes in the file; unknown for types that are not read.
    pub bytes: Option<u64>,
}

/// The tokenizer.
#[derive(Serialize)]
pub struct TokenizerRow {
    /// Kind, as in "byte-level BPE, pre-tokenizer smollm".
    pub kind: String,
    /// Number of tokens.
    pub vocabulary: usize,
    /// Begin-of-text token.
    pub begin_id: Option<u32>,
    /// Tokens that end a text or a turn.
    pub end_ids: Vec<u32>,
}

/// Reads the heads of the files; no weight is read.
pub fn read(path: &Path) -> anyhow::Result<Description> {
    match ModelFiles::open(path) {
        Ok(files) => Ok(of_model(path, &files)),
        // Weights alone are no model, but they can be listed.
        Err(FileError::NotAModel { problem, fix, .. }) if path.extension().is_some_and(|e| e == "safetensors") => {
            Ok(of_weights(path, &Safetensors::open(path)?, format!("{problem}; {fix}")))
        }
        Err(error) => Err(error.into()),
    }
}

fn of_model(path: &Path, files: &ModelFiles) -> Description {
    let (model, problem) = split(Config::read(files));
    let (tokenizer, tokenizer_problem) = split(Tokenizer::load(files));
    let tokenizer = tokenizer.map(|t| TokenizerRow {
        kind: t.kind().to_owned(),
        vocabulary: t.vocab_size(),
        begin_id: t.bos(),
        end_ids: t.eos_ids().to_vec(),
    });
    let (format, tensors) = match files.gguf() {
        Some(gguf) => (format!("GGUF version {}", gguf.version()), rows(gguf.tensors(), gguf.unsupported())),
        None => ("safetensors".to_owned(), rows(files.tensors(), files.unsupported())),
    };
    let name = files.gguf().and_then(|g| g.opt_str("general.name").ok().flatten()).map(str::to_owned);
    let facts = Description {
        format,
        name,
        architecture: files.architecture().to_owned(),
        context_length: model.as_ref().map(|c| c.context),
        problem,
        tokenizer,
        tokenizer_problem,
        chat_template: files.chat_template(),
        metadata: files.gguf().map(|g| metadata::of_gguf(g.metadata())).unwrap_or_else(|| metadata::of_config(files)),
        model,
        ..empty(path)
    };
    with_tensors(facts, tensors)
}

fn of_weights(path: &Path, weights: &Safetensors, problem: String) -> Description {
    let metadata = weights.metadata().iter().map(|(k, v)| (k.clone(), Value::String(v.clone()))).collect();
    let facts = Description { format: "safetensors".to_owned(), problem: Some(problem), metadata, ..empty(path) };
    with_tensors(facts, rows(weights.tensors(), weights.unsupported()))
}

fn empty(path: &Path) -> Description {
    Description {
        path: path.display().to_string(),
        format: String::new(),
        name: None,
        architecture: String::new(),
        context_length: None,
        parameters: 0,
        tensor_bytes: 0,
        model: None,
        problem: None,
        tokenizer: None,
        tokenizer_problem: None,
        chat_template: None,
        types: Vec::new(),
        tensors: Vec::new(),
        metadata: Map::new(),
    }
}

fn split<T, E: std::fmt::Display>(result: Result<T, E>) -> (Option<T>, Option<String>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error.to_string())),
    }
}

fn rows<'a>(
    readable: impl IntoIterator<Item = &'a TensorInfo>,
    unsupported: &[UnsupportedTensor],
) -> Vec<(TensorRow, bool)> {
    let known = readable.into_iter().map(|t| {
        let (name, kind) = (t.name.clone(), t.dtype.name().to_owned());
        (TensorRow { name, kind, shape: t.shape.clone(), bytes: Some(t.bytes as u64) }, true)
    });
    let other = unsupported.iter().map(|t| {
        let (name, kind) = (t.name.clone(), t.type_name.clone());
        (TensorRow { name, kind, shape: t.shape.clone(), bytes: None }, false)
    });
    known.chain(other).collect()
}

fn with_tensors(mut facts: Description, rows: Vec<(TensorRow, bool)>) -> Description {
    let mut types: BTreeMap<String, TypeRow> = BTreeMap::new();
    for (row, readable) in &rows {
        let fresh = || TypeRow { name: row.kind.clone(), tensors: 0, bytes: 0, readable: *readable };
        let kind = types.entry(row.kind.clone()).or_insert_with(fresh);
        kind.tensors += 1;
        kind.bytes += row.bytes.unwrap_or(0);
        facts.tensor_bytes += row.bytes.unwrap_or(0);
        let elements = row.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        facts.parameters = facts.parameters.saturating_add(elements.unwrap_or(u64::MAX));
    }
    facts.types = types.into_values().collect();
    facts.types.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    facts.tensors = rows.into_iter().map(|(row, _)| row).collect();
    facts
}
