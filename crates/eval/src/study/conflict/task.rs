//! The two questions that probes are asked, as labelled rows: is there a conflict, and which source will win?

use std::collections::HashMap;

use meden_lens::probe::{CrossFit, Examples, Judging, Rows};
use serde::{Deserialize, Serialize};

use super::behaviour::{Outcome, Source};
use super::cells::Cell;
use super::design::Design;
use super::prompt::Demos;
use crate::error::EvalError;

/// What is asked of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asks {
    /// Does the text contradict memory? Rows with agreeing demonstrations, true and false contexts of the same facts.
    Conflict,
    /// Will the answer follow the text? Rows with false contexts whose answer is the text's or memory's.
    Source,
}

impl Asks {
    /// Both.
    pub const ALL: [Asks; 2] = [Asks::Conflict, Asks::Source];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Asks::Conflict => "conflict",
            Asks::Source => "source",
        }
    }

    /// What the labels mean: [false, true].
    pub fn classes(self) -> [String; 2] {
        match self {
            Asks::Conflict => ["no conflict", "conflict"],
            Asks::Source => ["memory", "context"],
        }
        .map(str::to_owned)
    }
}

/// Labelled rows of one question.
#[derive(Clone, Debug)]
pub struct Task {
    /// The question.
    pub asks: Asks,
    /// Cells, by number, in the order of the rows.
    pub cells: Vec<usize>,
    /// True for conflict, or for an answer from the context.
    pub labels: Vec<bool>,
    /// Answers that facts share: they are drawn together.
    pub groups: Vec<u32>,
    /// Fold of each row.
    pub folds: Vec<u32>,
    /// Rows are compared with those of their own fold, and for the source with those of the same kind of demonstrations:
    /// that kind predicts the behaviour, so what only tells it counts for nothing.
    pub strata: Vec<u32>,
    /// Rows of contexts that training uses.
    pub seen: Vec<bool>,
    /// Weights in training: the two classes weigh the same, for the source within each kind of demonstrations.
    pub weights: Vec<f64>,
}

/// Digits that a figure of three places needs.
pub(super) const TOLERANCE: f64 = 1e-5;

impl Task {
    /// The rows of a question. `outcomes` stand beside the cells.
    pub fn new(asks: Asks, design: &Design, cells: &[Cell], outcomes: &[Outcome]) -> Task {
        let label = |number: &usize| {
            let cell = &cells[*number];
            match (asks, outcomes[*number].source) {
                (Asks::Conflict, _) => (cell.demos == Demos::Agree).then(|| cell.is_conflict()),
                (Asks::Source, Source::Context) if cell.demos != Demos::None => Some(true),
                (Asks::Source, Source::Memory) if cell.demos != Demos::None => Some(false),
                _ => None,
            }
        };
        let (rows, labels): (Vec<usize>, Vec<bool>) =
            (0..cells.len()).filter_map(|n| label(&n).map(|l| (n, l))).unzip();
        let case = |row: &usize| &design.cases[cells[*row].case];
        let folds: Vec<u32> = rows.iter().map(|r| case(r).fold).collect();
        let kinds: Vec<u32> = rows.iter().map(|r| cells[*r].demos as u32).collect();
        let strata = folds.iter().zip(&kinds).map(|(f, k)| if asks == Asks::Source { f * 4 + k } else { *f });
        Task {
            asks,
            strata: strata.collect(),
            groups: rows.iter().map(|r| case(r).cluster).collect(),
            seen: rows.iter().map(|r| cells[*r].is_seen()).collect(),
            weights: balance(&labels, &kinds),
            folds,
            labels,
            cells: rows,
        }
    }

    /// Rows of a place under the labels.
    ///
    /// # Errors
    /// Rows that are not one a label.
    pub fn examples(&self, rows: Rows) -> Result<Examples, EvalError> {
        Ok(Examples::new(rows, self.labels.clone(), self.groups.clone())?)
    }

    /// How rows are parted.
    pub fn plan(&self) -> CrossFit<'_> {
        CrossFit { folds: &self.folds, train: &self.seen, weights: &self.weights, tolerance: TOLERANCE }
    }

    /// Rows of contexts that training used (`true`), or of those that it did not.
    pub fn rows_of(&self, seen: bool) -> Vec<usize> {
        (0..self.seen.len()).filter(|&r| self.seen[r] == seen).collect()
    }

    /// How figures are made.
    pub fn judging(draws: usize, seed: u64) -> Judging {
        Judging { draws, seed, ..Judging::default() }
    }

    /// Facts with rows of each class: what an interval has to be read against.
    pub fn facts(&self, cells: &[Cell]) -> [usize; 2] {
        [false, true].map(|class| {
            let of = self.cells.iter().zip(&self.labels).filter(|(_, l)| **l == class);
            of.map(|(c, _)| cells[*c].case).collect::<std::collections::HashSet<_>>().len()
        })
    }
}

/// Weights under which the two classes weigh the same within each kind, and rows weigh 1 on average. A kind with one
/// class only weighs nothing: it would teach the kind.
pub(super) fn balance(labels: &[bool], kinds: &[u32]) -> Vec<f64> {
    let mut counts: HashMap<u32, [f64; 2]> = HashMap::new();
    for (&label, &kind) in labels.iter().zip(kinds) {
        counts.entry(kind).or_default()[usize::from(label)] += 1.0;
    }
    let weight = |(&label, &kind): (&bool, &u32)| {
        let count = counts[&kind];
        if count.contains(&0.0) { 0.0 } else { 0.5 * (count[0] + count[1]) / count[usize::from(label)] }
    };
    labels.iter().zip(kinds).map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_weigh_the_same_within_each_kind() {
        let labels = [true, true, true, false, true, false, false, true];
        let kinds = [0, 0, 0, 0, 1, 1, 1, 2];
        let weights = balance(&labels, &kinds);
        let total = |kind: u32, label: bool| -> f64 {
            (0..8).filter(|&i| kinds[i] == kind && labels[i] == label).map(|i| weights[i]).sum()
        };
        for kind in [0, 1] {
            assert!((total(kind, true) - total(kind, false)).abs() < 1e-12);
            assert!(total(kind, true) > 0.0);
        }
        assert_eq!(weights[7], 0.0, "a kind that only knows one class teaches the kind");
    }
}
