//! Studies: questions asked of a model, measured from the data to the figures, with their controls.
//!
//! - [`conflict`]: what a model does, and what can be seen inside it, when a text contradicts what it has learnt
//! - [`steer`]: making it answer from the text, or from what it has learnt

pub mod conflict;
mod journal;
pub mod steer;

pub use journal::Journal;
