//! Streaming captured rows to a safetensors file.
//!
//! A row is written to its place as it passes, so memory does not grow with the text. The file is called
//! `<name>.partial` until it is whole; a run that was interrupted (its process, not the machine) goes on behind the last
//! whole prompt.

use std::path::PathBuf;

use meden_engine::{Control, Session};
use meden_files::hash::Hash;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Selection;
use super::job::Job;
use super::layout::{FORMAT, VERSION};
use crate::companions::part;
use crate::error::LensError;
use crate::generate::Generate;

/// Element type of stored activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// As computed.
    #[default]
    F32,
    /// Half the bytes, eleven significant bits; a value beyond 65504 is an error.
    F16,
    /// Half the bytes, eight significant bits, the range of f32.
    Bf16,
}

impl Dtype {
    /// The name in flags.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }

    pub(super) fn safetensors(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
        }
    }

    pub(super) fn bytes(self) -> u64 {
        if self == Dtype::F32 { 4 } else { 2 }
    }
}

impl std::str::FromStr for Dtype {
    type Err = LensError;
    fn from_str(text: &str) -> Result<Dtype, LensError> {
        let all = [Dtype::F32, Dtype::F16, Dtype::Bf16];
        let found = all.into_iter().find(|d| d.name() == text);
        found.ok_or_else(|| LensError::setting("dtype", text, "f32, f16 or bf16"))
    }
}

/// A capture to a file.
#[derive(Clone, Debug)]
pub struct FileCapture {
    /// Where it goes. The same call after an interruption goes on; a file that is there already must be of the same
    /// capture.
    pub path: PathBuf,
    /// Element type.
    pub dtype: Dtype,
    /// What is generated behind each prompt, if anything; rows of all its tokens are captured, whatever the positions say.
    pub generate: Option<Generate>,
}

/// What a capture to a file did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Finished {
    /// Prompts in the file.
    pub prompts: usize,
    /// Rows of each place.
    pub rows: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// Prompts that an earlier run had done.
    pub resumed_prompts: usize,
}

/// Captures the selected rows of every prompt to a file; see [`capture`](super::capture) for what is captured and the
/// head of this file for how it is written. The file has one tensor a place, named `<layer>.<site>`, `final_norm` or
/// `logits`, of shape `(rows, width)`; beside them `prompt`, `position` and `token`, `(rows)`, say where rows come from.
///
/// # Errors
/// As `capture`; a file of another capture in the way; a value that the element type cannot hold. An interrupted call
/// leaves `<name>.partial` to go on from.
pub fn capture_to_file(
    session: &Session,
    prompts: &[Vec<u32>],
    selection: &Selection,
    options: &FileCapture,
    control: &mut Control<'_>,
) -> Result<Finished, LensError> {
    let mut job = Job::open(session, prompts, selection, options)?;
    let resumed_prompts = job.prompts;
    let generated = options.generate.as_ref().map_or(0, |g| g.tokens);
    let total: usize = prompts.iter().map(|ids| ids.len() + generated).sum();
    let mut done: usize = prompts[..job.prompts].iter().map(|ids| ids.len() + generated).sum();
    while job.prompts < prompts.len() {
        let ids = &prompts[job.prompts];
        part(control, (done, total), |control| job.prompt(session, ids, selection, options, control))?;
        done += ids.len() + generated;
    }
    let (prompts, rows) = (job.prompts, job.rows);
    let bytes = job.finish(&options.path)?;
    Ok(Finished { prompts, rows, bytes, resumed_prompts })
}

/// What decides the file's contents, so that nothing else is taken for it.
pub(super) fn metadata(
    session: &Session,
    prompts: &[Vec<u32>],
    selection: &Selection,
    options: &FileCapture,
) -> Map<String, Value> {
    let model = session.model();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut hash = Hash::sha256();
    for ids in [session.history()].into_iter().chain(prompts.iter().map(Vec::as_slice)) {
        hash.update(&(ids.len() as u64).to_le_bytes());
        ids.iter().for_each(|id| hash.update(&id.to_le_bytes()));
    }
    let places: Vec<String> = selection.places.iter().map(ToString::to_string).collect();
    let mut all = Map::new();
    let mut put = |key: &str, value: String| all.insert(key.to_owned(), value.into());
    put("format", FORMAT.into());
    put("version", VERSION.into());
    put("model", hex(model.fingerprint()));
    put("architecture", model.config().architecture.clone());
    put("layers", model.config().layers.to_string());
    put("prompts", prompts.len().to_string());
    put("prompts_sha256", hash.hex());
    put("places", places.join(","));
    put("positions", selection.positions.to_string());
    put("dtype", options.dtype.name().into());
    put("session", serde_json::to_string(session.options()).unwrap_or_default());
    if let Some(generate) = &options.generate {
        put("generate", serde_json::to_string(generate).unwrap_or_default());
    }
    all
}
