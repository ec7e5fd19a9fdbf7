//! Flags that several verbs share, and what they are turned into.

mod cache;
mod model;
mod sampling;
mod steer;

pub use cache::{CacheArgs, Layers, parse_layers};
pub use model::ModelArgs;
pub use sampling::SamplingArgs;
pub use steer::{Asked, SteerArgs};
