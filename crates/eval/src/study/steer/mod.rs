//! Steering between text and memory, measured with its controls.
//!
//! After "Steering Knowledge Selection Behaviours in LLMs via SAE-Based Representation Engineering" (arXiv 2410.15999). In
//! the order of the work: what the model answers to conflicting prompts is known (`study::conflict`); [`mod@collect`]
//! takes the activations of prompts whose answer came from the text or from memory; [`mod@fit`] makes edits of them;
//! [`mod@evaluate`] asks facts again that were not used, under every edit; [`summary`] counts.
//!
//! Facts are in folds by answer: edits are fitted on four of them and tested on the fifth, so no answer is both.

pub mod collect;
mod dense;
pub mod evaluate;
pub mod fit;
pub mod summary;
