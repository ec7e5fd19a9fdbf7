//! What can go wrong while a model is tuned.

use meden_files::FileError;
use meden_vision::VisionError;

/// Errors of tuning.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An image or an image model that cannot be used.
    #[error(transparent)]
    Vision(#[from] VisionError),
    /// A setting that makes no sense, or does not fit the model or the data.
    #[error("{name}: {why}")]
    Setting {
        /// Which setting.
        name: &'static str,
        /// What is wrong, and what is allowed.
        why: String,
    },
    /// A number that is not finite, with where it arose.
    #[error("step {step}: {what} is {value}; lower the learning rate, or check the data")]
    NotFinite {
        /// Step, counted from 0.
        step: u64,
        /// What became it: "the loss", "the class-token delta of block 3".
        what: String,
        /// "NaN", "inf" or "-inf".
        value: f64,
    },
    /// A run's folder that cannot be continued.
    #[error("{}: {why}", path.display())]
    State {
        /// Folder or file.
        path: std::path::PathBuf,
        /// What does not fit, and what to do.
        why: String,
    },
}

impl TrainError {
    pub(crate) fn setting(name: &'static str, why: impl Into<String>) -> Self {
        TrainError::Setting { name, why: why.into() }
    }
}
