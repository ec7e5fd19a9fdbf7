//! What can go wrong while judging.

use meden_engine::EngineError;
use meden_engine::text::TextError;
use meden_lens::LensError;
use meden_lens::probe::ProbeError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The engine refused or was cancelled.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The tokenizer or the chat template refused.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A prompt that cannot be put together.
    #[error("cannot make a prompt: {why}")]
    Prompt {
        /// What is in the way, and what to do.
        why: String,
    },
    /// A text with too few tokens for the items that are wanted of it.
    #[error("the text `{name}` has {tokens} tokens; {needed} are needed; give a longer one or a smaller length")]
    TextTooShort {
        /// Name of the text.
        name: String,
        /// Its tokens.
        tokens: usize,
        /// Fewest that would do.
        needed: usize,
    },
    /// A file of results that cannot be gone on with.
    #[error("results, line {line}: {why}")]
    Results {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A file of facts that cannot be read.
    #[error("facts, line {line}: {why}")]
    Facts {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong, and what would do.
        why: String,
    },
    /// A file of multiple-choice items, labels or answers that cannot be used.
    #[error("{file}, line {line}: {why}")]
    Items {
        /// The file.
        file: String,
        /// Number of the line, from 1; 0 where no line is meant.
        line: usize,
        /// What is wrong, and what would do.
        why: String,
    },
    /// Looking inside failed.
    #[error(transparent)]
    Lens(#[from] LensError),
    /// A probe could not be made or judged.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// Results could not be written.
    #[error("the result cannot be written: {0}")]
    Write(#[from] std::io::Error),
    /// A setting out of its range.
    #[error("{field} is {value}; allowed: {allowed}")]
    Setting {
        /// Name of the setting.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// Too few tokens to judge anything.
    #[error("the text has {tokens} tokens; at least {needed} are needed")]
    TooShort {
        /// Tokens given.
        tokens: usize,
        /// Fewest that would do.
        needed: usize,
    },
    /// The model gave logits that no probability can be made of.
    #[error(
        "token {position}: the model gives it no probability (its logit is {logit}); the weights or the cache are damaged"
    )]
    NoProbability {
        /// Place of the token in the text.
        position: usize,
        /// Its logit.
        logit: f32,
    },
}
