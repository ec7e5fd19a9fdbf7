//! Image models.
//!
//! The order of the data: a file becomes pixels ([`image`]), pixels become tokens, hidden states and logits ([`vit`]),
//! embeddings are judged by their neighbours and by a linear classifier ([`judge`]). Inference only; what needs
//! gradients is another crate's, which shares the shape ([`vit::VitConfig`]), the weights ([`vit::Params`]) and their
//! names with this one.

pub mod acm;
mod error;
pub mod image;
pub mod judge;
pub mod vit;

pub use error::VisionError;
