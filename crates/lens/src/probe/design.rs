//! Features as a solver wants them: column by column, in f64, of comparable size.

use super::{ProbeError, Rows};

/// Mean and standard deviation of each feature over the training rows. A feature that never changes gets a scale of 1,
/// so that it becomes zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Standard {
    /// Mean, one a feature.
    pub mean: Vec<f64>,
    /// Standard deviation (divisor n), one a feature; never 0.
    pub scale: Vec<f64>,
}

impl Standard {
    /// Of these rows, in two passes.
    pub fn of(rows: &Rows) -> Standard {
        let (n, width) = (rows.len().max(1) as f64, rows.width());
        let mut mean = vec![0.0; width];
        for row in 0..rows.len() {
            mean.iter_mut().zip(rows.row(row)).for_each(|(m, &v)| *m += f64::from(v) / n);
        }
        let mut scale = vec![0.0; width];
        for row in 0..rows.len() {
            for ((s, m), &v) in scale.iter_mut().zip(&mean).zip(rows.row(row)) {
                *s += (f64::from(v) - m).powi(2) / n;
            }
        }
        scale.iter_mut().zip(&mean).for_each(|(s, m)| {
            let deviation = s.sqrt();
            // below this the deviation is rounding of the mean
            *s = if deviation > 1e-12 * m.abs() && deviation > 0.0 { deviation } else { 1.0 };
        });
        Standard { mean, scale }
    }

    /// Mean 0 and scale 1: features as they are.
    pub fn none(width: usize) -> Standard {
        Standard { mean: vec![0.0; width], scale: vec![1.0; width] }
    }
}

/// Features of all rows, column-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Design {
    columns: Vec<f64>,
    rows: usize,
}

impl Design {
    /// The rows' features, each less its mean and divided by its scale.
    pub fn new(rows: &Rows, standard: &Standard) -> Design {
        let (n, width) = (rows.len(), rows.width());
        let mut columns = vec![0.0; n * width];
        for row in 0..n {
            for (column, &value) in rows.row(row).iter().enumerate() {
                columns[column * n + row] = (f64::from(value) - standard.mean[column]) / standard.scale[column];
            }
        }
        Design { columns, rows: n }
    }

    /// Columns given one after the other, each of `rows` values.
    ///
    /// # Errors
    /// Values that are no whole columns, or not finite.
    pub fn from_columns(columns: Vec<f64>, rows: usize) -> Result<Design, ProbeError> {
        if rows == 0 || !columns.len().is_multiple_of(rows) {
            return Err(ProbeError::Width { found: columns.len(), needed: rows });
        }
        if let Some(at) = columns.iter().position(|v| !v.is_finite()) {
            return Err(ProbeError::NotFinite { row: at % rows, column: at / rows, value: columns[at] });
        }
        Ok(Design { columns, rows })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of features.
    pub fn width(&self) -> usize {
        self.columns.len().checked_div(self.rows).unwrap_or(0)
    }

    /// A feature of all rows.
    pub fn column(&self, column: usize) -> &[f64] {
        &self.columns[column * self.rows..][..self.rows]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_get_mean_zero_and_scale_one_and_constant_ones_become_zero() {
        let rows = Rows::new(vec![500.0, 7.5, 502.0, 7.5, 504.0, 7.5], 2).unwrap();
        let standard = Standard::of(&rows);
        assert_eq!(standard.mean, [502.0, 7.5]);
        assert_eq!(standard.scale[1], 1.0);
        let design = Design::new(&rows, &standard);
        assert!(design.column(0).iter().sum::<f64>().abs() < 1e-12);
        assert!((design.column(0).iter().map(|v| v * v).sum::<f64>() - 3.0).abs() < 1e-12);
        assert_eq!(design.column(1), [0.0; 3]);
        assert!(matches!(Design::from_columns(vec![1.0; 3], 2), Err(ProbeError::Width { .. })));
    }
}
