//! What can go wrong while a model is quantised.

use std::path::PathBuf;

use meden_kernels::KernelError;

use crate::error::FileError;

/// Error of [`super::write`] and of reading a recipe's name.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// Reading or writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// No recipe of that name.
    #[error("there is no weight format {name:?}; use one of {known}")]
    Recipe {
        /// Name given.
        name: String,
        /// All names.
        known: String,
    },
    /// The output is there already.
    #[error("{}: it is there already; give another name, or --force to replace it", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The output is one of the files that are read.
    #[error("{}: a model cannot be written over the file it is read from; give another name", path.display())]
    SameFile {
        /// The output.
        path: PathBuf,
    },
    /// A tensor that has no place in a GGUF file.
    #[error(
        "tensor {tensor}: GGUF files of architecture {architecture} have no name for it; Meden cannot convert this model"
    )]
    NoName {
        /// Its name.
        tensor: String,
        /// The model's architecture.
        architecture: String,
    },
    /// A weight is NaN or infinite, or sizes do not fit.
    #[error("tensor {tensor}: {source}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong, with the index of the value.
        source: KernelError,
    },
    /// The work was asked to stop; nothing was left behind.
    #[error("interrupted after {done} of {total} bytes; no file was written")]
    Cancelled {
        /// Bytes read.
        done: u64,
        /// Bytes to read.
        total: u64,
    },
}
