//! How the stream is spread when the answer follows the text and when it follows memory: kurtosis, Hoyer, Gini, norms.

use std::collections::BTreeMap;

use meden_lens::place::Place;
use meden_lens::probe::{Estimate, Examples, Judging, Method, Rows, Scored};
use meden_stats::bootstrap::Bootstrap;
use meden_stats::{Distribution, moments, multiple};
use serde::{Deserialize, Serialize};

use super::cells::Cell;
use super::task::Task;
use crate::error::EvalError;

/// Measures that are shown.
pub const MEASURES: [&str; 5] = ["kurtosis", "hoyer", "gini", "l1", "l2"];
/// Channels of largest variance that are left out, in turn, to see whether an effect is only theirs.
pub const WITHOUT: [usize; 3] = [1, 4, 16];

/// One measure at one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean over rows that follow the text; kinds of demonstrations weigh alike for both sources.
    pub context: Estimate,
    /// Over rows that follow memory.
    pub memory: Estimate,
    /// Chance that a row that follows the text has the larger value, within folds and kinds of demonstrations.
    pub auroc: Estimate,
    /// Facts with rows of both sources under one kind of demonstrations: those whose mean is larger with the text, and
    /// those whose mean is smaller.
    pub facts: [u64; 2],
    /// Two-sided p of the sign test on them.
    pub p: f64,
    /// The same after Holm's adjustment over the layers of the site.
    pub p_holm: f64,
}

/// A place's measures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlaceSpread {
    /// One for each of [`MEASURES`].
    pub measures: BTreeMap<String, Spread>,
    /// Kurtosis without the channels of largest variance: (channels left out, AUROC within folds and kinds).
    pub kurtosis_without: Vec<(usize, Estimate)>,
    /// AUROC of a logistic regression on the five measures.
    pub together: Estimate,
}

/// Measures of a place's rows, which are those of the source question.
///
/// # Errors
/// Rows without a measure, too few rows.
pub fn spread(task: &Task, cells: &[Cell], rows: &Rows, judging: &Judging) -> Result<PlaceSpread, EvalError> {
    let mut values = vec![Vec::with_capacity(rows.len()); MEASURES.len()];
    for row in 0..rows.len() {
        let d = measure(rows.row(row).iter().map(|&v| f64::from(v)), row)?;
        for (values, v) in values.iter_mut().zip([d.kurtosis, d.hoyer, d.gini, d.l1, d.l2]) {
            values.push(v);
        }
    }
    let mut all = PlaceSpread::default();
    for (name, values) in MEASURES.iter().zip(&values) {
        all.measures.insert((*name).to_owned(), one(task, cells, values, judging)?);
    }
    for (left_out, values) in WITHOUT.into_iter().zip(kurtosis_without(rows)?) {
        all.kurtosis_without.push((left_out, area(task, values, judging)?));
    }
    let five: Vec<f32> = (0..rows.len()).flat_map(|r| values.iter().map(move |v| v[r] as f32)).collect();
    let examples: Examples = task.examples(Rows::new(five, MEASURES.len())?)?;
    let mut scored = task.plan().run(&Method::logistic(1e-4), &examples)?;
    scored.strata.clone_from(&task.strata);
    all.together = scored.pick(&task.rows_of(true)).evaluate(judging)?.auroc;
    Ok(all)
}

fn measure(values: impl Iterator<Item = f64>, row: usize) -> Result<Distribution, EvalError> {
    let d = Distribution::of(values).filter(|d| d.kurtosis.is_finite() && d.hoyer.is_finite() && d.gini.is_finite());
    d.ok_or_else(|| EvalError::Setting {
        field: "activations",
        value: format!("row {row} has no spread"),
        allowed: "rows whose values differ".to_owned(),
    })
}

/// Kurtosis of each row without the channels of largest variance over rows, one list for each of [`WITHOUT`].
fn kurtosis_without(rows: &Rows) -> Result<Vec<Vec<f64>>, EvalError> {
    let width = rows.width();
    let variance =
        |c: usize| moments::variance(&(0..rows.len()).map(|r| f64::from(rows.row(r)[c])).collect::<Vec<_>>());
    let mut order: Vec<(usize, f64)> = (0..width).map(|c| (c, variance(c))).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    WITHOUT
        .iter()
        .map(|&left_out| {
            let mut kept = vec![true; width];
            order.iter().take(left_out).for_each(|(c, _)| kept[*c] = false);
            let row = |r: usize| {
                let values = rows.row(r).iter().zip(&kept).filter(|(_, k)| **k).map(|(&v, _)| f64::from(v));
                Ok(measure(values, r)?.kurtosis)
            };
            (0..rows.len()).map(row).collect()
        })
        .collect()
}

fn area(task: &Task, scores: Vec<f64>, judging: &Judging) -> Result<Estimate, EvalError> {
    let scored =
        Scored { scores, labels: task.labels.clone(), groups: task.groups.clone(), strata: task.strata.clone() };
    Ok(scored.evaluate(judging)?.auroc)
}

fn one(task: &Task, cells: &[Cell], values: &[f64], judging: &Judging) -> Result<Spread, EvalError> {
    let mean_of = |class: bool| -> Option<Estimate> {
        let weight = |row: usize, w: f64| if task.labels[row] == class { w * task.weights[row] } else { 0.0 };
        let mean = |drawn: &[f64]| {
            let weights: Vec<f64> = drawn.iter().enumerate().map(|(r, &w)| weight(r, w)).collect();
            moments::weighted_mean(values, &weights)
        };
        let boot = Bootstrap { draws: judging.draws, seed: judging.seed, level: judging.level, ..Bootstrap::default() };
        let interval = boot.clustered(&task.groups, mean)?;
        Some(Estimate { value: mean(&vec![1.0; values.len()])?, low: interval.low, high: interval.high })
    };
    let facts = signs(task, cells, values);
    let p = multiple::sign_test(facts[0], facts[1]);
    let missing = Estimate { value: f64::NAN, low: f64::NAN, high: f64::NAN };
    Ok(Spread {
        context: mean_of(true).unwrap_or(missing),
        memory: mean_of(false).unwrap_or(missing),
        auroc: area(task, values.to_vec(), judging)?,
        facts,
        p,
        p_holm: p,
    })
}

/// Facts whose rows of both sources, under the same demonstrations, differ one way or the other: nothing but the context's
/// wording and the false answer parts them.
fn signs(task: &Task, cells: &[Cell], values: &[f64]) -> [u64; 2] {
    let mut means: BTreeMap<(usize, u32), [(f64, f64); 2]> = BTreeMap::new();
    for (row, &number) in task.cells.iter().enumerate() {
        let cell = &cells[number];
        let sums = means.entry((cell.case, cell.demos as u32)).or_default();
        let (sum, count) = &mut sums[usize::from(task.labels[row])];
        *sum += values[row];
        *count += 1.0;
    }
    let mut differences: BTreeMap<usize, f64> = BTreeMap::new();
    for ((case, _), [memory, context]) in means {
        if memory.1 > 0.0 && context.1 > 0.0 {
            *differences.entry(case).or_default() += context.0 / context.1 - memory.0 / memory.1;
        }
    }
    let count = |larger: bool| differences.values().filter(|d| **d != 0.0 && (**d > 0.0) == larger).count() as u64;
    [count(true), count(false)]
}

/// Adjusts the p values of each site and measure over its layers.
pub fn adjust(spreads: &mut BTreeMap<Place, PlaceSpread>) {
    for site in super::activations::SITES {
        for measure in MEASURES {
            let mut of: Vec<&mut Spread> = spreads
                .iter_mut()
                .filter(|(p, _)| p.site == site)
                .filter_map(|(_, s)| s.measures.get_mut(measure))
                .collect();
            let adjusted = multiple::holm(&of.iter().map(|s| s.p).collect::<Vec<_>>());
            of.iter_mut().zip(adjusted).for_each(|(s, p)| s.p_holm = p);
        }
    }
}
