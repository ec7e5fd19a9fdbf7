//! Judges: how good a model or a press is, with an interval.
//!
//! - [`perplexity`]: how surprised a model is by a text, in windows or with one running cache
//! - [`task`]: things to read and to be asked about, made from seeds
//! - [`kv_lab`]: what a compressed cache costs and what it has lost
//! - [`choice`]: multiple-choice items from files
//! - [`audit`]: faulty items of multiple-choice benchmarks
//! - [`study`]: questions asked of a model from the data to the figures, with their controls
//!
//! A judge knows no clock, and no file but the folder that a study keeps its results in: texts are given to it, and who
//! wants milliseconds brings a clock. What it reports is measured on the tokens it was given, never extrapolated.

pub mod audit;
pub mod choice;
mod error;
pub mod kv_lab;
pub mod perplexity;
pub mod study;
pub mod task;

pub use error::EvalError;
