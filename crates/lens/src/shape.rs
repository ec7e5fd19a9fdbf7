//! How the rows of some places are spread, layer by layer: means of the measures of single rows.

use meden_stats::Distribution;
use meden_stats::moments::Moments;
use serde::Serialize;

use crate::capture::Captured;
use crate::error::LensError;
use crate::place::Place;

/// Channels of largest variance that are left out, in turn, for [`PlaceShape::excess_kurtosis_without`]: whether an
/// effect is only that of a few massive channels.
pub const WITHOUT: [usize; 4] = [0, 1, 4, 16];

/// The measures of a place's rows.
#[derive(Clone, Debug, Serialize)]
pub struct PlaceShape {
    /// Where.
    pub place: Place,
    /// Rows.
    pub rows: usize,
    /// Mean over rows of each measure, in the order of [`Distribution::NAMES`]; not a number where a row has none.
    pub mean: Vec<f64>,
    /// Standard deviation over rows (n - 1).
    pub deviation: Vec<f64>,
    /// Mean over rows of the excess kurtosis without the channels of largest variance over rows, as many as [`WITHOUT`]
    /// says; empty for fewer than two rows, which have no variance.
    pub excess_kurtosis_without: Vec<f64>,
}

/// Measures of one captured row.
///
/// # Errors
/// A value that is not finite, with its layer and position; a row that is not there.
pub fn row_shape(captured: &Captured, place: Place, row: usize) -> Result<Distribution, LensError> {
    let values = captured.row(place, row);
    let values = values.ok_or_else(|| LensError::setting("place", place, "it was not captured"))?;
    Distribution::of(values.iter().map(|&v| f64::from(v))).ok_or_else(|| LensError::NotFinite {
        site: place.site.name().to_owned(),
        layer: place.layer,
        position: captured.rows()[row].position,
    })
}

/// Measures of every captured place.
///
/// # Errors
/// As [`row_shape`]; nothing captured.
pub fn shapes(captured: &Captured) -> Result<Vec<PlaceShape>, LensError> {
    let rows = captured.rows().len();
    if rows == 0 {
        return Err(LensError::setting("rows", 0, "capture at least one"));
    }
    let mut all = Vec::new();
    for &place in captured.places() {
        let mut moments = [Moments::default(); Distribution::NAMES.len()];
        for row in 0..rows {
            let measures = row_shape(captured, place, row)?.measures();
            moments.iter_mut().zip(measures).for_each(|(m, value)| m.push(value));
        }
        all.push(PlaceShape {
            place,
            rows,
            mean: moments.iter().map(Moments::mean).collect(),
            deviation: moments.iter().map(Moments::deviation).collect(),
            excess_kurtosis_without: without(captured, place),
        });
    }
    Ok(all)
}

fn without(captured: &Captured, place: Place) -> Vec<f64> {
    let (Some(matrix), Some(width)) = (captured.matrix(place), captured.width(place)) else { return Vec::new() };
    let rows = matrix.len() / width.max(1);
    if rows < 2 {
        return Vec::new();
    }
    let variance =
        |channel: usize| Moments::of((0..rows).map(|row| f64::from(matrix[row * width + channel]))).variance();
    let mut order: Vec<(f64, usize)> = (0..width).map(|channel| (variance(channel), channel)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let kurtosis = |left_out: usize| {
        let mut kept = vec![true; width];
        order.iter().take(left_out).for_each(|&(_, channel)| kept[channel] = false);
        let row = |row: &[f32]| {
            let values = row.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(&v, _)| f64::from(v));
            Distribution::of(values).map_or(f64::NAN, |d| d.kurtosis - 3.0)
        };
        Moments::of(matrix.chunks_exact(width).map(row)).mean()
    };
    WITHOUT.iter().map(|&k| kurtosis(k)).collect()
}
