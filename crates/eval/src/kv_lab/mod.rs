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

/// A press for tables and charts: its name, and its parameters only where they are not the usual ones. The token ids of
/// an instruction say nothing to people and are left out.
pub fn label(press: &PressSpec) -> String {
    let mut press = press.clone();
    if let PressSpec::Kvzip(kvzip) = &mut press {
        kvzip.instruction.clear();
    }
    let usual = press.name().parse::<PressSpec>().is_ok_and(|usual| usual == press);
    if usual { press.name().to_owned() } else { press.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_name_with_what_is_unusual() {
        for (press, shown) in [
            ("knorm", "knorm"),
            ("snapkv(window_size=7)", "snapkv(window_size=7)"),
            ("kvzip(instruction=[1, 2, 3])", "kvzip"),
            ("kvzip(plus=true, instruction=[1])", "kvzip(plus=true)"),
            ("adakv", "adakv"),
            ("adakv(knorm)", "adakv(knorm)"),
        ] {
            let press: PressSpec = press.parse().unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(label(&press), shown);
        }
    }
}
