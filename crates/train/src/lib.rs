//! Training, by gradients written out by hand over our own kernels.
//!
//! - [`vision`]: vision transformers, tuned on labelled images

pub mod vision;
