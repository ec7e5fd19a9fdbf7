//! The little linear algebra that presses need: a Cholesky factor, and products with the model's own kernels.

use meden_kernels::matmul::{Activations, Matrix, matmul};

use super::view::LayerView;
use crate::error::EngineError;
use crate::model::Model;

/// A lower Cholesky factor of a symmetric matrix `(n, n)`, or `None` where it is not positive definite.
pub fn cholesky(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let rest = matrix[i * n + j] - dot(&l[i * n..][..j], &l[j * n..][..j]);
            if i == j {
                if rest.is_nan() || rest <= 0.0 {
                    return None;
                }
                l[i * n + i] = rest.sqrt();
            } else {
                l[i * n + j] = rest / l[j * n + j];
            }
        }
    }
    Some(l)
}

/// Lanes of a sum: the compiler may use vectors.
const LANES: usize = 8;

/// `a · b` of equal lengths, in eight sums whose order is the same on every machine.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in whole_a.zip(whole_b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// Solve `L Lᵀ x = b` in place.
pub fn solve(l: &[f64], x: &mut [f64]) {
    let n = x.len();
    for i in 0..n {
        x[i] = (x[i] - dot(&l[i * n..][..i], &x[..i])) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| l[k * n + i] * x[k]).sum();
        x[i] = (x[i] - dot) / l[i * n + i];
    }
}

/// `|L⁻¹ x|²`, which is `xᵀ (L Lᵀ)⁻¹ x`.
pub fn inverse_form(l: &[f64], x: &mut [f64]) -> f64 {
    let n = x.len();
    let mut sum = 0.0;
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| l[i * n + k] * x[k]).sum();
        x[i] = (x[i] - dot) / l[i * n + i];
        sum += x[i] * x[i];
    }
    sum
}

/// `rows (m, k) x matrixᵀ` on the model's kernels, for a matrix `(n, k)` in f32: `(m, n)`.
pub fn product(layer: &LayerView<'_>, rows: &[f32], matrix: Vec<f32>, k: usize) -> Result<Vec<f32>, EngineError> {
    let n = matrix.len() / k;
    let matrix = Matrix::from_f32(n, k, matrix, layer.model.isa())?;
    let mut out = vec![0.0; rows.len() / k * n];
    let mut activations = Activations::new();
    activations.set(layer.model.pool(), rows, k, layer.model.isa());
    matmul(layer.model.pool(), &activations, &matrix, &mut out)?;
    Ok(out)
}

/// A small trained layer, `y = W x + b`.
pub struct Trained {
    weight: Matrix,
    bias: Vec<f32>,
}

impl Trained {
    /// From a weight `(outputs, inputs)` and a bias `(outputs)`, empty for none.
    pub fn new(model: &Model, weight: &[f32], bias: &[f32], inputs: usize) -> Result<Trained, EngineError> {
        let weight = Matrix::from_f32(weight.len() / inputs, inputs, weight, model.isa())?;
        Ok(Trained { weight, bias: bias.to_vec() })
    }

    /// `(rows, inputs)` to `(rows, outputs)`.
    pub fn apply(&self, model: &Model, rows: &[f32]) -> Result<Vec<f32>, EngineError> {
        let (inputs, outputs) = (self.weight.cols(), self.weight.rows());
        let mut out = vec![0f32; rows.len() / inputs * outputs];
        let mut activations = Activations::new();
        activations.set(model.pool(), rows, inputs, model.isa());
        matmul(model.pool(), &activations, &self.weight, &mut out)?;
        if !self.bias.is_empty() {
            for row in out.chunks_exact_mut(outputs) {
                row.iter_mut().zip(&self.bias).for_each(|(y, b)| *y += b);
            }
        }
        Ok(out)
    }
}

/// The norm of what each value adds to the stream, `|Wo_h v_j|` with p = 1 or 2, averaged over the query heads of the
/// kv head: one row a kv head.
pub fn projected_norms(layer: &LayerView<'_>, p: u32) -> Result<Vec<Vec<f32>>, EngineError> {
    let group = layer.group();
    Ok(super::attention::group_mean(&projected_norms_by_query_head(layer, p)?, group))
}

/// The same, one row a query head.
pub fn projected_norms_by_query_head(layer: &LayerView<'_>, p: u32) -> Result<Vec<Vec<f32>>, EngineError> {
    let c = layer.config();
    let (dim, hidden, group) = (c.head_dim, c.hidden, c.group());
    let output = &layer.model.blocks[layer.layer].attention.o.weight; // (hidden, q_heads * head_dim)
    let mut whole = vec![0f32; hidden * output.cols()];
    for (r, row) in whole.chunks_exact_mut(output.cols()).enumerate() {
        output.row(r, row);
    }
    let mut norms = Vec::with_capacity(c.q_heads);
    for (number, head) in layer.heads.iter().enumerate() {
        let values = head.values();
        for q_head in number * group..(number + 1) * group {
            let mut row = vec![0f32; head.len()];
            let slice: Vec<f32> =
                whole.chunks_exact(output.cols()).flat_map(|r| &r[q_head * dim..(q_head + 1) * dim]).copied().collect();
            let matrix = Matrix::from_f32(hidden, dim, slice, layer.model.isa())?;
            let mut activations = Activations::new();
            // a few hundred tokens at a time: (tokens, hidden) floats are never held for the whole text
            for (block, out) in values.chunks(256 * dim).zip(row.chunks_mut(256)) {
                activations.set(layer.model.pool(), block, dim, layer.model.isa());
                let mut projected = vec![0f32; out.len() * hidden];
                matmul(layer.model.pool(), &activations, &matrix, &mut projected)?;
                for (norm, added) in out.iter_mut().zip(projected.chunks_exact(hidden)) {
                    let sum = match p {
                        1 => added.iter().map(|x| x.abs()).sum::<f32>(),
                        _ => added.iter().map(|x| x * x).sum::<f32>().sqrt(),
                    };
                    *norm = sum;
                }
            }
            norms.push(row);
        }
    }
    Ok(norms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cholesky_factor_solves_its_matrix() {
        let l = cholesky(&[4.0, 2.0, 2.0, 3.0], 2).unwrap();
        // inverse of [[4, 2], [2, 3]] is [[3, -2], [-2, 4]] / 8
        assert!((inverse_form(&l, &mut [1.0, 1.0]) - 3.0 / 8.0).abs() < 1e-12);
        assert!(cholesky(&[1.0, 2.0, 2.0, 1.0], 2).is_none());
    }
}
