//! Several signals in one score, fitted and judged on different subjects.
//!
//! The family is fixed beforehand: a ridge-penalised logistic regression on standardised signals. Subjects that share an
//! item stand in one fold, so that no copy is fitted on and judged.

use std::collections::BTreeMap;

use meden_stats::Interval;
use meden_stats::bootstrap::Bootstrap;
use meden_stats::ranking::{Ranking, average_precision, plain};

use super::detect::{Detector, Evidence, Finding, groups};
use crate::choice::Item;

/// Folds of subjects.
pub const FOLDS: usize = 10;
/// Penalty on the squared weights, in units of one row's loss.
const RIDGE: f64 = 10.0;
/// Newton steps; the fit is convex and ends long before.
const STEPS: usize = 30;

/// A combination, every score from a fit that has not seen the item's subject.
#[derive(Clone, Debug)]
pub struct Combined {
    /// Probability of a fault, one an item.
    pub scores: Vec<f64>,
}

/// Fold of each item: subjects in the order of their names, those that share an item together.
pub fn folds(items: &[Item]) -> Vec<usize> {
    let mut head: BTreeMap<&str, &str> = items.iter().map(|i| (i.subject.as_str(), i.subject.as_str())).collect();
    for group in groups(items) {
        for pair in group.windows(2) {
            let (a, b) = (head[items[pair[0]].subject.as_str()], head[items[pair[1]].subject.as_str()]);
            head.values_mut().filter(|h| **h == b).for_each(|h| *h = a);
        }
    }
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let heads: Vec<&str> = head.values().copied().collect();
    for h in heads {
        let next = numbers.len();
        numbers.entry(h).or_insert(next);
    }
    items.iter().map(|i| numbers[head[i.subject.as_str()]] % FOLDS).collect()
}

/// Signals of each item: one column a detector (0 where it has no opinion),
/// and the logarithms of the lengths of question and options.
pub fn features(evidence: &Evidence<'_>, detectors: &[Box<dyn Detector>]) -> Vec<Vec<f64>> {
    let mut rows: Vec<Vec<f64>> = vec![Vec::new(); evidence.items.len()];
    for detector in detectors {
        let findings: Vec<Option<Finding>> = detector.scan(evidence);
        rows.iter_mut().zip(findings).for_each(|(row, f)| row.push(f.map_or(0.0, |f| f.score)));
    }
    for (row, item) in rows.iter_mut().zip(evidence.items) {
        let options: usize = item.choices.iter().map(String::len).sum();
        row.push((1.0 + item.question.len() as f64).ln());
        row.push((1.0 + options as f64).ln());
    }
    rows
}

/// Fits on all folds but one and scores that one, for each fold. `None` for ragged rows or different lengths.
pub fn out_of_fold(rows: &[Vec<f64>], faulty: &[bool], folds: &[usize]) -> Option<Combined> {
    let width = rows.first()?.len();
    if rows.len() != faulty.len() || rows.len() != folds.len() || rows.iter().any(|r| r.len() != width) {
        return None;
    }
    let mut scores = vec![0.0; rows.len()];
    for fold in 0..=folds.iter().copied().max()? {
        let train: Vec<usize> = (0..rows.len()).filter(|&i| folds[i] != fold).collect();
        let fit = Fit::new(&train.iter().map(|&i| (rows[i].as_slice(), faulty[i])).collect::<Vec<_>>(), width)?;
        (0..rows.len()).filter(|&i| folds[i] == fold).for_each(|i| scores[i] = fit.probability(&rows[i]));
    }
    Some(Combined { scores })
}

/// Difference of average precision, `a` minus `b`, with the interval that drawing whole subjects gives.
pub fn difference(faulty: &[bool], a: &[f64], b: &[f64], subjects: &[u32]) -> Option<(f64, Interval)> {
    let (first, second) = (Ranking::new(a)?, Ranking::new(b)?);
    let at = |ranking: &Ranking, weights: &[f64]| {
        ranking.average_precision(|row| {
            let (p, n) = plain(faulty[row]);
            (p * weights[row], n * weights[row])
        })
    };
    let bootstrap = Bootstrap { draws: 2000, ..Bootstrap::default() };
    let interval = bootstrap.clustered(subjects, |w| Some(at(&first, w)? - at(&second, w)?))?;
    Some((average_precision(faulty, a)? - average_precision(faulty, b)?, interval))
}

struct Fit {
    mean: Vec<f64>,
    scale: Vec<f64>,
    /// The intercept first.
    weights: Vec<f64>,
}

impl Fit {
    fn new(rows: &[(&[f64], bool)], width: usize) -> Option<Fit> {
        let n = rows.len() as f64;
        let mean: Vec<f64> = (0..width).map(|c| rows.iter().map(|r| r.0[c]).sum::<f64>() / n).collect();
        let spread = |c: usize| (rows.iter().map(|r| (r.0[c] - mean[c]).powi(2)).sum::<f64>() / n).sqrt();
        let scale: Vec<f64> = (0..width).map(spread).map(|s| if s > 0.0 { s } else { 1.0 }).collect();
        let mut fit = Fit { mean, scale, weights: vec![0.0; width + 1] };
        for _ in 0..STEPS {
            let step = fit.newton(rows)?;
            fit.weights.iter_mut().zip(&step).for_each(|(w, s)| *w += s);
            if step.iter().all(|s| s.abs() < 1e-9) {
                break;
            }
        }
        Some(fit)
    }

    fn standard(&self, row: &[f64]) -> Vec<f64> {
        let each = row.iter().zip(&self.mean).zip(&self.scale).map(|((v, m), s)| (v - m) / s);
        std::iter::once(1.0).chain(each).collect()
    }

    fn probability(&self, row: &[f64]) -> f64 {
        let z: f64 = self.standard(row).iter().zip(&self.weights).map(|(x, w)| x * w).sum();
        1.0 / (1.0 + (-z).exp())
    }

    fn newton(&self, rows: &[(&[f64], bool)]) -> Option<Vec<f64>> {
        let k = self.weights.len();
        let mut system = vec![vec![0.0; k + 1]; k];
        for (row, faulty) in rows {
            let (x, p) = (self.standard(row), self.probability(row));
            let (error, curve) = (f64::from(u8::from(*faulty)) - p, p * (1.0 - p));
            for (line, xi) in system.iter_mut().zip(&x) {
                line[k] += error * xi;
                line.iter_mut().zip(&x).for_each(|(cell, xj)| *cell += curve * xi * xj);
            }
        }
        for (i, line) in system.iter_mut().enumerate() {
            // the intercept is not penalised, but never singular either
            let ridge = if i == 0 { 1e-9 } else { RIDGE };
            line[i] += ridge;
            line[k] -= if i == 0 { 0.0 } else { ridge * self.weights[i] };
        }
        solve(system)
    }
}

/// Solves a system with its right side as the last column, by elimination with pivots.
fn solve(mut system: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let k = system.len();
    for c in 0..k {
        let pivot = (c..k).max_by(|&a, &b| system[a][c].abs().total_cmp(&system[b][c].abs()))?;
        system.swap(c, pivot);
        if !(system[c][c].abs() > 1e-300) {
            return None;
        }
        let line = system[c].clone();
        for (_, other) in system.iter_mut().enumerate().filter(|(r, _)| *r != c) {
            let factor = other[c] / line[c];
            other.iter_mut().zip(&line).for_each(|(o, l)| *o -= factor * l);
        }
    }
    Some((0..k).map(|i| system[i][k] / system[i][i]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use meden_stats::Rng;

    #[test]
    fn a_combination_finds_what_two_signals_say_together() {
        let mut rng = Rng::new(3, 0);
        let rows: Vec<Vec<f64>> = (0..600).map(|_| vec![rng.normal(), rng.normal(), rng.normal()]).collect();
        let faulty: Vec<bool> = rows.iter().map(|r| r[0] + r[1] + 0.5 * rng.normal() > 1.5).collect();
        let folds: Vec<usize> = (0..600).map(|i| i / 60).collect();
        let scores = out_of_fold(&rows, &faulty, &folds).unwrap().scores;
        let single: Vec<f64> = rows.iter().map(|r| r[0]).collect();
        let subjects: Vec<u32> = folds.iter().map(|&f| f as u32).collect();
        let (gain, interval) = difference(&faulty, &scores, &single, &subjects).unwrap();
        assert!(gain > 0.15 && interval.low > 0.0, "{gain} {interval:?}");
        assert!(scores.iter().all(|s| (0.0..=1.0).contains(s)));
    }

    #[test]
    fn a_label_of_the_judged_fold_changes_none_of_its_scores() {
        let mut rng = Rng::new(4, 0);
        let rows: Vec<Vec<f64>> = (0..100).map(|_| vec![rng.normal()]).collect();
        let mut faulty: Vec<bool> = rows.iter().map(|r| r[0] > 0.5).collect();
        let folds: Vec<usize> = (0..100).map(|i| i / 50).collect();
        let before = out_of_fold(&rows, &faulty, &folds).unwrap().scores;
        faulty[..50].iter_mut().for_each(|f| *f = !*f);
        let after = out_of_fold(&rows, &faulty, &folds).unwrap().scores;
        assert_eq!(before[..50], after[..50]);
        assert_ne!(before[50..], after[50..]);
    }
}
