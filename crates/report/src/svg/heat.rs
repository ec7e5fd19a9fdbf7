//! A matrix as coloured cells, with the scale beside it.

use super::axis::Unit;
use super::canvas::{Anchor, Canvas, Type, WIDTH, text_width};

/// A heat map. Fill the fields, call [`HeatMap::svg`].
#[derive(Clone, Debug, Default)]
pub struct HeatMap {
    /// Title, in bold.
    pub title: String,
    /// A line under the title.
    pub subtitle: String,
    /// Name of the columns, under the matrix.
    pub x_name: String,
    /// Name of the rows, above the matrix at the left.
    pub y_name: String,
    /// What the values are.
    pub unit: Unit,
    /// Ends of the scale, so that maps beside each other compare; the values' own where there are none.
    pub range: Option<(f64, f64)>,
    /// Rows from top to bottom; a value that is not finite is left grey, a short row leaves cells empty.
    pub rows: Vec<Vec<f64>>,
}

const TOP: f64 = 84.0;
const NO_VALUE: &str = "#d7d9db";
/// From light to dark, so that the scale reads in grey too.
const SHADES: [[f64; 3]; 4] = [[240.0, 246.0, 252.0], [120.0, 182.0, 220.0], [22.0, 104.0, 172.0], [8.0, 34.0, 82.0]];

impl HeatMap {
    /// The chart as an SVG document.
    pub fn svg(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let rows = self.rows.len();
        let left = 44.0;
        let cell_width = ((WIDTH - left - 130.0) / columns.max(1) as f64).min(40.0);
        let cell_height = (480.0 / rows.max(1) as f64).clamp(4.0, 24.0);
        let bottom = TOP + cell_height * rows as f64;
        let mut canvas = Canvas::new(bottom.max(TOP + 130.0) + 56.0, &self.title, &self.subtitle);
        let (low, high) = self.range();
        for (r, row) in self.rows.iter().enumerate() {
            for (c, &value) in row.iter().enumerate() {
                let corner = (left + cell_width * c as f64, TOP + cell_height * r as f64);
                let colour = colour(value, low, high);
                let tip = format!("row {r}, column {c}: {}", self.unit.write(value));
                canvas.rect(corner, (cell_width, cell_height), &colour, &tip);
            }
        }
        for r in (0..rows).step_by(every(rows, cell_height, 12.0)) {
            let y = TOP + cell_height * (r as f64 + 0.5) + 4.0;
            canvas.text(left - 8.0, y, &r.to_string(), Anchor::End, Type::AXIS);
        }
        let number_width = text_width(&columns.to_string()) + 6.0;
        for c in (0..columns).step_by(every(columns, cell_width, number_width)) {
            let x = left + cell_width * (c as f64 + 0.5);
            canvas.text(x, bottom + 18.0, &c.to_string(), Anchor::Middle, Type::AXIS);
        }
        let middle = left + 0.5 * cell_width * columns as f64;
        canvas.text(middle, bottom + 40.0, &self.x_name, Anchor::Middle, Type::AXIS);
        canvas.text(20.0, TOP - 14.0, &self.y_name, Anchor::Start, Type::AXIS);
        self.draw_scale(&mut canvas, left + cell_width * columns as f64 + 24.0, low, high);
        canvas.finish()
    }

    fn range(&self) -> (f64, f64) {
        if let Some(range) = self.range {
            return range;
        }
        let finite = self.rows.iter().flatten().copied().filter(|v| v.is_finite());
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    }

    fn draw_scale(&self, canvas: &mut Canvas, x: f64, low: f64, high: f64) {
        if low > high {
            return;
        }
        const STEPS: usize = 24;
        let height = 120.0 / STEPS as f64;
        for step in 0..STEPS {
            let share = 1.0 - step as f64 / (STEPS - 1) as f64;
            let corner = (x, TOP + height * step as f64);
            canvas.rect(corner, (14.0, height + 0.5), &shade(share), "");
        }
        canvas.text(x + 20.0, TOP + 10.0, &self.unit.write(high), Anchor::Start, Type::AXIS);
        canvas.text(x + 20.0, TOP + 120.0, &self.unit.write(low), Anchor::Start, Type::AXIS);
    }
}

/// Every how many cells a number fits.
fn every(cells: usize, cell: f64, number: f64) -> usize {
    ((number / cell).ceil() as usize).clamp(1, cells.max(1))
}

fn colour(value: f64, low: f64, high: f64) -> String {
    if !value.is_finite() {
        return NO_VALUE.to_owned();
    }
    shade(if high > low { (value - low) / (high - low) } else { 0.5 })
}

fn shade(share: f64) -> String {
    let place = share.clamp(0.0, 1.0) * (SHADES.len() - 1) as f64;
    let below = (place as usize).min(SHADES.len() - 2);
    let part = place - below as f64;
    let mix = |i: usize| (SHADES[below][i] * (1.0 - part) + SHADES[below + 1][i] * part).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_is_darkest_and_missing_ones_are_grey() {
        let map = HeatMap { rows: vec![vec![0.0, 1.0], vec![f64::NAN, 0.5]], ..HeatMap::default() };
        let svg = map.svg();
        assert!(svg.contains(&shade(0.0)) && svg.contains(&shade(1.0)) && svg.contains(NO_VALUE));
        assert_eq!(shade(1.0), "#082252");
        assert!(svg.contains("row 0, column 1: 1<"));
    }

    #[test]
    fn a_given_range_decides_the_shades() {
        let map = HeatMap { rows: vec![vec![0.5]], range: Some((0.0, 1.0)), ..HeatMap::default() };
        assert!(map.svg().contains(&format!("fill=\"{}\"><title>", shade(0.5))));
    }

    #[test]
    fn many_rows_get_fewer_numbers_and_none_is_no_panic() {
        let map = HeatMap { rows: vec![vec![0.5; 300]; 200], ..HeatMap::default() };
        assert!(map.svg().matches("<text").count() < 120);
        assert!(HeatMap::default().svg().starts_with("<svg"));
    }
}
