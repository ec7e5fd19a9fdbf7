//! What a model does when a text contradicts what it has learnt, and where inside that can be seen.
//!
//! After "Analysing the Residual Stream of Language Models Under Knowledge Conflicts" (arXiv 2410.16090), on models and
//! data small enough for a laptop. In the order of the work, which [`run`](mod@run) does:
//!
//! - [`data`]: facts, ways to ask, contexts; [`prompt`]: the paper's layout; [`answer`]: when an answer counts
//! - [`ask`]: demonstrations are read once, questions behind them
//! - [`memory`]: what the model knows without a text
//! - [`design`]: which facts are tested with which false answers, in which fold; [`cells`]: every prompt of them
//! - [`behaviour`]: what it answers, and whether the premise holds; [`plan`]: what the study will be able to see
//! - [`activations`]: rows at the last token; [`task`]: the two questions as labelled rows
//! - [`signals`]: a probe at every place; [`controls`]: what it has to beat; [`paper`]: the paper's own protocol
//! - [`spread`]: kurtosis, Hoyer, Gini, norms; [`tug`]: the two answers through the logit lens; [`heads`]: who writes
//!   them; [`steer`]: what a push does
//! - [`live`]: probes that can be asked while a model answers
//! - [`results`]: everything that was found; [`findings`]: what it comes to

pub mod activations;
pub mod answer;
pub mod ask;
mod assign;
pub mod behaviour;
pub mod cells;
pub mod companions;
pub mod controls;
pub mod data;
pub mod design;
pub mod findings;
pub mod heads;
pub mod live;
pub mod memory;
pub mod paper;
pub mod plan;
pub mod prompt;
pub mod results;
pub mod run;
pub mod settings;
pub mod signals;
pub mod spread;
mod stage;
pub mod steer;
pub mod task;
mod together;
pub mod tug;

pub use run::{Subject, run};
pub use settings::Settings;
