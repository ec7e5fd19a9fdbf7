//! Classes by nearest neighbours in cosine similarity.

use meden_kernels::gemm::{Options, Panels, View, gemm};
use meden_kernels::{Isa, Pool};

use crate::error::VisionError;

/// Queries compared at once.
const QUERIES: usize = 256;

/// Divides each row by its Euclidean norm; a row of zeros stays.
pub fn normalise(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width.max(1)) {
        let norm = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
        }
    }
}

/// The class of each query by the votes of its `k` nearest known rows, each vote weighing `e^(similarity / 0.07)` as in
/// DINO's evaluation. `known` (n, width) with `labels`, `queries` (m, width): rows are normalised here. Ties go to the
/// smaller class, and among equally near rows to the earlier one.
///
/// # Errors
/// Lengths that do not fit, no known row, or a label that is no class.
pub fn knn(
    pool: &Pool,
    (known, labels): (&[f32], &[usize]),
    queries: &[f32],
    (width, classes): (usize, usize),
    k: usize,
) -> Result<Vec<usize>, VisionError> {
    let bad = |why: String| Err(VisionError::input("nearest neighbours", why));
    if width == 0 || known.len() != labels.len() * width || !queries.len().is_multiple_of(width) {
        return bad(format!("{} labels and {} values of width {width} do not fit", labels.len(), known.len()));
    }
    if labels.is_empty() || k == 0 {
        return bad("there has to be at least one known row and one neighbour".into());
    }
    if let Some(label) = labels.iter().find(|l| **l >= classes) {
        return bad(format!("label {label} is none of {classes} classes"));
    }
    let (mut known, mut queries) = (known.to_vec(), queries.to_vec());
    normalise(&mut known, width);
    normalise(&mut queries, width);
    let panels = Panels::of(pool, View::new(&known, width).transposed());
    let mut found = Vec::with_capacity(queries.len() / width);
    for some in queries.chunks(QUERIES * width) {
        let mut near = vec![0.0; some.len() / width * labels.len()];
        gemm(pool, Isa::best(), View::new(some, width), &panels, &mut near, Options::default());
        found.extend(near.chunks_exact(labels.len()).map(|near| vote(near, labels, classes, k)));
    }
    Ok(found)
}

fn vote(near: &[f32], labels: &[usize], classes: usize, k: usize) -> usize {
    let mut order: Vec<usize> = (0..near.len()).collect();
    let by_nearness = |a: &usize, b: &usize| near[*b].total_cmp(&near[*a]).then(a.cmp(b));
    let k = k.min(order.len());
    order.select_nth_unstable_by(k - 1, by_nearness);
    order[..k].sort_by(by_nearness);
    let mut votes = vec![0f64; classes];
    for &i in &order[..k] {
        votes[labels[i]] += (f64::from(near[i]) / 0.07).exp();
    }
    let best = votes.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.map_or(0, |(class, _)| class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_vote_by_angle_not_by_length() {
        let known = [1.0, 0.0, 10.0, 1.0, 0.0, 2.0, 0.1, 3.0];
        let pool = Pool::new(1);
        let found = knn(&pool, (&known, &[0, 0, 1, 1]), &[5.0, 0.5, 0.0, 0.1], (2, 2), 3).unwrap();
        assert_eq!(found, [0, 1]);
        assert!(knn(&pool, (&known, &[0, 0, 1, 7]), &[5.0, 0.5], (2, 2), 3).is_err());
        assert!(knn(&pool, (&[], &[]), &[5.0, 0.5], (2, 2), 3).is_err());
        assert_eq!(knn(&pool, (&known, &[0, 0, 1, 1]), &[1.0, 0.0], (2, 2), 100).unwrap(), [0]);
    }
}
