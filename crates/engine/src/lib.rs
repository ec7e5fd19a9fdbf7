//! Language models on ordinary machines, with a key-value cache that can really shrink.
//!
//! The folders stand in the order the data flows:
//! text (`text/`) becomes token ids, the `model/` turns them into logits, the `cache/` keeps what later tokens
//! will read, a `press/` decides what of it is worth keeping, `read/` what of that a token reads, and a `session/` ties one conversation together.
//! One loaded [`Model`] serves many [`Session`]s; all state lives in the session.

pub mod cache;
pub mod calibrate;
pub mod error;
pub mod export;
pub mod hook;
pub mod model;
pub mod press;
pub mod read;
mod reuse;
pub mod session;
pub mod text;
mod written;

pub use cache::kinds::KvTypes;
pub use cache::rotation::KvRotation;
pub use cache::stats::{CacheStats, LayerStats};
pub use error::EngineError;
pub use hook::{Hook, Site, SiteVisit};
pub use model::config::Config;
pub use model::{LoadOptions, LoadWatch, Model, OutputWeights, Sublayer, WeightMode};
pub use press::budget::{Budget, SkipOverflow};
pub use press::policy::{Policy, Rounding, Schedule};
pub use press::{LayerView, Needs, Press, PressInfo, PressSpec, Scores};
pub use read::quest::Quest;
pub use read::{ReadPolicy, ReadStats};
pub use session::batch::{BatchItem, forward_batch};
pub use session::control::Control;
pub use session::forecast::{Forecast, Run};
pub use session::{Compression, LogitRows, Session, SessionOptions};

pub use meden_kernels::attention::KvType;
pub use meden_kernels::isa::Isa;
