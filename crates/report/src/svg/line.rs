//! One or more lines over a number axis, named at their right ends.

use super::axis::{Axis, Unit};
use super::canvas::{Anchor, Canvas, PALETTE, QUIET, Type, WIDTH, text_width};

/// A named line.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Written at the line's right end.
    pub name: String,
    /// (x, y), in the order drawn; a point that is not finite interrupts the line.
    pub points: Vec<(f64, f64)>,
    /// Ends of an interval for each point, drawn as whiskers; empty for none, and none where an end is not finite.
    pub intervals: Vec<(f64, f64)>,
}

/// A line chart. Fill the fields, call [`LineChart::svg`].
#[derive(Clone, Debug, Default)]
pub struct LineChart {
    /// Title, in bold.
    pub title: String,
    /// A line under the title: what was measured, on what.
    pub subtitle: String,
    /// Name of the horizontal axis.
    pub x_name: String,
    /// Name of the vertical axis.
    pub y_name: String,
    /// What the horizontal numbers are.
    pub x_unit: Unit,
    /// What the vertical numbers are.
    pub y_unit: Unit,
    /// Whether the vertical axis has to contain zero.
    pub y_from_zero: bool,
    /// Whether every point gets a dot.
    pub dots: bool,
    /// A dashed horizontal line with a name: a budget, a reference.
    pub level: Option<(f64, String)>,
    /// The lines.
    pub series: Vec<Series>,
}

const TOP: f64 = 84.0;
const BOTTOM: f64 = 350.0;
const HEIGHT: f64 = 410.0;
/// Closest that two names at the right may come.
const NAME_GAP: f64 = 16.0;
/// More lines than colours are told apart by their dashes.
const DASHES: [&str; 4] = ["", "7 4", "2 3", "9 3 2 3"];

impl LineChart {
    /// The chart as an SVG document.
    pub fn svg(&self) -> String {
        let mut canvas = Canvas::new(HEIGHT, &self.title, &self.subtitle);
        let names = self.series.iter().map(|s| text_width(&s.name));
        let right = WIDTH - 28.0 - names.fold(0.0, f64::max).min(220.0);
        let points = || self.series.iter().flat_map(|s| s.points.iter());
        let levels = self.level.iter().map(|l| l.0);
        let ends = self.series.iter().flat_map(|s| s.intervals.iter()).flat_map(|i| [i.0, i.1]);
        let values = points().map(|p| p.1).chain(levels).chain(ends);
        let y = Axis::new(values, self.y_unit, self.y_from_zero, (BOTTOM, TOP));
        let widest = y.ticks().into_iter().map(|t| text_width(&self.y_unit.write(t)));
        let left = 30.0 + widest.fold(0.0, f64::max);
        let x = Axis::new(points().map(|p| p.0), self.x_unit, false, (left, right));
        y.draw_across(&mut canvas, left, right);
        x.draw_along(&mut canvas, BOTTOM);
        canvas.text(20.0, TOP - 14.0, &self.y_name, Anchor::Start, Type::AXIS);
        let middle = 0.5 * (left + right);
        canvas.text(middle, BOTTOM + 42.0, &self.x_name, Anchor::Middle, Type::AXIS);
        if let Some((level, name)) = &self.level {
            let at = y.at(*level);
            canvas.segment((left, at), (right, at), QUIET, true);
            canvas.text(left + 6.0, at - 6.0, name, Anchor::Start, Type::AXIS);
        }
        self.draw_lines(&mut canvas, &x, &y);
        self.draw_names(&mut canvas, &y, right);
        canvas.finish()
    }

    fn draw_lines(&self, canvas: &mut Canvas, x: &Axis, y: &Axis) {
        for (index, series) in self.series.iter().enumerate() {
            let colour = PALETTE[index % PALETTE.len()];
            for (&(at, _), &(low, high)) in series.points.iter().zip(&series.intervals) {
                if at.is_finite() && low.is_finite() && high.is_finite() {
                    // neighbours stand a little apart, so that whiskers do not hide each other
                    let at = x.at(at) + (index % 5) as f64 * 2.0 - 4.0;
                    canvas.segment((at, y.at(low)), (at, y.at(high)), colour, false);
                }
            }
            let dash = DASHES[index / PALETTE.len() % DASHES.len()];
            for part in series.points.split(|p| !p.0.is_finite() || !p.1.is_finite()) {
                let pixels: Vec<(f64, f64)> = part.iter().map(|p| (x.at(p.0), y.at(p.1))).collect();
                if pixels.len() > 1 {
                    canvas.polyline(&pixels, colour, dash);
                }
                if self.dots || pixels.len() == 1 {
                    pixels.iter().for_each(|&p| canvas.dot(p, colour));
                }
            }
        }
    }

    /// Names beside the last points, pushed apart where they would overlap: downwards, then up again from the axis, whose
    /// own figures stand below it.
    fn draw_names(&self, canvas: &mut Canvas, y: &Axis, right: f64) {
        let mut names: Vec<(f64, usize)> = self
            .series
            .iter()
            .enumerate()
            .filter_map(|(i, s)| Some((y.at(s.points.iter().rev().find(|p| p.1.is_finite())?.1), i)))
            .collect();
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free_from = f64::NEG_INFINITY;
        for (at, _) in &mut names {
            *at = at.max(free_from);
            free_from = *at + NAME_GAP;
        }
        let mut free_to = BOTTOM;
        for (at, index) in names.into_iter().rev() {
            let at = at.min(free_to);
            free_to = at - NAME_GAP;
            let face = Type::LABEL.coloured(PALETTE[index % PALETTE.len()]);
            canvas.text(right + 8.0, at + 4.0, &self.series[index].name, Anchor::Start, face);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> LineChart {
        let line = |name: &str, slope: f64| Series {
            name: name.into(),
            points: (0..20).map(|i| (f64::from(i) * 256.0, f64::from(i) * slope)).collect(),
            intervals: Vec::new(),
        };
        LineChart {
            title: "KV cache while reading <a> & \"b\"".into(),
            x_name: "tokens read".into(),
            y_unit: Unit::Bytes,
            y_from_zero: true,
            level: Some((3e7, "budget".into())),
            series: vec![line("dense", 5e6), line("knorm", 4.99e6)],
            ..LineChart::default()
        }
    }

    #[test]
    fn text_is_escaped_and_the_same_data_gives_the_same_bytes() {
        let svg = chart().svg();
        assert!(svg.contains("&lt;a&gt; &amp; &quot;b&quot;"));
        assert_eq!(svg, chart().svg());
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("MiB") && svg.contains("stroke-dasharray"));
    }

    #[test]
    fn names_of_lines_that_end_together_do_not_overlap() {
        let svg = chart().svg();
        let at = |name: &str| -> f64 {
            let line = svg.lines().find(|l| l.ends_with(&format!(">{name}</text>"))).unwrap();
            line.split("y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        assert!((at("dense") - at("knorm")).abs() >= NAME_GAP - 0.1);
    }

    #[test]
    fn names_stay_above_the_axis_where_all_lines_end_on_it() {
        let mut chart = chart();
        let names = ["a-line", "b-line", "c-line", "d-line"];
        let floor = Series { points: vec![(0.0, 0.0), (1.0, 0.0)], ..chart.series[0].clone() };
        chart.series = names.iter().map(|n| Series { name: (*n).into(), ..floor.clone() }).collect();
        let svg = chart.svg();
        let mut at: Vec<f64> = Vec::new();
        for name in names {
            let line = svg.lines().find(|l| l.ends_with(&format!(">{name}</text>"))).unwrap();
            at.push(line.split("y=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap());
        }
        at.sort_by(f64::total_cmp);
        assert!(at[3] <= BOTTOM + 4.0, "{at:?}");
        assert!(at.windows(2).all(|w| w[1] - w[0] >= NAME_GAP - 0.1), "{at:?}");
    }

    #[test]
    fn whiskers_widen_the_axis_and_the_seventh_line_is_dashed() {
        let mut chart = chart();
        let plain = chart.svg().matches("<line").count();
        chart.series[0].intervals = vec![(0.0, 4e9); 3];
        chart.series[0].intervals[1].1 = f64::NAN;
        let svg = chart.svg();
        assert!(svg.contains("GiB"), "the axis holds the ends");
        assert!(svg.matches("<line").count() > plain);
        let one = chart.series[1].clone();
        chart.series = vec![one; 7];
        assert_eq!(chart.svg().matches("stroke-dasharray=\"7 4\"").count(), 1);
    }

    #[test]
    fn gaps_interrupt_and_an_empty_chart_is_still_a_document() {
        let mut broken = chart();
        broken.series[0].points[5].1 = f64::NAN;
        assert_eq!(broken.svg().matches("<polyline").count(), 3);
        let empty = LineChart::default().svg();
        assert!(empty.starts_with("<svg") && empty.ends_with("</svg>\n") && !empty.contains("NaN"));
    }
}
