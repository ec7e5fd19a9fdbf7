//! How well scores of rows that were not trained on tell the classes apart, with intervals.

use meden_stats::bootstrap::Bootstrap;
use meden_stats::classify::Confusion;
use meden_stats::permutation::{Permutation, Shuffled};
use meden_stats::ranking::{Ranking, plain};
use serde::{Deserialize, Serialize};

use super::{Examples, ProbeError};

/// A figure with its interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How labels are shuffled to see what the figures would be if they said nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shuffle {
    /// Inside each group: for groups that were seen under both labels.
    Within,
    /// Whole groups swap their labels, row by row in their order: for groups of one label.
    Between,
}

impl Shuffle {
    /// What fits these rows: `Within` where at least half of them lie in groups of both labels.
    pub fn fitting(labels: &[bool], groups: &[u32]) -> Shuffle {
        let mut seen = std::collections::HashMap::new();
        for (&label, &group) in labels.iter().zip(groups) {
            let entry = seen.entry(group).or_insert([0usize; 2]);
            entry[usize::from(label)] += 1;
        }
        let mixed: usize = seen.values().filter(|c| c[0] > 0 && c[1] > 0).map(|c| c[0] + c[1]).sum();
        if 2 * mixed >= labels.len() { Shuffle::Within } else { Shuffle::Between }
    }
}

/// Scores with what is needed to judge them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// Scores; above 0 means the class labelled true.
    pub scores: Vec<f64>,
    /// Labels.
    pub labels: Vec<bool>,
    /// Groups, which are drawn together.
    pub groups: Vec<u32>,
    /// Only rows of one stratum are compared for the AUROC: scores of one fold's probe, rows of one design cell.
    pub strata: Vec<u32>,
}

/// How intervals are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judging {
    /// Bootstrap draws, and shuffles.
    pub draws: usize,
    /// Level of all intervals.
    pub level: f64,
    /// Seed.
    pub seed: u64,
    /// How labels are shuffled; `None` for what fits.
    pub shuffle: Option<Shuffle>,
}

impl Default for Judging {
    fn default() -> Self {
        Judging { draws: 1000, level: 0.95, seed: 0, shuffle: None }
    }
}

/// Figures of a probe or a control on held-out rows. Intervals are percentiles of a bootstrap over groups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Rows judged.
    pub rows: usize,
    /// Groups they come from.
    pub groups: usize,
    /// Share of rows labelled true: what accuracy and the precision-recall areas have to be read against.
    pub prevalence: f64,
    /// Chance that a row labelled true scores above one labelled false of the same stratum.
    pub auroc: Estimate,
    /// Area under precision and recall as a sum of steps.
    pub average_precision: Estimate,
    /// The same area by the trapezoid rule, as the paper has it.
    pub auprc_trapezoid: Estimate,
    /// Share of right calls at a score of 0.
    pub accuracy: Estimate,
    /// Mean of the shares of right calls in each class.
    pub balanced_accuracy: Estimate,
    /// Where the AUROC of labels that say nothing would lie.
    pub auroc_of_shuffled_labels: Estimate,
    /// Level of all intervals.
    pub level: f64,
}

impl Evaluation {
    /// Whether the AUROC lies where that of labels that say nothing would.
    pub fn is_chance(&self) -> bool {
        let i = self.auroc_of_shuffled_labels;
        (i.low..=i.high).contains(&self.auroc.value)
    }
}

impl Scored {
    /// Scores of one probe on rows it has not seen.
    pub fn new(examples: &Examples, scores: Vec<f64>) -> Scored {
        let strata = vec![0; scores.len()];
        Scored { scores, labels: examples.labels.clone(), groups: examples.groups.clone(), strata }
    }

    /// The rows named.
    pub fn pick(&self, rows: &[usize]) -> Scored {
        Scored {
            scores: rows.iter().map(|&r| self.scores[r]).collect(),
            labels: rows.iter().map(|&r| self.labels[r]).collect(),
            groups: rows.iter().map(|&r| self.groups[r]).collect(),
            strata: rows.iter().map(|&r| self.strata[r]).collect(),
        }
    }

    /// AUROC over pairs of one stratum.
    pub fn auroc(&self) -> Option<f64> {
        Ranking::within(&self.scores, &self.strata)?.auroc(&self.labels)
    }

    /// All figures.
    ///
    /// # Errors
    /// Counts that do not fit, scores that are not numbers, a missing class, groups so few that most draws lack a class.
    pub fn evaluate(&self, judging: &Judging) -> Result<Evaluation, ProbeError> {
        let n = self.scores.len();
        for (what, found) in
            [("labels", self.labels.len()), ("groups", self.groups.len()), ("strata", self.strata.len())]
        {
            if found != n {
                return Err(ProbeError::Count { what, found, needed: n });
            }
        }
        if let Some(row) = self.scores.iter().position(|s| s.is_nan()) {
            return Err(ProbeError::NotFinite { row, column: 0, value: f64::NAN });
        }
        let too_few = || {
            let found = distinct(&self.groups);
            let what = "groups with rows of both classes to compare".to_owned();
            ProbeError::TooFew { what, found, needed: found.max(1) + 1 }
        };
        self.figures(judging).ok_or_else(too_few)
    }

    fn figures(&self, judging: &Judging) -> Option<Evaluation> {
        let within = Ranking::within(&self.scores, &self.strata)?;
        let ranking = Ranking::new(&self.scores)?;
        let weigh = |w: f64, row: usize| if self.labels[row] { (w, 0.0) } else { (0.0, w) };
        let boot = Bootstrap { draws: judging.draws, level: judging.level, seed: judging.seed, ..Bootstrap::default() };
        let estimate = |statistic: &dyn Fn(&[f64]) -> Option<f64>| {
            let value = statistic(&vec![1.0; self.scores.len()])?;
            let interval = boot.clustered(&self.groups, statistic)?;
            Some(Estimate { value, low: interval.low, high: interval.high })
        };
        let confusion = |w: &[f64]| {
            let mut counts = Confusion::default();
            for ((&score, &label), &weight) in self.scores.iter().zip(&self.labels).zip(w) {
                counts.add(label, score > 0.0, weight);
            }
            counts
        };
        let shuffled = self.shuffled(&within, judging)?;
        Some(Evaluation {
            rows: self.scores.len(),
            groups: distinct(&self.groups),
            prevalence: confusion(&vec![1.0; self.scores.len()]).prevalence()?,
            auroc: estimate(&|w| within.auroc_weighted(|row| weigh(w[row], row)))?,
            average_precision: estimate(&|w| ranking.average_precision(|row| weigh(w[row], row)))?,
            auprc_trapezoid: estimate(&|w| ranking.auprc_trapezoid(|row| weigh(w[row], row)))?,
            accuracy: estimate(&|w| confusion(w).accuracy())?,
            balanced_accuracy: estimate(&|w| confusion(w).balanced_accuracy())?,
            auroc_of_shuffled_labels: shuffled,
            level: judging.level,
        })
    }

    fn shuffled(&self, ranking: &Ranking, judging: &Judging) -> Option<Estimate> {
        let permutation = Permutation { draws: judging.draws, level: judging.level, seed: judging.seed };
        let area = |labels: &[Shuffled]| ranking.auroc_weighted(|row| labels[row].map_or((0.0, 0.0), plain));
        let interval = match judging.shuffle.unwrap_or_else(|| Shuffle::fitting(&self.labels, &self.groups)) {
            Shuffle::Within => permutation.within(&self.labels, &self.groups, area),
            Shuffle::Between => permutation.between(&self.labels, (&self.groups, &cells(&self.groups)), area),
        }?;
        Some(Estimate { value: 0.5 * (interval.low + interval.high), low: interval.low, high: interval.high })
    }
}

/// Difference of two AUROCs on the same rows (`first` less `second`), with a bootstrap over groups that draws both
/// alike.
///
/// # Errors
/// Scores of other rows, too few groups.
pub fn auroc_difference(first: &Scored, second: &Scored, judging: &Judging) -> Result<Estimate, ProbeError> {
    if first.labels != second.labels || first.groups != second.groups {
        return Err(ProbeError::Count { what: "scores", found: second.scores.len(), needed: first.scores.len() });
    }
    let compute = || {
        let rankings =
            [Ranking::within(&first.scores, &first.strata)?, Ranking::within(&second.scores, &second.strata)?];
        let difference = |w: &[f64]| {
            let weigh = |row: usize| if first.labels[row] { (w[row], 0.0) } else { (0.0, w[row]) };
            Some(rankings[0].auroc_weighted(weigh)? - rankings[1].auroc_weighted(weigh)?)
        };
        let boot = Bootstrap { draws: judging.draws, level: judging.level, seed: judging.seed, ..Bootstrap::default() };
        let value = difference(&vec![1.0; first.scores.len()])?;
        let interval = boot.clustered(&first.groups, difference)?;
        Some(Estimate { value, low: interval.low, high: interval.high })
    };
    let what = "groups with rows of both classes to compare".to_owned();
    compute().ok_or(ProbeError::TooFew { what, found: distinct(&first.groups), needed: 2 })
}

/// Each row's number within its group, in the order of the rows.
fn cells(groups: &[u32]) -> Vec<u32> {
    let mut next = std::collections::HashMap::new();
    groups
        .iter()
        .map(|group| {
            let count = next.entry(*group).or_insert(0u32);
            *count += 1;
            *count - 1
        })
        .collect()
}

fn distinct(groups: &[u32]) -> usize {
    groups.iter().collect::<std::collections::HashSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::super::{CrossFit, Method, Rows, split};
    use super::*;
    use meden_stats::Rng;

    fn examples(signal: f64, groups: u32) -> Examples {
        let mut rng = Rng::new(11, 0);
        let n = groups * 4;
        let labels: Vec<bool> = (0..n).map(|i| i % 2 == 0).collect();
        let values = labels
            .iter()
            .flat_map(|&l| {
                let x = rng.normal() + if l { signal } else { -signal };
                [x as f32, rng.normal() as f32]
            })
            .collect();
        let groups = (0..n).map(|i| i / 4).collect();
        Examples::new(Rows::new(values, 2).unwrap(), labels, groups).unwrap()
    }

    #[test]
    fn separable_rows_have_an_area_of_one_and_noise_looks_like_chance() {
        for (signal, separable) in [(8.0, true), (0.0, false)] {
            let e = examples(signal, 60);
            let folds = split::folds(&e.groups, 5, 0).unwrap();
            let scored = CrossFit::new(&folds).run(&Method::logistic(3e-4), &e).unwrap();
            let figures = scored.evaluate(&Judging::default()).unwrap();
            assert_eq!((figures.rows, figures.groups, figures.prevalence), (240, 60, 0.5));
            if separable {
                assert_eq!(figures.auroc, Estimate { value: 1.0, low: 1.0, high: 1.0 });
                assert_eq!(figures.balanced_accuracy.value, 1.0);
                assert!(!figures.is_chance());
            } else {
                assert!(figures.is_chance() && figures.auroc.low < 0.5 && figures.auroc.high > 0.5, "{figures:?}");
            }
        }
    }

    #[test]
    fn a_real_difference_is_told_from_none() {
        let e = examples(0.8, 80);
        let folds = split::folds(&e.groups, 5, 0).unwrap();
        let fit = |m: Method| CrossFit::new(&folds).run(&m, &e).unwrap();
        let (probe, means) = (fit(Method::logistic(3e-4)), fit(Method::DifferenceOfMeans));
        let near = auroc_difference(&probe, &means, &Judging::default()).unwrap();
        assert!(near.low <= 0.0 && near.high >= -0.01 && near.value.abs() < 0.02, "{near:?}");
        let mut rng = Rng::new(3, 3);
        let noise = Scored { scores: probe.scores.iter().map(|_| rng.normal()).collect(), ..probe.clone() };
        let far = auroc_difference(&probe, &noise, &Judging::default()).unwrap();
        assert!(far.low > 0.1, "{far:?}");
    }

    #[test]
    fn shuffling_fits_the_design() {
        assert_eq!(Shuffle::fitting(&[true, false, true, false], &[0, 0, 1, 1]), Shuffle::Within);
        assert_eq!(Shuffle::fitting(&[true, true, false, false], &[0, 0, 1, 1]), Shuffle::Between);
    }

    #[test]
    fn rows_that_may_not_be_trained_on_are_judged_all_the_same() {
        let e = examples(2.0, 40);
        let folds = split::folds(&e.groups, 4, 0).unwrap();
        // the rows that are kept out of training are lies
        let train: Vec<bool> = (0..e.len()).map(|r| r % 4 < 2).collect();
        let mut lies = e.clone();
        (0..e.len()).filter(|r| !train[*r]).for_each(|r| lies.labels[r] = !lies.labels[r]);
        let plan = CrossFit { train: &train, ..CrossFit::new(&folds) };
        let scored = plan.run(&Method::logistic(3e-4), &lies).unwrap();
        assert_eq!(scored.scores.len(), e.len());
        let held: Vec<usize> = (0..e.len()).filter(|r| !train[*r]).collect();
        assert!(scored.pick(&held).auroc().unwrap() < 0.1);
    }

    #[test]
    fn nonsense_is_refused() {
        let e = examples(1.0, 10);
        let mut scored = Scored::new(&e, vec![0.0; 40]);
        scored.scores[7] = f64::NAN;
        assert!(matches!(scored.evaluate(&Judging::default()), Err(ProbeError::NotFinite { row: 7, .. })));
        let one = Scored { scores: vec![1.0], labels: vec![true], groups: vec![0], strata: vec![0] };
        assert!(matches!(one.evaluate(&Judging::default()), Err(ProbeError::TooFew { .. })));
        assert!(CrossFit::new(&[0]).run(&Method::DifferenceOfMeans, &e).is_err());
    }
}
