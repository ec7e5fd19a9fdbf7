//! From examples to a probe.

use serde::{Deserialize, Serialize};

use super::logistic::Fit;
use super::{Design, Examples, L1Logistic, PaperSgd, ProbeError, Rows, Standard, means};

/// How a probe is made. In files and flags it is tagged by `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Method {
    /// Logistic regression with an L1 penalty on standardised features, to the optimum.
    Logistic {
        /// Weight of the penalty.
        lambda: f64,
        /// Whether the bias is penalised as the weights are.
        penalise_bias: bool,
        /// Whether features are standardised by the training rows first.
        standardise: bool,
    },
    /// The paper's own training: Adam on raw features (see [`PaperSgd`]).
    Paper {
        /// Weight of the penalty.
        lambda: f64,
        /// Seed of first weights and shuffles.
        seed: u64,
    },
    /// The difference of the class means.
    DifferenceOfMeans,
}

impl Method {
    /// Exact logistic regression with the paper's penalty.
    pub fn logistic(lambda: f64) -> Method {
        Method::Logistic { lambda, penalise_bias: true, standardise: true }
    }

    /// The name in files and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Logistic { .. } => "logistic",
            Method::Paper { .. } => "paper",
            Method::DifferenceOfMeans => "difference_of_means",
        }
    }

    /// Makes a probe of the examples, which may be weighted.
    ///
    /// # Errors
    /// Examples of one class, weights that do not fit (or any, for [`Method::Paper`], which has none), training that
    /// does not end.
    pub fn train(&self, examples: &Examples, weights: Option<&[f64]>) -> Result<Probe, ProbeError> {
        self.train_to(examples, weights, L1Logistic::default().tolerance)
    }

    /// The same, with the largest violation of an optimality condition that exact training may leave. Sweeps over layers
    /// need no more digits than their figures show.
    ///
    /// # Errors
    /// As [`Method::train`].
    pub fn train_to(&self, examples: &Examples, weights: Option<&[f64]>, tolerance: f64) -> Result<Probe, ProbeError> {
        examples.check_classes()?;
        if let Some(weights) = weights.filter(|w| w.len() != examples.len()) {
            return Err(ProbeError::Count { what: "weights", found: weights.len(), needed: examples.len() });
        }
        let rows = &examples.rows;
        let standard = Standard::of(rows);
        match *self {
            Method::Logistic { lambda, penalise_bias, standardise } => {
                let read = if standardise { standard.clone() } else { Standard::none(rows.width()) };
                let solver = L1Logistic { lambda, penalise_bias, tolerance, ..L1Logistic::default() };
                let fit = solver.fit(&Design::new(rows, &read), &examples.labels, weights)?;
                Ok(Probe::folded(&fit, &read, &standard))
            }
            Method::Paper { lambda, seed } => {
                if weights.is_some() {
                    let (field, value) = ("weights", "given for the paper's training".to_owned());
                    return Err(ProbeError::Setting { field, value, allowed: "none: it knows no weights" });
                }
                let fit = PaperSgd { lambda, seed, ..PaperSgd::default() }.fit(rows, &examples.labels)?;
                Ok(Probe::folded(&fit, &Standard::none(rows.width()), &standard))
            }
            Method::DifferenceOfMeans => {
                let fit = means::fit(examples, weights);
                Ok(Probe::folded(&fit, &Standard::none(rows.width()), &standard))
            }
        }
    }
}

/// A direction and a border: a row's score is `weight · row + bias`, above 0 for the class labelled true.
///
/// Weights are on raw activations, with the standardisation of the training rows folded in; what it was stands beside
/// them. All values are f32, as a file holds them, so that a probe that was saved and read gives the same bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub(super) weight: Vec<f32>,
    pub(super) bias: f32,
    pub(super) mean: Vec<f32>,
    pub(super) scale: Vec<f32>,
}

impl Probe {
    /// The fit of features that were read through `read`, as weights on raw ones; `standard` is kept beside them.
    fn folded(fit: &Fit, read: &Standard, standard: &Standard) -> Probe {
        let raw: Vec<f64> = fit.weight.iter().zip(&read.scale).map(|(w, s)| w / s).collect();
        let shift: f64 = raw.iter().zip(&read.mean).map(|(w, m)| w * m).sum();
        let single = |values: &[f64]| values.iter().map(|&v| v as f32).collect();
        Probe {
            weight: single(&raw),
            bias: (fit.bias - shift) as f32,
            mean: single(&standard.mean),
            scale: single(&standard.scale),
        }
    }

    /// Weights on raw activations.
    pub fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// Bias.
    pub fn bias(&self) -> f32 {
        self.bias
    }

    /// Mean of each feature over the training rows.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Standard deviation of each feature over the training rows (1 where it never changed).
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Weights as they would be on standardised features: comparable with each other.
    pub fn standardised_weight(&self) -> Vec<f64> {
        self.weight.iter().zip(&self.scale).map(|(&w, &s)| f64::from(w) * f64::from(s)).collect()
    }

    /// The score of a row, summed in f64.
    ///
    /// # Errors
    /// A row of another width, or with a value that is not finite.
    pub fn score(&self, row: &[f32]) -> Result<f64, ProbeError> {
        if row.len() != self.weight.len() {
            return Err(ProbeError::Width { found: row.len(), needed: self.weight.len() });
        }
        if let Some(column) = row.iter().position(|v| !v.is_finite()) {
            return Err(ProbeError::NotFinite { row: 0, column, value: f64::from(row[column]) });
        }
        let terms = self.weight.iter().zip(row).map(|(&w, &v)| f64::from(w) * f64::from(v));
        Ok(f64::from(self.bias) + terms.sum::<f64>())
    }

    /// The scores of rows.
    ///
    /// # Errors
    /// Rows of another width.
    pub fn scores(&self, rows: &Rows) -> Result<Vec<f64>, ProbeError> {
        (0..rows.len()).map(|row| self.score(rows.row(row))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meden_stats::{Rng, ranking};

    /// Activations with one huge, uninformative feature, as residual streams have.
    fn examples(seed: u64, n: usize) -> Examples {
        let mut rng = Rng::new(seed, 0);
        let labels: Vec<bool> = (0..n).map(|i| i % 2 == 0).collect();
        let values: Vec<f32> = labels
            .iter()
            .flat_map(|&l| {
                let signal = rng.normal() + if l { 1.0 } else { -1.0 };
                [500.0 + 2.0 * rng.normal(), signal, 0.3 * rng.normal(), 7.0].map(|v| v as f32)
            })
            .collect();
        Examples::new(Rows::new(values, 4).unwrap(), labels, (0..n as u32).collect()).unwrap()
    }

    #[test]
    fn folding_gives_the_scores_of_the_standardised_features() {
        let e = examples(1, 300);
        let probe = Method::logistic(1e-3).train(&e, None).unwrap();
        let standard = Standard::of(&e.rows);
        let design = Design::new(&e.rows, &standard);
        let fit = L1Logistic { lambda: 1e-3, ..L1Logistic::default() }.fit(&design, &e.labels, None).unwrap();
        for row in 0..e.len() {
            let direct: f64 = fit.bias + (0..4).map(|j| fit.weight[j] * design.column(j)[row]).sum::<f64>();
            let folded = probe.score(e.rows.row(row)).unwrap();
            assert!((direct - folded).abs() < 1e-5, "{direct} {folded}");
        }
        assert_eq!(probe.standardised_weight()[3], 0.0, "a feature that never changes says nothing");
    }

    #[test]
    fn all_methods_find_the_direction_and_judge_new_rows() {
        let (train, test) = (examples(2, 600), examples(3, 400));
        for method in [Method::logistic(3e-4), Method::DifferenceOfMeans] {
            let probe = method.train(&train, None).unwrap();
            let area = ranking::auroc(&test.labels, &probe.scores(&test.rows).unwrap()).unwrap();
            let floor = if method == Method::DifferenceOfMeans { 0.8 } else { 0.9 };
            assert!(area > floor, "{method:?}: {area}");
        }
        let one_class = examples(2, 600).pick(&[0, 2, 4]);
        assert!(matches!(Method::logistic(0.1).train(&one_class, None), Err(ProbeError::TooFew { .. })));
        let paper = Method::Paper { lambda: 3e-4, seed: 0 };
        assert!(matches!(paper.train(&train, Some(&[1.0; 600])), Err(ProbeError::Setting { .. })));
    }

    #[test]
    fn rows_of_another_model_are_refused() {
        let probe = Method::DifferenceOfMeans.train(&examples(4, 20), None).unwrap();
        assert!(matches!(probe.score(&[1.0; 5]), Err(ProbeError::Width { found: 5, needed: 4 })));
        assert!(matches!(probe.score(&[f32::NAN; 4]), Err(ProbeError::NotFinite { .. })));
    }
}
