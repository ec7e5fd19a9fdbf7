//! What can go wrong between token ids and logits. Every variant carries the numbers a user needs to act.

use meden_files::FileError;
use meden_kernels::KernelError;

/// Errors of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A model file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A weight cannot be quantised.
    #[error("tensor {tensor}: {source}")]
    Quantize {
        /// Hugging Face name of the tensor.
        tensor: String,
        /// What is wrong, with the index of the value in the tensor as the file has it.
        source: KernelError,
    },
    /// The file describes a model that the engine does not run.
    #[error("model field `{field}`: {why}")]
    Config {
        /// Field as it stands in the file.
        field: String,
        /// What is wrong with it, and what is allowed.
        why: String,
    },
    /// A weight has another shape than the configuration says.
    #[error("tensor `{name}` has shape {found:?}, the configuration needs {needed:?}")]
    TensorShape {
        /// Hugging Face name of the tensor.
        name: String,
        /// Shape in the file, outermost first.
        found: Vec<usize>,
        /// Shape the configuration implies.
        needed: Vec<usize>,
    },
    /// More tokens than the model was trained for.
    #[error("{needed} tokens do not fit: the model's context is {limit} tokens")]
    ContextExceeded {
        /// Tokens seen after this call.
        needed: usize,
        /// Context length of the model.
        limit: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab}")]
    TokenId {
        /// The id.
        id: u32,
        /// Vocabulary size.
        vocab: usize,
    },
    /// A call that needs at least one token got none.
    #[error("no tokens to read: the prompt is empty")]
    NoTokens,
    /// The caller asked to stop.
    #[error("cancelled after {done} of {total} tokens; the session holds the tokens read so far{}", left_pressed(*pressed_layers))]
    Cancelled {
        /// Tokens of this call that are in the cache.
        done: usize,
        /// Tokens of this call.
        total: usize,
        /// Layers that a press had thinned for the interrupted piece, which stay thinned.
        pressed_layers: usize,
    },
    /// The caller asked to stop while a model was loaded.
    #[error("interrupted while loading, after {done} of {total} bytes of weights")]
    LoadCancelled {
        /// Bytes loaded.
        done: u64,
        /// Bytes of all weights.
        total: u64,
    },
    /// A compression policy that cannot be carried out.
    #[error("press `{press}`: {why}")]
    Press {
        /// Name of the press.
        press: String,
        /// What is wrong, with the smallest or largest possible value.
        why: String,
    },
    /// A setting that does not parse or is out of range.
    #[error("`{value}` is not a valid {field}: {allowed}")]
    Setting {
        /// Name of the setting.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A press or a hook produced numbers that cannot be used.
    #[error("{what} of layer {layer}, head {head} is not a number at position {position}")]
    NotANumber {
        /// Whose value.
        what: String,
        /// Layer.
        layer: usize,
        /// Key-value head.
        head: usize,
        /// Original position of the token.
        position: u32,
    },
    /// A hook asked for a place that does not exist or never came by.
    #[error("hook `{hook}`: {why}")]
    Hook {
        /// Name of the hook.
        hook: String,
        /// Which site, which layer.
        why: String,
    },
    /// A rewind that would need tokens that were evicted.
    #[error(
        "cannot rewind to {to} tokens: tokens were evicted when {evicted_at} had been seen; \
         restore a saved session or start again"
    )]
    RewindPastEviction {
        /// Where the caller wanted to go.
        to: usize,
        /// Tokens seen at the last eviction.
        evicted_at: usize,
    },
    /// A rewind to a place that was never reached.
    #[error("cannot rewind to {to} tokens: the session has seen {seen}")]
    RewindForward {
        /// Where the caller wanted to go.
        to: usize,
        /// Tokens seen.
        seen: usize,
    },
    /// A saved session that cannot be used.
    #[error("saved session {path}: {why}")]
    Snapshot {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The session lost its cache in an earlier failed call.
    #[error("this session failed earlier in the middle of a step and cannot go on; restore or start again")]
    Poisoned,
}

fn left_pressed(layers: usize) -> String {
    match layers {
        0 => String::new(),
        1 => ", and 1 layer stays as the press left it for the interrupted piece".to_owned(),
        more => format!(", and {more} layers stay as the press left them for the interrupted piece"),
    }
}
