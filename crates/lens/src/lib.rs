//! Look inside a language model while it runs, quantised or not.
//!
//! - [`place`]: sites, layers and positions, under the names of several tools
//! - [`capture`]: activations in memory or streamed to a file
//! - [`sae`]: sparse autoencoders: read, check, encode, decode
//!
//! Everything reads on a fork of the session it is given, so a session can be looked at in the middle of a
//! conversation and goes on as if nobody had looked.

pub mod capture;
mod companions;
mod error;
pub mod place;
pub mod sae;

pub use error::LensError;
