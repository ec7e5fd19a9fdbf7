//! Judges: how good a model or a press is, with an interval.
//!
//! - [`perplexity`]: how surprised a model is by a text, in windows or with one running cache
//!
//! A judge is given token ids and a model; it knows no tokenizer, no file and no clock. What it reports is measured on
//! the tokens it was given, never extrapolated.

mod error;
pub mod perplexity;

pub use error::EvalError;
