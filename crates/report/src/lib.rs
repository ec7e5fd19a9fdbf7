//! What a reader sees, with one look everywhere: tables, charts, JSON, and figures in human units.
//!
//! Why a crate of its own: every verb, guide and benchmark prints figures, and a figure that is rounded or measured in
//! two ways in two places is worse than none. Nothing here knows a model.
//!
//! - [`table`]: aligned plain-text tables
//! - [`human`]: bytes, durations, counts and rates as people read them
//! - [`memory`]: this process's memory and what the machine has left, as the operating system says it
//! - [`json`]: one object a line
//! - [`html`]: pages in one file
//! - [`grid`]: matrices of words and colours as HTML
//! - [`svg`]: line, bar and heat charts as standalone SVG text

pub mod grid;
pub mod html;
pub mod human;
pub mod json;
pub mod memory;
pub mod svg;
pub mod table;

pub use table::{Align, Table};
