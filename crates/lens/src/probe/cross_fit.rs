//! Every row judged by a probe that has not seen its fold.

use super::{Examples, Method, Probe, ProbeError, Scored};

/// How rows are parted into training and judging.
#[derive(Clone, Copy, Debug)]
pub struct CrossFit<'a> {
    /// Fold of each row: a row is judged by a probe that was trained on the other folds.
    pub folds: &'a [u32],
    /// Rows that may be trained on; all where empty. The others are judged all the same.
    pub train: &'a [bool],
    /// Weight of each row in training; all alike where empty.
    pub weights: &'a [f64],
    /// Largest violation of an optimality condition that exact training may leave.
    pub tolerance: f64,
}

impl<'a> CrossFit<'a> {
    /// Every row of the other folds is trained on, all alike, to the last digit.
    pub fn new(folds: &'a [u32]) -> CrossFit<'a> {
        CrossFit { folds, train: &[], weights: &[], tolerance: super::L1Logistic::default().tolerance }
    }

    fn check(&self, rows: usize) -> Result<(), ProbeError> {
        for (what, found, may_be_empty) in [
            ("folds", self.folds.len(), false),
            ("training marks", self.train.len(), true),
            ("weights", self.weights.len(), true),
        ] {
            if found != rows && !(may_be_empty && found == 0) {
                return Err(ProbeError::Count { what, found, needed: rows });
            }
        }
        Ok(())
    }

    /// A probe trained on the rows that `chosen` takes, of those that may be trained on.
    ///
    /// # Errors
    /// What training refuses; folds, marks or weights that are not one a row.
    pub fn train(
        &self,
        method: &Method,
        examples: &Examples,
        chosen: impl Fn(usize) -> bool,
    ) -> Result<Probe, ProbeError> {
        self.check(examples.len())?;
        let may = |row: &usize| chosen(*row) && (self.train.is_empty() || self.train[*row]);
        let rows: Vec<usize> = (0..examples.len()).filter(may).collect();
        let weights: Vec<f64> = rows.iter().filter_map(|&r| self.weights.get(r)).copied().collect();
        method.train_to(&examples.pick(&rows), (!weights.is_empty()).then_some(&weights[..]), self.tolerance)
    }

    /// A probe for each fold, trained on the others; folds ascending.
    ///
    /// # Errors
    /// As [`CrossFit::train`].
    pub fn probes(&self, method: &Method, examples: &Examples) -> Result<Vec<(u32, Probe)>, ProbeError> {
        let mut all: Vec<u32> = self.folds.to_vec();
        all.sort_unstable();
        all.dedup();
        let probe = |fold: u32| Ok((fold, self.train(method, examples, |row| self.folds[row] != fold)?));
        all.into_iter().map(probe).collect()
    }

    /// Scores of every row by the probe of its fold. Rows of one fold are one stratum, since scores of different probes
    /// do not compare.
    ///
    /// # Errors
    /// As [`CrossFit::train`]; a row of a fold without a probe.
    pub fn score(&self, probes: &[(u32, Probe)], examples: &Examples) -> Result<Scored, ProbeError> {
        self.check(examples.len())?;
        let mut scored = Scored::new(examples, Vec::with_capacity(examples.len()));
        scored.strata = self.folds.to_vec();
        for (row, fold) in self.folds.iter().enumerate() {
            let probe = probes.iter().find(|(f, _)| f == fold).ok_or_else(|| {
                let what = format!("probes of fold {fold}");
                ProbeError::TooFew { what, found: 0, needed: 1 }
            })?;
            scored.scores.push(probe.1.score(examples.rows.row(row))?);
        }
        Ok(scored)
    }

    /// Trains a probe for each fold and scores every row.
    ///
    /// # Errors
    /// As [`CrossFit::train`].
    pub fn run(&self, method: &Method, examples: &Examples) -> Result<Scored, ProbeError> {
        self.score(&self.probes(method, examples)?, examples)
    }
}
