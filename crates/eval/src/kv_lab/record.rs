//! One line of a results file: what was measured, and all that decides it.

use meden_engine::{KvTypes, PressSpec, SkipOverflow};
use serde::{Deserialize, Serialize};

use super::distance::Distance;
use crate::task::{Question, TaskKind};

/// Grows when a task or a measure changes its meaning, so that old lines are not taken for new ones.
pub const VERSION: u32 = 1;

/// All that decides a measurement. Two lines with the same identity are the same measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of tasks and measures.
    pub version: u32,
    /// SHA-256 of the model's files, in hex.
    pub model: String,
    /// Name of the real text.
    pub text: String,
    /// The task.
    pub task: TaskKind,
    /// Tokens of the compressed part, at most.
    pub length: usize,
    /// Whether the press saw the question.
    pub question: Question,
    /// Whether the prompt went through the chat template.
    pub template: bool,
    /// Seed of the data.
    pub seed: u64,
    /// Number of the item.
    pub item: usize,
    /// The press; `None` for the dense cache.
    pub press: Option<PressSpec>,
    /// Share removed, nominally.
    pub ratio: f64,
    /// Element type of the cache.
    pub kv: KvTypes,
    /// First tokens that always stay.
    pub sinks: usize,
    /// Newest tokens that always stay.
    pub recents: usize,
    /// Layers left alone; `None` for the press's own choice.
    pub skip_layers: Option<Vec<usize>>,
    /// What happens to a skipped layer that outgrows the budget.
    pub skip_overflow: SkipOverflow,
}

impl Identity {
    /// The identity as a text, equal where identities are equal.
    pub fn key(&self) -> String {
        // Field order is that of the struct, and numbers are written in one way.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Tokens of the compressed part.
    pub tokens: usize,
    /// Where the fact stands, as a share of the text.
    pub depth: Option<f64>,
    /// Distance to the dense cache of the first type, over the answer's tokens (or those that follow).
    pub distance: Distance,
    /// For each question: was the answer right?
    pub correct: Vec<bool>,
    /// For each question: what was written.
    pub written: Vec<String>,
    /// Share of repeated four-token sequences in a long answer.
    pub repetition: Option<f64>,
    /// Slots kept, averaged over layers and heads, right after the compression.
    pub kept_tokens: f64,
    /// Bytes of the cache right after the compression, pages and metadata.
    pub kv_bytes: u64,
    /// Bytes of the dense cache of the same type.
    pub dense_bytes: u64,
    /// Slots evicted.
    pub evicted: u64,
    /// Time of the press.
    pub press_ms: Option<f64>,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was measured on.
    #[serde(flatten)]
    pub identity: Identity,
    /// What came out.
    #[serde(flatten)]
    pub measured: Measured,
}
