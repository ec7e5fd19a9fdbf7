//! Spectral editing of activations (SEA, arXiv 2405.09719): a row is projected onto what varies with the rows that are
//! wanted, and off what varies with those that are not.
//!
//! `y = P₊ x + P₋ x`, brought back to the length of `x`. `P₊ = U Uᵀ` holds the first left singular vectors of the
//! cross-covariance of neutral rows with the wanted ones, `P₋ = I - V Vᵀ` leaves out those of the other ones. The variant
//! with a squared exponential does so to `φ(x) = exp(-x²/2)`, value by value, and goes back through `φ⁻¹` with the signs
//! that the row had.

use super::edit::{Toward, norm};

/// Directions of both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectral {
    /// Orthonormal rows (any number, d): what varies with following the context.
    pub context: Vec<f32>,
    /// The same with memory.
    pub memory: Vec<f32>,
    /// Values of a row.
    pub d: usize,
    /// Whether rows are projected behind the squared exponential.
    pub squared_exponential: bool,
}

/// `φ` is never quite 0; below this a value would come back as no number.
const LEAST: f32 = 1e-12;

impl Spectral {
    /// Moves a row by `s` of the way to its edited form. A row that nothing is left of stays as it is.
    pub fn apply(&self, row: &mut [f32], toward: Toward, s: f32) {
        let (wanted, other) = match toward {
            Toward::Context => (&self.context, &self.memory),
            Toward::Memory => (&self.memory, &self.context),
        };
        let mut x = row.to_vec();
        if self.squared_exponential {
            x.iter_mut().for_each(|v| *v = (-0.5 * *v * *v).exp());
        }
        // P₊ x + x - V Vᵀ x
        let mut y = x.clone();
        for (basis, sign) in [(wanted, 1.0f32), (other, -1.0)] {
            for direction in basis.chunks_exact(self.d) {
                let along: f64 = x.iter().zip(direction).map(|(&x, &u)| f64::from(x) * f64::from(u)).sum();
                y.iter_mut().zip(direction).for_each(|(y, u)| *y += sign * along as f32 * u);
            }
        }
        if self.squared_exponential {
            for (y, &before) in y.iter_mut().zip(&*row) {
                *y = (-2.0 * y.clamp(LEAST, 1.0).ln()).sqrt().copysign(before);
            }
        }
        let (length, now) = (norm(row), norm(&y));
        if now > 0.0 {
            row.iter_mut().zip(&y).for_each(|(h, y)| *h += s * (y * length / now - *h));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn along(axis: usize, d: usize) -> Vec<f32> {
        (0..d).map(|i| if i == axis { 1.0 } else { 0.0 }).collect()
    }

    #[test]
    fn what_is_wanted_grows_what_is_not_goes_and_the_length_stays() {
        let edit = Spectral { context: along(0, 3), memory: along(1, 3), d: 3, squared_exponential: false };
        let mut row = [1.0, 2.0, 2.0];
        edit.apply(&mut row, Toward::Context, 1.0);
        // (2, 0, 2) at length 3
        let by = 3.0 / 8f32.sqrt();
        assert!((row[0] - 2.0 * by).abs() < 1e-6 && row[1].abs() < 1e-6 && (row[2] - 2.0 * by).abs() < 1e-6, "{row:?}");
        let mut half = [1.0, 2.0, 2.0];
        edit.apply(&mut half, Toward::Context, 0.5);
        assert!((half[1] - 1.0).abs() < 1e-6);
        let mut back = [1.0, 2.0, 2.0];
        edit.apply(&mut back, Toward::Memory, 1.0);
        assert!(back[0].abs() < 1e-6 && back[1] > 2.0);
    }

    #[test]
    fn the_squared_exponential_without_directions_is_no_edit_and_keeps_signs() {
        let mut edit = Spectral { context: vec![], memory: vec![], d: 4, squared_exponential: true };
        let before = [0.5f32, -1.25, 2.0, -0.125];
        let mut row = before;
        edit.apply(&mut row, Toward::Context, 1.0);
        assert!(row.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-4), "{row:?}");
        edit.memory = along(1, 4);
        edit.apply(&mut row, Toward::Context, 1.0);
        assert!(row.iter().zip(&before).all(|(a, b)| a.signum() == b.signum() && a.is_finite()), "{row:?}");
        assert!(row[1].abs() > 1.25, "a projected feature of 0 is far out: {row:?}");
    }
}
