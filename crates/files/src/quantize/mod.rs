//! Model files in another, usually smaller, weight format.
//!
//! [`Recipe`] says which format each tensor gets and is the only place that does: [`write()`] uses it to make a
//! file, the engine to quantise while it loads. [`convert`](meden_kernels::weights::convert) does the work.

mod clamped;
mod error;
mod plan;
mod recipe;
mod write;

pub use clamped::{Clamped, ClampedTensor};
pub use error::QuantizeError;
pub use plan::{Additions, Plan};
pub use recipe::{Choice, Outline, Recipe, Substitute, Substitutes};
pub use write::{Done, Watch, write};
