//! Look into a model, and change its mind.
//!
//! - [`probe`]: linear probes on activations: train, judge against controls, save, apply while text is written

pub mod probe;
