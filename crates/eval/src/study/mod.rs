//! Studies: questions asked of a model, measured from the data to the figures, with their controls.
//!
//! - [`conflict`]: what a model does, and what can be seen inside it, when a text contradicts what it has learnt

pub mod conflict;
mod journal;

pub use journal::Journal;
