//! The paper's own protocol, beside the cross-fitted one: its training, its split, its unbalanced test set, twenty seeds.
//!
//! From the published code of arXiv 2410.16090: groups of questions (here: of answers) are split once; of each training
//! fact one conflict and one row without are trained on, of each test fact all conflicts are judged and one row without,
//! so that accuracy and the precision-recall area have to be read against the prevalence.

use std::collections::BTreeMap;

use meden_engine::Config;
use meden_lens::place::Place;
use meden_lens::probe::{Examples, Method, split};
use meden_stats::classify::Confusion;
use meden_stats::moments::Moments;
use meden_stats::{Rng, ranking};
use serde::{Deserialize, Serialize};

use super::activations::{Activations, places};
use super::cells::Cell;
use super::companions::Companions;
use super::task::Task;
use super::together::together;
use crate::error::EvalError;
use crate::study::Journal;

/// Share of the answers that is tested.
const TEST: f64 = 0.2;
/// The seed of the split in the published code.
const SPLIT_SEED: u64 = 666;

/// Figures of one place: mean and standard deviation (n - 1) over seeds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seeds {
    /// Accuracy at a probability of one half.
    pub accuracy: [f64; 2],
    /// AUROC.
    pub auroc: [f64; 2],
    /// Area under the precision-recall curve by the trapezoid rule.
    pub auprc_trapezoid: [f64; 2],
    /// Share of conflicts among the rows judged.
    pub prevalence: f64,
}

/// Trains and judges `seeds` probes at every place that is not in the journal yet, `workers` places at a time. Contexts held out play no part.
///
/// # Errors
/// What training refuses; cancellation, with what is done in the journal.
pub fn paper(
    (task, cells): (&Task, &[Cell]),
    (activations, config, workers): (&Activations, &Config, usize),
    (lambda, seeds): (f64, u64),
    journal: &mut Journal<Seeds>,
    companions: &mut Companions<'_>,
) -> Result<BTreeMap<Place, Seeds>, EvalError> {
    let (train, test) = parts(task, cells)?;
    let all = places(config);
    let workers = workers.max(1);
    for (done, places) in all.chunks(workers).enumerate() {
        companions.step("training as the paper does", done * workers, all.len())?;
        let mut work = Vec::new();
        for &place in places.iter().filter(|place| journal.get(&place.to_string()).is_none()) {
            let examples = task.examples(activations.rows(place, &task.cells)?)?;
            work.push((place, examples.pick(&train), examples.pick(&test)));
        }
        let found = together(&work, |(_, train, test)| one(train, test, lambda, seeds));
        for ((place, ..), seeds) in work.iter().zip(found) {
            journal.put(place.to_string(), seeds?)?;
        }
    }
    Ok(all.into_iter().filter_map(|place| Some((place, journal.get(&place.to_string())?.clone()))).collect())
}

/// Rows of training and of the test.
fn parts(task: &Task, cells: &[Cell]) -> Result<(Vec<usize>, Vec<usize>), EvalError> {
    let held = split::hold_out(&task.groups, TEST, SPLIT_SEED)?;
    let mut facts: BTreeMap<usize, [Vec<usize>; 2]> = BTreeMap::new();
    for row in (0..task.labels.len()).filter(|&r| task.seen[r]) {
        facts.entry(cells[task.cells[row]].case).or_default()[usize::from(task.labels[row])].push(row);
    }
    let (mut train, mut test) = (Vec::new(), Vec::new());
    let mut rng = Rng::new(SPLIT_SEED, 1);
    for rows in facts.values() {
        let [calm, conflict] = rows;
        if calm.is_empty() || conflict.is_empty() {
            continue;
        }
        if held[conflict[0]] {
            test.extend(conflict);
            test.push(calm[0]);
        } else {
            train.extend([conflict, calm].map(|rows| rows[rng.below(rows.len() as u64) as usize]));
        }
    }
    Ok((train, test))
}

fn one(train: &Examples, test: &Examples, lambda: f64, seeds: u64) -> Result<Seeds, EvalError> {
    let mut moments = [Moments::default(); 3];
    let mut prevalence = f64::NAN;
    for seed in 0..seeds {
        let probe = Method::Paper { lambda, seed }.train(train, None)?;
        let scores = probe.scores(&test.rows)?;
        let said: Vec<bool> = scores.iter().map(|&s| s > 0.0).collect();
        let counts = Confusion::of(&test.labels, &said).unwrap_or_default();
        prevalence = counts.prevalence().unwrap_or(f64::NAN);
        let figures =
            [counts.accuracy(), ranking::auroc(&test.labels, &scores), ranking::auprc_trapezoid(&test.labels, &scores)];
        moments.iter_mut().zip(figures).for_each(|(m, f)| m.push(f.unwrap_or(f64::NAN)));
    }
    let [accuracy, auroc, auprc_trapezoid] = moments.map(|m| [m.mean(), m.deviation()]);
    Ok(Seeds { accuracy, auroc, auprc_trapezoid, prevalence })
}
