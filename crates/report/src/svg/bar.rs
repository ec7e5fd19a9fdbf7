//! Named values as horizontal bars, so that long names stay readable; with intervals where there are some.

use super::axis::{Axis, Unit};
use super::canvas::{Anchor, Canvas, INK, PALETTE, Type, WIDTH, text_width};

/// One bar.
#[derive(Clone, Debug, Default)]
pub struct Bar {
    /// Written at its left.
    pub name: String,
    /// Its length; a value that is not finite draws no bar and says so.
    pub value: f64,
    /// Ends of an interval, drawn as a whisker.
    pub interval: Option<(f64, f64)>,
    /// Bars of one group share a colour.
    pub group: usize,
}

/// A bar chart. Fill the fields, call [`BarChart::svg`].
#[derive(Clone, Debug, Default)]
pub struct BarChart {
    /// Title, in bold.
    pub title: String,
    /// A line under the title.
    pub subtitle: String,
    /// What the numbers are.
    pub unit: Unit,
    /// The bars from top to bottom.
    pub bars: Vec<Bar>,
}

const TOP: f64 = 66.0;
const ROW: f64 = 26.0;

impl BarChart {
    /// The chart as an SVG document.
    pub fn svg(&self) -> String {
        let bottom = TOP + ROW * self.bars.len() as f64;
        let mut canvas = Canvas::new(bottom + 20.0, &self.title, &self.subtitle);
        let names = self.bars.iter().map(|b| text_width(&b.name));
        let left = 32.0 + names.fold(0.0, f64::max).min(260.0);
        let values = self.bars.iter().map(|b| text_width(&self.unit.write(b.value)));
        let right = WIDTH - 36.0 - values.fold(0.0, f64::max);
        let ends = self.bars.iter().flat_map(|b| {
            let (low, high) = b.interval.unwrap_or((b.value, b.value));
            [b.value, low, high]
        });
        let axis = Axis::new(ends, self.unit, true, (left, right));
        for (index, bar) in self.bars.iter().enumerate() {
            self.draw(&mut canvas, &axis, bar, TOP + ROW * index as f64);
        }
        let zero = axis.at(0.0);
        canvas.segment((zero, TOP - 4.0), (zero, bottom), INK, false);
        canvas.finish()
    }

    fn draw(&self, canvas: &mut Canvas, axis: &Axis, bar: &Bar, top: f64) {
        let (zero, base) = (axis.at(0.0), top + 14.0);
        let named_at = zero.min(axis.at(bar.value.min(0.0))) - 8.0;
        canvas.text(named_at, base, &bar.name, Anchor::End, Type::LABEL);
        if !bar.value.is_finite() {
            canvas.text(zero + 8.0, base, "no value", Anchor::Start, Type::AXIS);
            return;
        }
        let end = axis.at(bar.value);
        let colour = PALETTE[bar.group % PALETTE.len()];
        let size = ((end - zero).abs(), ROW - 8.0);
        canvas.rect((zero.min(end), top), size, colour, "");
        let mut written_at = end.max(zero) + 8.0;
        if let Some((low, high)) = bar.interval {
            let (low, high, middle) = (axis.at(low), axis.at(high), top + 0.5 * (ROW - 8.0));
            canvas.segment((low, middle), (high, middle), INK, false);
            canvas.segment((low, middle - 4.0), (low, middle + 4.0), INK, false);
            canvas.segment((high, middle - 4.0), (high, middle + 4.0), INK, false);
            written_at = written_at.max(high + 8.0);
        }
        canvas.text(written_at, base, &self.unit.write(bar.value), Anchor::Start, Type::LABEL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_is_named_and_valued_and_whiskers_are_drawn() {
        let bar = |name: &str, value: f64| Bar {
            name: name.into(),
            value,
            interval: Some((value * 0.9, value * 1.1)),
            group: 0,
        };
        let chart = BarChart {
            title: "perplexity".into(),
            bars: vec![bar("knorm", 63.9), bar("random", 72.5), bar("nothing", f64::NAN)],
            ..BarChart::default()
        };
        let svg = chart.svg();
        for text in [">knorm<", ">63.9<", ">random<", ">72.5<", ">no value<"] {
            assert!(svg.contains(text), "{text} is missing");
        }
        // The background and two bars.
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(!svg.contains("NaN"));
    }
}
