//! What can go wrong while training.

use std::path::PathBuf;

use meden_engine::EngineError;
use meden_files::FileError;
use meden_kernels::KernelError;
use meden_lens::LensError;
use meden_lens::sae::SaeError;

/// Errors of training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Activations could not be read.
    #[error(transparent)]
    Lens(#[from] LensError),
    /// The autoencoder was refused.
    #[error(transparent)]
    Sae(#[from] SaeError),
    /// A product was refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The model could not be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A setting that makes no sense.
    #[error("{field} is {value}: {why}")]
    Setting {
        /// Name of the setting.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        why: String,
    },
    /// A file of an earlier run that this one cannot go on from.
    #[error("{}: {why}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The loss is no number any more.
    #[error(
        "the loss is {loss} at step {step}: the step size of {rate:.1e} is too large, or a row is not finite; lower --rate"
    )]
    Diverged {
        /// Step.
        step: usize,
        /// The loss.
        loss: f64,
        /// Step size.
        rate: f64,
    },
    /// The caller asked to stop.
    #[error("stopped after step {step} of {steps}; the same command goes on from the last checkpoint")]
    Stopped {
        /// Steps done.
        step: usize,
        /// Steps in all.
        steps: usize,
    },
}

impl TrainError {
    pub(crate) fn setting(field: &'static str, value: impl ToString, why: impl Into<String>) -> TrainError {
        TrainError::Setting { field, value: value.to_string(), why: why.into() }
    }
}
