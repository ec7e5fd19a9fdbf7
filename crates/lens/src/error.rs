//! What can go wrong while looking. Every variant names the place and says what to do.

use std::path::PathBuf;

use meden_engine::EngineError;
use meden_files::FileError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum LensError {
    /// The engine refused or was cancelled.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A setting that does not parse or does not fit the model.
    #[error("{field} `{value}`: {why}")]
    Setting {
        /// Name of the setting.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is wrong, and what is allowed.
        why: String,
    },
    /// A file of activations, or of a lens, that cannot be used.
    #[error("{}: {why}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// An activation that is not a finite number.
    #[error("{site} of layer {layer} is not finite at position {position}; the model overflows on this input")]
    NotFinite {
        /// Site, as in files.
        site: String,
        /// Layer.
        layer: usize,
        /// Position of the token in its prompt.
        position: usize,
    },
    /// An activation that the chosen element type cannot hold.
    #[error(
        "{value} in {site} of layer {layer} does not fit into {dtype}, which ends at 65504: store bf16 or f32 instead"
    )]
    TooLarge {
        /// The value.
        value: f32,
        /// Site, as in files.
        site: String,
        /// Layer.
        layer: usize,
        /// Element type.
        dtype: &'static str,
    },
}

impl LensError {
    /// A setting that does not fit.
    pub(crate) fn setting(field: &'static str, value: impl ToString, why: impl Into<String>) -> LensError {
        LensError::Setting { field, value: value.to_string(), why: why.into() }
    }
}
