//! TopK autoencoders (Gao et al., arXiv 2406.04093) trained on a language model's activations.
//!
//! In the order of the data: activations lie in a file that `meden_lens::capture` wrote ([`rows`] shuffles and deals
//! them), [`step`] computes loss and gradients of a batch, [`state`] holds weights and moments and makes the step of
//! Adam, [`run`] goes on until the budget is spent, with checkpoints.
//!
//! Only the latents that fired get gradients: of `batch x width` products the forward pass needs all, but everything
//! behind the choice of the largest touches `batch x k` rows of the matrices. That is why these gradients are written by
//! hand and not left to a tensor library.

mod checkpoint;
mod error;
mod recipe;
mod rows;
mod run;
mod state;
mod step;

pub use error::TrainError;
pub use recipe::Recipe;
pub use rows::{Batches, Dealt, Shape, survey};
pub use run::{Companions, Finished, Line, train};
pub use state::State;
pub use step::{Aux, Gradients, Measured, Weights, gradients};
