//! Tuning vision transformers.
//!
//! In the order of a step: [`Network`] runs forward and keeps what the way back needs, [`cross_entropy`] is the loss,
//! [`Network::backward`] gives gradients of the blocks that are trained, [`Optimizer`] applies them. [`alast`] decides
//! which blocks those are and which tokens go on; [`Trainer`] puts a step together for every method,
//! and [`Run`] puts steps together over a folder of images.

pub mod alast;
mod block;
mod data;
mod embed;
mod error;
mod head;
mod lora;
mod loss;
mod method;
mod network;
mod noise;
mod optimizer;
mod plan;
mod run;
mod schedule;
mod state;
mod trainer;

pub use data::{Augment, Batch, batch, order, split};
pub use error::TrainError;
pub use head::{classifier_config, export, fresh_head, tuned_config};
pub use lora::{LoraOptions, merged, save_adapter};
pub use loss::{Loss, cross_entropy};
pub use method::Method;
pub use network::{Network, Observed, Tape, Trained};
pub use noise::Noise;
pub use optimizer::{Decay, Optimizer, OptimizerOptions};
pub use plan::{Memory, Plan, Rehearsal, fit, plan, rehearse, trainer_for};
pub use run::{Event, Outcome, Run, RunOptions};
pub use schedule::Schedule;
pub use state::{load_state, save_state};
pub use trainer::{StepReport, Trainer, TrainerOptions, tape_flops};
