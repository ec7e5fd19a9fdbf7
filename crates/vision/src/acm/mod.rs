//! Adaptive computation modules (Wójcik et al., arXiv 2312.10193): feed-forwards cut into N ordered learners, of which a
//! small gate chooses how many each token runs.
//!
//! In the order of the data: `acm.json` says the shape ([`AcmConfig`]), `acm.safetensors` beside it holds the weights
//! ([`AcmParams`]), which are packed once ([`AcmModel`]); [`crate::vit::Vit::with_acm`] puts them where the dense
//! feed-forwards were, inside layer scale. [`Dial`] says who chooses: the gates, a fixed number, or chance.

mod config;
mod dial;
mod files;
mod gate;
mod model;
mod params;

pub use config::{AcmConfig, BiasMode, DialPoint};
pub use dial::Dial;
pub use files::{load, save};
pub use gate::{GateWeights, choose};
pub use model::{AcmModel, Seen};
pub use params::{AcmBlock, AcmParams};
