//! Look inside a language model while it runs, quantised or not.
//!
//! - [`place`]: sites, layers and positions, under the names of several tools
//! - [`capture`]: activations in memory or streamed to a file
//! - [`probe`]: linear probes on them: train, judge against controls, save, apply while text is written
//! - [`logit_lens`], [`tuned`]: what the model would say if it stopped at some layer
//! - [`attribute`], [`patterns`]: which part wrote a logit, which token a head reads
//! - [`edit`], [`sweep`], [`generate`](mod@generate): runs with changed activations, and what they change
//! - [`metric`], [`probability`], [`shape`]: what logits say, how rows are spread
//! - [`sae`]: sparse autoencoders: read, check, encode, decode
//! - [`steer`]: directions and edits that change which source an answer comes from
//!
//! Everything that looks reads on a fork of the session it is given, so a session can be looked at in the middle of a
//! conversation and goes on as if nobody had looked.

pub mod attribute;
pub mod capture;
mod companions;
pub mod edit;
mod error;
pub mod generate;
pub mod logit_lens;
pub mod metric;
pub mod patterns;
pub mod place;
pub mod probability;
pub mod probe;
pub mod sae;
pub mod shape;
pub mod steer;
pub mod sweep;
pub mod tuned;

pub use error::LensError;
