//! Training, by gradients written out by hand over our own kernels.
//!
//! - [`corpus`]: text from packages that anybody can get, with hashes, and a held-out part
//! - [`sae`]: sparse autoencoders on the activations of a language model
//! - [`vision`]: vision transformers, tuned on labelled images

pub mod corpus;
pub mod sae;
pub mod vision;
