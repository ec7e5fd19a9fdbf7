//! Linear probes: does a direction in a model's activations tell two classes apart, and what does it say of a new row?
//!
//! In the order of the work: [`Examples`] (rows, labels, groups) are split by group ([`split`]); a [`Method`] makes a
//! [`Probe`] of the training part; the held-out part judges it with intervals ([`evaluate`]) and against controls
//! ([`controls`]); the probe is saved ([`mod@file`]) and applied, to rows or, as a hook, to each token that is written
//! ([`ProbeHook`]).
//!
//! After "Analysing the Residual Stream of Language Models Under Knowledge Conflicts" (arXiv 2410.16090), whose probe is
//! [`Method::Paper`]; [`Method::Logistic`] minimises the same objective exactly.

pub mod calibrate;
pub mod controls;
mod cross_fit;
mod design;
mod error;
pub mod evaluate;
mod examples;
pub mod file;
mod hook;
mod logistic;
mod means;
mod sgd;
pub mod split;
mod train;

pub use calibrate::Calibration;
pub use cross_fit::CrossFit;
pub use design::{Design, Standard};
pub use error::ProbeError;
pub use evaluate::{Estimate, Evaluation, Judging, Scored};
pub use examples::{Examples, Rows};
pub use file::{ProbeFile, Reads};
pub use hook::ProbeHook;
pub use logistic::{Fit, L1Logistic};
pub use sgd::PaperSgd;
pub use train::{Method, Probe};
