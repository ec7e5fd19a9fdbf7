//! Faulty items of multiple-choice benchmarks (MMLU-Redux, arXiv 2406.04127): labels, what models answered, detectors,
//! how good those are, and a combination of them.
//!
//! The positive class is "the item is faulty" everywhere.

pub mod combine;
pub mod detect;
pub mod export;
pub mod judged;
pub mod labels;
pub mod predictions;

pub use combine::Combined;
pub use detect::{Detector, Evidence, Finding};
pub use labels::{Label, Labelled, Redux};
pub use predictions::{Predictions, Score, View};
