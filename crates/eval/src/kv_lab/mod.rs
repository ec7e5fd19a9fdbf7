//! What a compressed cache costs, and what it has lost.
//!
//! A model of a size that runs anywhere fails the hard tasks of long-context benchmarks with a dense cache already. So
//! the first question is faithfulness to the model's own dense cache, the second is ability, and among items that the
//! dense cache does not solve ability says nothing.
//!
//! - [`sweep`]: one dense prefill an item, then every press, share and cache type from it
//! - [`summary`]: means over items with paired bootstrap intervals
//! - [`alr`]: how well a press's order agrees with the attention that comes next
//! - [`kept`]: which tokens each layer and head kept
//! - [`tune`]: the smallest cache within a distance, or the nearest within bytes

use meden_engine::PressSpec;

pub mod alr;
pub mod apply;
pub mod distance;
pub mod kept;
mod long;
mod measure;
pub mod record;
pub mod store;
pub mod summary;
pub mod sweep;
pub mod tune;

/// A press for tables and charts: its name, and its parameters only where they are not the usual ones.
pub fn label(press: &PressSpec) -> String {
    let usual = press.name().parse::<PressSpec>().is_ok_and(|usual| usual == *press);
    if usual { press.name().to_owned() } else { press.to_string() }
}
