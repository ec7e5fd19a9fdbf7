//! What can go wrong while judging.

use meden_engine::EngineError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The engine refused or was cancelled.
    #[error(transparent)]
    Engine(#[from] EngineError),
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
