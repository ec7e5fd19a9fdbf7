//! Eigenvectors of symmetric matrices by Jacobi's rotations: slow for thousands of columns, exact to the last digits.

/// Sweeps at most; ten are enough for any matrix in practice.
const SWEEPS: usize = 30;

/// Eigenvalues, largest first, with their eigenvectors of length 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Eigen {
    /// Eigenvalues (n).
    pub values: Vec<f64>,
    /// Eigenvectors as rows (n, n), in the order of the values.
    pub vectors: Vec<f64>,
}

/// All of a symmetric matrix `(n, n)`.
///
/// # Panics
/// If the matrix does not hold `n * n` values.
pub fn symmetric(mut a: Vec<f64>, n: usize) -> Eigen {
    assert_eq!(a.len(), n * n, "a matrix of {n} rows and columns");
    let mut vectors = vec![0.0; n * n]; // rows are the eigenvectors so far
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let total: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..SWEEPS {
        let off: f64 = (0..n * n).filter(|at| at / n != at % n).map(|at| a[at] * a[at]).sum();
        if off <= total * 1e-24 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, n, (p, q));
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]));
    Eigen {
        values: order.iter().map(|&i| a[i * n + i]).collect(),
        vectors: order.iter().flat_map(|&i| vectors[i * n..(i + 1) * n].iter().copied()).collect(),
    }
}

/// One rotation that makes `a[p][q]` zero.
fn rotate(a: &mut [f64], vectors: &mut [f64], n: usize, (p, q): (usize, usize)) {
    let off = a[p * n + q];
    if off == 0.0 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * off);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let (c, s) = (1.0 / (t * t + 1.0).sqrt(), t / (t * t + 1.0).sqrt());
    for k in 0..n {
        let (x, y) = (a[k * n + p], a[k * n + q]);
        a[k * n + p] = c * x - s * y;
        a[k * n + q] = s * x + c * y;
    }
    for matrix in [&mut *a, &mut *vectors] {
        for k in 0..n {
            let (x, y) = (matrix[p * n + k], matrix[q * n + k]);
            matrix[p * n + k] = c * x - s * y;
            matrix[q * n + k] = s * x + c * y;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::symmetric;

    #[test]
    fn the_largest_eigenvector_is_found() {
        let n = 9;
        // a symmetric matrix with a known top vector: 5 u uᵀ + small noise that is orthogonal to u
        let u: Vec<f64> = (0..n).map(|i| (i as f64 + 1.0) / 285f64.sqrt()).collect();
        let w: Vec<f64> = (0..n).map(|i| (i as f64 * 1.7).sin()).collect();
        let along: f64 = w.iter().zip(&u).map(|(w, u)| w * u).sum();
        let w: Vec<f64> = w.iter().zip(&u).map(|(w, u)| w - along * u).collect();
        let a = (0..n * n).map(|at| 5.0 * u[at / n] * u[at % n] + 0.3 * w[at / n] * w[at % n]).collect();
        let eigen = symmetric(a, n);
        let dot: f64 = eigen.vectors[..n].iter().zip(&u).map(|(v, u)| v * u).sum();
        assert!((dot.abs() - 1.0).abs() < 1e-10, "{dot}");
    }

    #[test]
    fn values_and_vectors_make_the_matrix_again() {
        let n = 12;
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let x = ((i * 7 + j * 13) as f64 * 0.61).sin();
                (a[i * n + j], a[j * n + i]) = (x, x);
            }
        }
        let eigen = symmetric(a.clone(), n);
        assert!(eigen.values.windows(2).all(|w| w[0] >= w[1]));
        for i in 0..n {
            for j in 0..n {
                let row = |v: usize| &eigen.vectors[v * n..(v + 1) * n];
                let made: f64 = (0..n).map(|v| eigen.values[v] * row(v)[i] * row(v)[j]).sum();
                assert!((made - a[i * n + j]).abs() < 1e-12, "{i} {j}");
                let dot: f64 = row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum();
                assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
    }
}
