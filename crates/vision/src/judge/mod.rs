//! What embeddings are worth: neighbours and a linear classifier.

mod knn;
mod linear;

pub use knn::{knn, normalise};
pub use linear::{Fitted, LinearOptions, fit_linear};
