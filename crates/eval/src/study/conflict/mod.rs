//! What a model does when a text contradicts what it has learnt, and where inside that can be seen.
//!
//! After "Analysing the Residual Stream of Language Models Under Knowledge Conflicts" (arXiv 2410.16090), on models and
//! data small enough for a laptop. In the order of the work:
//!
//! - [`data`]: facts, ways to ask, contexts; [`prompt`]: the paper's layout; [`answer`]: when an answer counts
//! - [`memory`]: what the model knows without a text
//! - [`design`]: which facts are tested with which false answers, in which fold; [`cells`]: every prompt of them
//! - [`behaviour`]: what it answers, and whether the premise holds
//! - [`ask`]: demonstrations are read once, questions behind them

pub mod answer;
pub mod ask;
mod assign;
pub mod behaviour;
pub mod cells;
pub mod companions;
pub mod data;
pub mod design;
pub mod memory;
pub mod prompt;
