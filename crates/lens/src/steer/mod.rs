//! Change which source an answer comes from: the text that was given, or what the model has learnt.
//!
//! SpARE (arXiv 2410.15999) finds latents of a sparse autoencoder that tell the two apart ([`information`], [`select`])
//! and moves them towards their mean in one group or the other ([`edit`]). Beside it stand the simpler edits that it has
//! to beat: a difference of means added, projected or put in place of the row, and spectral editing ([`spectral`]). Each is a [`Steering`], which is one file
//! ([`mod@file`]) and one hook ([`hook`]), bound to its model; strength 0 changes no bit.

pub mod chance;
pub mod control_vector;
pub mod edit;
pub mod file;
pub mod hook;
pub mod information;
pub mod select;
pub mod spectral;

pub use edit::{Edit, Latents, Mode, Parts as EditParts, Toward};
pub use file::{Bound, Steering};
pub use hook::{Applied, SteerHook, Where};
pub use information::Estimator;
pub use select::{Chosen, Rule, Selected, Selection};
pub use spectral::Spectral;
