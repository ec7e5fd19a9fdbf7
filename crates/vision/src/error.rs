//! What can go wrong between an image file and a class.

use std::path::{Path, PathBuf};

use meden_files::FileError;

/// Errors of image models.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VisionError {
    /// A model file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An image that cannot be used.
    #[error("{}: {problem}; {fix}", path.display())]
    Image {
        /// File.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        fix: String,
    },
    /// The file describes a model that is not run here.
    #[error("{}: model field `{field}`: {why}", path.display())]
    Config {
        /// File.
        path: PathBuf,
        /// Field as it stands in the file.
        field: String,
        /// What is wrong with it, and what is allowed.
        why: String,
    },
    /// A weight has another shape than the configuration says.
    #[error("{}: tensor `{name}` has shape {found:?}, the configuration needs {needed:?}", path.display())]
    TensorShape {
        /// File.
        path: PathBuf,
        /// Name of the tensor in the file.
        name: String,
        /// Shape in the file, outermost first.
        found: Vec<usize>,
        /// Shape the configuration implies.
        needed: Vec<usize>,
    },
    /// Pixels, embeddings or labels that do not fit each other or the model.
    #[error("{what}: {why}")]
    Input {
        /// What was given.
        what: &'static str,
        /// What does not fit, with the numbers.
        why: String,
    },
}

impl VisionError {
    pub(crate) fn image(path: &Path, problem: impl Into<String>, fix: &str) -> Self {
        VisionError::Image { path: path.to_owned(), problem: problem.into(), fix: fix.to_owned() }
    }

    pub(crate) fn config(path: &Path, field: &str, why: impl Into<String>) -> Self {
        VisionError::Config { path: path.to_owned(), field: field.to_owned(), why: why.into() }
    }

    pub(crate) fn input(what: &'static str, why: impl Into<String>) -> Self {
        VisionError::Input { what, why: why.into() }
    }
}
