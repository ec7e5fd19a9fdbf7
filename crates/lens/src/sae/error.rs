//! What can go wrong with a sparse autoencoder.

use std::path::{Path, PathBuf};

use meden_files::FileError;
use meden_kernels::KernelError;

use crate::error::LensError;

/// Errors of sparse autoencoders and of their files.
#[derive(Debug, thiserror::Error)]
pub enum SaeError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A product was refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The model could not be looked into.
    #[error(transparent)]
    Lens(#[from] LensError),
    /// The engine refused or was cancelled.
    #[error(transparent)]
    Engine(#[from] meden_engine::EngineError),
    /// Parts that do not fit each other.
    #[error(
        "{what} holds {got} values, {want} are needed for {width} latents of {d} values; the file is damaged or its orientation is another"
    )]
    Shape {
        /// Which part.
        what: &'static str,
        /// Values found.
        got: usize,
        /// Values needed.
        want: usize,
        /// Latents.
        width: usize,
        /// Values of a row.
        d: usize,
    },
    /// A value that no autoencoder has.
    #[error("{what}[{index}] is {value}: {why}")]
    Value {
        /// Which part.
        what: &'static str,
        /// Which value.
        index: usize,
        /// The value.
        value: f32,
        /// What is allowed.
        why: &'static str,
    },
    /// A number of the configuration that makes no sense.
    #[error("{field} is {value}: {why}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What it is.
        value: String,
        /// What is allowed.
        why: String,
    },
    /// Rows that are not whole.
    #[error("{values} values are no whole rows of {width}: this autoencoder reads another site or another model")]
    Rows {
        /// Values given.
        values: usize,
        /// Values of a row.
        width: usize,
    },
    /// Files that are no autoencoder that is read.
    #[error("{}: {problem}; {fix}", path.display())]
    Format {
        /// File or folder.
        path: PathBuf,
        /// What was found or is missing.
        problem: String,
        /// What to do.
        fix: String,
    },
}

impl SaeError {
    pub(crate) fn format(path: &Path, problem: impl Into<String>, fix: impl Into<String>) -> SaeError {
        SaeError::Format { path: path.to_owned(), problem: problem.into(), fix: fix.into() }
    }
}
