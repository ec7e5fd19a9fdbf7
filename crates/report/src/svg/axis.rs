//! Scales, round tick values and how they are written.

use super::canvas::{Anchor, Canvas, GRID, Type};
use crate::human;

/// What the numbers of an axis are, which decides where its ticks fall and how they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Numbers as they are, thousands separated.
    #[default]
    Plain,
    /// Bytes, with binary units.
    Bytes,
    /// Shares of one, written as percentages.
    Share,
}

impl Unit {
    /// `value` as written beside a tick or a bar.
    pub(super) fn write(self, value: f64) -> String {
        match self {
            Unit::Bytes => {
                let text = human::bytes(value.max(0.0).round() as u64);
                text.replace(".00 ", " ").replace(".0 ", " ")
            }
            Unit::Share => trim_zeros(format!("{:.1}", value * 100.0)) + "%",
            Unit::Plain if value.abs() >= 1000.0 => {
                let sign = if value < 0.0 { "-" } else { "" };
                format!("{sign}{}", human::count(value.abs().round() as u64))
            }
            Unit::Plain => trim_zeros(format!("{value:.3}")),
        }
    }
}

fn trim_zeros(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A linear scale from values to pixels, with its ticks.
pub(super) struct Axis {
    pub(super) unit: Unit,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis over `values` (those that are finite) between the pixels `span`, widened to round numbers.
    pub(super) fn new(values: impl Iterator<Item = f64>, unit: Unit, from_zero: bool, span: (f64, f64)) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|v| v.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if from_zero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        if low == high {
            high = low + low.abs().max(1.0);
        }
        let step = step(low, high, unit);
        Axis {
            unit,
            low: (low / step).floor() * step,
            high: (high / step - 1e-9).ceil() * step,
            from: span.0,
            to: span.1,
        }
    }

    /// The pixel of `value`.
    pub(super) fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Round values from one end to the other.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let step = step(self.low, self.high, self.unit);
        let count = ((self.high - self.low) / step).round() as usize;
        (0..=count.min(50)).map(|i| self.low + step * i as f64).collect()
    }

    /// Draws this axis as the vertical one: light lines across, numbers at the left of `left`.
    pub(super) fn draw_across(&self, canvas: &mut Canvas, left: f64, right: f64) {
        for tick in self.ticks() {
            let y = self.at(tick);
            canvas.segment((left, y), (right, y), GRID, false);
            let face = Type::AXIS;
            canvas.text(left - 8.0, y + 4.0, &self.unit.write(tick), Anchor::End, face);
        }
    }

    /// Draws this axis as the horizontal one: numbers under `bottom`.
    pub(super) fn draw_along(&self, canvas: &mut Canvas, bottom: f64) {
        for tick in self.ticks() {
            let text = self.unit.write(tick);
            canvas.text(self.at(tick), bottom + 18.0, &text, Anchor::Middle, Type::AXIS);
        }
    }
}

/// A round step that gives about five ticks: 1, 2 or 5 times a power of ten, or a power of two for bytes.
fn step(low: f64, high: f64, unit: Unit) -> f64 {
    let rough = (high - low) / 5.0;
    if unit == Unit::Bytes {
        return rough.log2().ceil().exp2().max(1.0);
    }
    let power = 10f64.powf(rough.log10().floor());
    let lead = rough / power;
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|r| lead <= r * 1.000_001);
    round.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(values: &[f64], unit: Unit, zero: bool) -> Vec<String> {
        let axis = Axis::new(values.iter().copied(), unit, zero, (0.0, 100.0));
        axis.ticks().into_iter().map(|t| unit.write(t)).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(&[0.0, 4100.0], Unit::Plain, true), ["0", "1,000", "2,000", "3,000", "4,000", "5,000"]);
        assert_eq!(ticks(&[0.12, 0.31], Unit::Share, false), ["10%", "15%", "20%", "25%", "30%", "35%"]);
        let mib = 1024.0 * 1024.0;
        assert_eq!(ticks(&[3.0 * mib, 90.0 * mib], Unit::Bytes, true), ["0 B", "32 MiB", "64 MiB", "96 MiB"]);
        assert_eq!(ticks(&[-3.0, 3.0], Unit::Plain, false), ["-4", "-2", "0", "2", "4"]);
    }

    #[test]
    fn no_values_equal_values_and_nan_still_give_an_axis() {
        for values in [&[][..], &[f64::NAN], &[7.0], &[0.0, f64::INFINITY]] {
            let axis = Axis::new(values.iter().copied(), Unit::Plain, false, (0.0, 100.0));
            assert!(axis.ticks().len() >= 2);
            assert!(axis.at(axis.ticks()[0]).is_finite());
        }
    }
}
