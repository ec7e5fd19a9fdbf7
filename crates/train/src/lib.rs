//! Training, by gradients written out by hand where they are sparse.
//!
//! - [`corpus`]: text from packages that anybody can get, with hashes, and a held-out part
//! - [`sae`]: sparse autoencoders on the activations of a language model

pub mod corpus;
pub mod sae;
