//! Charts as standalone SVG text: dark on white, readable at the width of a page, no script and no outside font.
//!
//! Why own ones: three kinds of chart with one look are less code than a plotting library's set-up, build in a moment,
//! and give text that is the same byte for byte for the same data.
//!
//! - [`LineChart`]: something against something (cache bytes against tokens read)
//! - [`BarChart`]: named values, with intervals
//! - [`HeatMap`]: a matrix (layers by heads)

mod axis;
mod bar;
mod canvas;
mod heat;
mod line;

pub use axis::Unit;
pub use bar::{Bar, BarChart};
pub use heat::HeatMap;
pub use line::{LineChart, Series};
