//! What can go wrong between text and token ids.
//!
//! A tokenizer that guesses gives ids that look right and a model that babbles, so everything that is not known
//! for sure is one of these errors. Each says where the trouble stands and what would help.

use meden_files::FileError;

/// Error of tokenizers, chat templates, samplers and stop strings.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A model file could not be read, or a key is missing or of another type.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nothing to make a tokenizer of.
    #[error(
        "no tokenizer: {path} has neither a GGUF vocabulary nor a tokenizer.json beside its weights; fetch the tokenizer.json of the same model into that folder"
    )]
    NoTokenizer {
        /// File or folder that was opened.
        path: String,
    },
    /// A kind of vocabulary, or a part of a tokenizer.json, that is not implemented.
    #[error("{place}: {what} is not supported; supported: {known}")]
    Unsupported {
        /// File and field.
        place: String,
        /// What stands there.
        what: String,
        /// What could stand there.
        known: String,
    },
    /// A vocabulary that contradicts itself.
    #[error("{place}: {why}; fetch or convert the model again")]
    Vocabulary {
        /// File and field.
        place: String,
        /// The contradiction, with its numbers.
        why: String,
    },
    /// The vocabulary has no token for a byte and none for unknown text.
    #[error(
        "the vocabulary has no token for byte 0x{byte:02X} (byte {at} of the text) and no unknown token; remove that character"
    )]
    NoToken {
        /// The byte.
        byte: u8,
        /// Where it stands.
        at: usize,
    },
    /// The text could not be encoded for another reason.
    #[error("this text cannot be encoded: {why}")]
    Encode {
        /// What the tokenizer said.
        why: String,
    },
    /// A chat template that does not parse, or that refused the messages.
    #[error("chat template {name}, line {line}: {why}")]
    Template {
        /// Where the template comes from.
        name: String,
        /// Line in the template, from 1; 0 when it is not known.
        line: usize,
        /// The template's own message, or the engine's.
        why: String,
    },
    /// A setting out of its range.
    #[error("{field} is {value}; allowed: {allowed}")]
    Setting {
        /// Name of the setting, as in the configuration.
        field: String,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// Logits that no token can be chosen from.
    #[error("logit {id} of {count} is {value}: the model's weights or cache are damaged, or a hook made it so")]
    Logit {
        /// Token id.
        id: usize,
        /// Size of the vocabulary.
        count: usize,
        /// The logit.
        value: f32,
    },
    /// Every token is ruled out.
    #[error("no token can be chosen: all {count} logits are minus infinity")]
    NothingLeft {
        /// Size of the vocabulary.
        count: usize,
    },
}

impl TextError {
    /// A vocabulary that contradicts itself.
    pub(crate) fn vocabulary(place: impl Into<String>, why: impl Into<String>) -> Self {
        TextError::Vocabulary { place: place.into(), why: why.into() }
    }

    /// A setting out of its range.
    pub(crate) fn setting(field: &str, value: impl ToString, allowed: &str) -> Self {
        TextError::Setting { field: field.to_owned(), value: value.to_string(), allowed: allowed.to_owned() }
    }
}
