//! Edits that need no autoencoder: differences of means in several forms, a principal component, spectral editing.

use std::collections::BTreeMap;

use meden_engine::press::linear::{cholesky, solve};
use meden_lens::steer::edit::means;
use meden_lens::steer::{Edit, Spectral};
use meden_stats::eigen;

use super::collect::RowOf;
use super::fit::Method;
use crate::error::EvalError;

/// Share of the squared singular values that the kept directions of spectral editing hold, as published.
const SHARE: f64 = 0.99;
/// Added to the covariance before it is inverted, as a share of its mean variance.
const RIDGE: f64 = 0.1;

/// Rows, `(rows, d)`, and where they come from.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub values: &'a [f32],
    pub d: usize,
    pub of: &'a [RowOf],
    pub labels: &'a [bool],
}

/// The edit of a method.
///
/// # Errors
/// Rows of one source only; no fact with rows of both where a method compares within facts.
pub(super) fn edit(rows: Rows<'_>, method: Method) -> Result<Edit, EvalError> {
    let none = || EvalError::Prompt { why: "rows of both sources are needed".into() };
    let [difference, context, memory] = means(rows.values, rows.labels, rows.d).ok_or_else(none)?;
    let length = norm(&difference);
    Ok(match method {
        Method::MeansKeepNorm => Edit::Add { vector: difference, keep_norm: true },
        Method::TaskVector => Edit::Replace { context, memory },
        Method::Whitened => {
            Edit::Add { vector: scaled(&whitened(rows, [&context, &memory], &difference)?, length), keep_norm: false }
        }
        Method::Principal => {
            Edit::Add { vector: scaled(&principal(&pairs(rows)?, &difference), length), keep_norm: false }
        }
        Method::Sea | Method::SeaExp => Edit::Spectral(spectral(&pairs(rows)?, rows.d, method == Method::SeaExp)),
        Method::Projection => {
            let direction = scaled(&difference.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>(), 1.0);
            let along = |row: &[f32]| {
                row.iter().zip(&direction).map(|(&h, &u)| f64::from(h) * f64::from(u)).sum::<f64>() as f32
            };
            Edit::Project { targets: [along(&context), along(&memory)], direction }
        }
        _ => Edit::Add { vector: difference, keep_norm: false },
    })
}

fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

fn scaled(direction: &[f64], length: f64) -> Vec<f32> {
    let now = direction.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    direction.iter().map(|v| (v * length / now) as f32).collect()
}

/// Linear discriminant: the inverse covariance within the groups times the difference of their means.
fn whitened(rows: Rows<'_>, means: [&[f32]; 2], difference: &[f32]) -> Result<Vec<f64>, EvalError> {
    let d = rows.d;
    let mut covariance = vec![0f64; d * d];
    let mut centred = vec![0f64; d];
    for (row, &context) in rows.values.chunks_exact(d).zip(rows.labels) {
        let mean = means[usize::from(!context)];
        centred.iter_mut().zip(row.iter().zip(mean)).for_each(|(c, (&h, &m))| *c = f64::from(h) - f64::from(m));
        for i in 0..d {
            let by = centred[i];
            covariance[i * d..=i * d + i].iter_mut().zip(&centred).for_each(|(c, x)| *c += by * x);
        }
    }
    let ridge = RIDGE * (0..d).map(|i| covariance[i * d + i]).sum::<f64>() / d as f64;
    for i in 0..d {
        covariance[i * d + i] += ridge.max(f64::MIN_POSITIVE);
        for j in 0..i {
            covariance[j * d + i] = covariance[i * d + j];
        }
    }
    let l = cholesky(&covariance, d)
        .ok_or_else(|| EvalError::Prompt { why: "the rows' covariance has no inverse: collect more facts".into() })?;
    let mut direction: Vec<f64> = difference.iter().map(|&v| f64::from(v)).collect();
    solve(&l, &mut direction);
    Ok(direction)
}

/// Of each fact with rows of both sources their means: context, memory.
struct Pairs {
    context: Vec<Vec<f64>>,
    memory: Vec<Vec<f64>>,
}

fn pairs(rows: Rows<'_>) -> Result<Pairs, EvalError> {
    let mut by_fact: BTreeMap<String, [(Vec<f64>, usize); 2]> = BTreeMap::new();
    for ((row, of), &context) in rows.values.chunks_exact(rows.d).zip(rows.of).zip(rows.labels) {
        // relation/subject/…
        let fact: String = of.key.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
        let sides = by_fact.entry(fact).or_insert_with(|| [(vec![0.0; rows.d], 0), (vec![0.0; rows.d], 0)]);
        let (sum, count) = &mut sides[usize::from(!context)];
        sum.iter_mut().zip(row).for_each(|(s, &h)| *s += f64::from(h));
        *count += 1;
    }
    let mut all = Pairs { context: Vec::new(), memory: Vec::new() };
    for [(context, c), (memory, m)] in by_fact.into_values().filter(|sides| sides.iter().all(|s| s.1 > 0)) {
        all.context.push(context.iter().map(|s| s / c as f64).collect());
        all.memory.push(memory.iter().map(|s| s / m as f64).collect());
    }
    if all.context.len() < 2 {
        let why = format!(
            "{} facts were answered from the text once and from memory once; this method compares within facts and needs \
             at least 2",
            all.context.len()
        );
        return Err(EvalError::Prompt { why });
    }
    Ok(all)
}

/// First principal component of the differences within facts, as repeng's `pca_diff` has it: they are centred, so a shift
/// that all have in common is taken off; signed as most of them are.
fn principal(pairs: &Pairs, difference: &[f32]) -> Vec<f64> {
    let (n, d) = (pairs.context.len(), difference.len());
    let mut rows: Vec<Vec<f64>> =
        pairs.context.iter().zip(&pairs.memory).map(|(c, m)| c.iter().zip(m).map(|(c, m)| c - m).collect()).collect();
    let raw = rows.clone();
    let mean: Vec<f64> = (0..d).map(|i| rows.iter().map(|r| r[i]).sum::<f64>() / n as f64).collect();
    rows.iter_mut().for_each(|row| row.iter_mut().zip(&mean).for_each(|(r, m)| *r -= m));
    // the rows are fewer than the columns: their products tell the same directions
    let top = eigen::symmetric(gram(&rows, &rows), n).vectors[..n].to_vec();
    let mut direction = vec![0f64; d];
    rows.iter().zip(&top).for_each(|(row, by)| direction.iter_mut().zip(row).for_each(|(d, r)| *d += by * r));
    let with = raw.iter().filter(|row| row.iter().zip(&direction).map(|(a, b)| a * b).sum::<f64>() > 0.0).count();
    if 2 * with < n {
        direction.iter_mut().for_each(|v| *v = -*v);
    }
    direction
}

fn spectral(pairs: &Pairs, d: usize, squared_exponential: bool) -> Spectral {
    let feature = |rows: &[Vec<f64>]| -> Vec<Vec<f64>> {
        let of = |x: f64| if squared_exponential { (-0.5 * x * x).exp() } else { x };
        rows.iter().map(|row| row.iter().map(|&x| of(x)).collect()).collect()
    };
    // the neutral row of a fact is the mean of both
    let neutral: Vec<Vec<f64>> = pairs
        .context
        .iter()
        .zip(&pairs.memory)
        .map(|(c, m)| c.iter().zip(m).map(|(c, m)| 0.5 * (c + m)).collect())
        .collect();
    let neutral = feature(&neutral);
    let side = |rows: &[Vec<f64>]| left_vectors(&neutral, &feature(rows));
    Spectral { context: side(&pairs.context), memory: side(&pairs.memory), d, squared_exponential }
}

/// The first left singular vectors of `H Gᵀ` (columns of H and G are the rows given), as many as hold [`SHARE`] of the
/// squared singular values: `H Gᵀ G Hᵀ = Q (R K Rᵀ) Qᵀ` with `H = Q R` and `K = Gᵀ G`.
fn left_vectors(h: &[Vec<f64>], g: &[Vec<f64>]) -> Vec<f32> {
    let d = h[0].len();
    let n = h.len();
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for row in h {
        let before = dot(row, row);
        let mut rest = row.clone();
        // twice: once leaves rounding behind that is not orthogonal
        for _ in 0..2 {
            for q in &basis {
                let along = dot(&rest, q);
                rest.iter_mut().zip(q).for_each(|(r, q)| *r -= along * q);
            }
        }
        let left = dot(&rest, &rest);
        if left > 1e-12 * before {
            let by = 1.0 / left.sqrt();
            basis.push(rest.iter().map(|r| r * by).collect());
        }
    }
    let m = basis.len();
    let r = gram(&basis, h); // (m, n)
    let k = gram(g, g); // (n, n)
    let mut rk = vec![0f64; m * n];
    for i in 0..m {
        for j in 0..n {
            rk[i * n + j] = (0..n).map(|t| r[i * n + t] * k[t * n + j]).sum();
        }
    }
    let mut small = vec![0f64; m * m];
    for i in 0..m {
        for j in 0..=i {
            let x = dot(&rk[i * n..(i + 1) * n], &r[j * n..(j + 1) * n]);
            (small[i * m + j], small[j * m + i]) = (x, x);
        }
    }
    let eigen = eigen::symmetric(small, m);
    let total: f64 = eigen.values.iter().map(|v| v.max(0.0)).sum();
    let mut held = 0.0;
    let mut out = Vec::new();
    for (value, vector) in eigen.values.iter().zip(eigen.vectors.chunks_exact(m.max(1))) {
        if held >= SHARE * total {
            break;
        }
        held += value.max(0.0);
        let mut direction = vec![0f64; d];
        basis.iter().zip(vector).for_each(|(q, by)| direction.iter_mut().zip(q).for_each(|(d, q)| *d += by * q));
        out.extend(direction.iter().map(|&v| v as f32));
    }
    out
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Products of all rows of `a` with all rows of `b`.
fn gram(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<f64> {
    a.iter().flat_map(|x| b.iter().map(|y| dot(x, y)).collect::<Vec<f64>>()).collect()
}

#[cfg(test)]
mod tests {
    use meden_lens::steer::Toward;
    use meden_stats::Rng;

    use super::*;
    use crate::study::conflict::prompt::Demos;

    const D: usize = 12;

    /// Facts whose rows differ by source along axis 0, with large noise of both kinds along axis 1.
    fn rows() -> (Vec<f32>, Vec<RowOf>, Vec<bool>) {
        let (mut values, mut of, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for fact in 0..40u32 {
            let mut rng = Rng::new(7, u64::from(fact));
            for context in [true, false] {
                let mut row: Vec<f32> = (0..D).map(|_| 0.1 * rng.normal() as f32).collect();
                let share = rng.uniform() as f32;
                row[0] += if context { 1.0 + share } else { -1.0 - share };
                row[1] += 3.0 * rng.normal() as f32;
                row[2] += 4.0;
                values.extend(row);
                let key = format!("capital/{fact}/agree-0/0/x");
                of.push(RowOf { key, fold: 0, cluster: fact, demos: Demos::Agree, context });
                labels.push(context);
            }
        }
        (values, of, labels)
    }

    fn fitted(method: Method) -> Edit {
        let (values, of, labels) = rows();
        edit(Rows { values: &values, d: D, of: &of, labels: &labels }, method).unwrap()
    }

    #[test]
    fn whitening_ignores_what_varies_within_the_groups() {
        let (Edit::Add { vector: plain, .. }, Edit::Add { vector: white, .. }) =
            (fitted(Method::Means), fitted(Method::Whitened))
        else {
            panic!("both are added")
        };
        let angle = |v: &[f32]| f64::from(v[1].abs() / v[0].abs());
        assert!((norm(&plain) - norm(&white)).abs() < 1e-3, "as long as the difference of means");
        assert!(angle(&white) < 0.1 * angle(&plain) + 0.01, "{} {}", angle(&white), angle(&plain));
        assert!(white[0] > 0.0);
    }

    #[test]
    fn the_principal_component_is_that_of_centred_differences_and_points_to_the_context() {
        let Edit::Add { vector, .. } = fitted(Method::Principal) else { panic!("it is added") };
        // the differences vary most along axis 1: the weakness of centring, kept as published
        assert!(vector[1].abs() > vector[0].abs());
        let (values, _, labels) = rows();
        let along = |row: &[f32]| row.iter().zip(&vector).map(|(a, b)| a * b).sum::<f32>();
        let sum = |side: bool| -> f32 {
            values.chunks_exact(D).zip(&labels).filter(|(_, l)| **l == side).map(|(row, _)| along(row)).sum()
        };
        assert!(sum(true) > sum(false));
    }

    #[test]
    fn spectral_editing_moves_rows_to_the_side_that_is_wanted() {
        let Edit::Spectral(edit) = fitted(Method::Sea) else { panic!("spectral") };
        for basis in [&edit.context, &edit.memory] {
            let count = basis.len() / D;
            assert!((1..=D).contains(&count));
            for i in 0..count {
                for j in 0..=i {
                    let dot: f32 = basis[i * D..][..D].iter().zip(&basis[j * D..][..D]).map(|(a, b)| a * b).sum();
                    assert!((dot - f32::from(u8::from(i == j))).abs() < 1e-4, "orthonormal");
                }
            }
        }
        for method in [Method::Sea, Method::SeaExp] {
            let edit = fitted(method);
            let (values, _, _) = rows();
            let mut row = values[..D].to_vec();
            let before = row.clone();
            edit.apply(&mut row, Toward::Memory, 1.0);
            assert!(row != before && row.iter().all(|v| v.is_finite()));
            assert!((norm(&row) / norm(&before) - 1.0).abs() < 1e-4, "the length stays");
            let mut none = before.clone();
            edit.apply(&mut none, Toward::Memory, 0.0);
            assert_eq!(none, before);
        }
    }

    #[test]
    fn comparing_within_facts_needs_facts_of_both_sources() {
        let (values, mut of, labels) = rows();
        of.iter_mut().enumerate().for_each(|(i, row)| row.key = format!("capital/{i}/agree-0/0/x"));
        let rows = Rows { values: &values, d: D, of: &of, labels: &labels };
        let error = edit(rows, Method::Sea).unwrap_err().to_string();
        assert!(error.contains("compares within facts"), "{error}");
    }
}
