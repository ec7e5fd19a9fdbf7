//! Eigenvectors of a symmetric matrix by Jacobi's rotations.

/// The eigenvector of the largest eigenvalue of a symmetric matrix `(n, n)`, of length 1.
pub(super) fn largest(mut a: Vec<f64>, n: usize) -> Vec<f64> {
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
    let best = (0..n).max_by(|&i, &j| a[i * n + i].total_cmp(&a[j * n + j])).unwrap_or(0);
    vectors[best * n..(best + 1) * n].to_vec()
}

const SWEEPS: usize = 30;

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
    use super::largest;

    #[test]
    fn the_largest_eigenvector_is_found() {
        let n = 9;
        // a symmetric matrix with a known top vector: 5 u uᵀ + small noise that is orthogonal to u
        let u: Vec<f64> = (0..n).map(|i| (i as f64 + 1.0) / 285f64.sqrt()).collect();
        let w: Vec<f64> = (0..n).map(|i| (i as f64 * 1.7).sin()).collect();
        let along: f64 = w.iter().zip(&u).map(|(w, u)| w * u).sum();
        let w: Vec<f64> = w.iter().zip(&u).map(|(w, u)| w - along * u).collect();
        let a = (0..n * n).map(|at| 5.0 * u[at / n] * u[at % n] + 0.3 * w[at / n] * w[at % n]).collect();
        let v = largest(a, n);
        let dot: f64 = v.iter().zip(&u).map(|(v, u)| v * u).sum();
        assert!((dot.abs() - 1.0).abs() < 1e-10, "{dot}");
    }
}
