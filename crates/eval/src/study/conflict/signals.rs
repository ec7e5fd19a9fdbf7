//! A probe at every place: how well the rows there tell the classes apart.
//!
//! Everything is cross-fitted: a row is scored by a probe that has met neither its fact, nor its answers, nor (for the
//! contexts held out) its context's wording. The layer is chosen on the training folds alone: one of them is set aside,
//! and the layer whose probe judges it best is used for the fold that is tested.

use std::collections::BTreeMap;

use meden_engine::{Config, Site};
use meden_lens::place::Place;
use meden_lens::probe::{Evaluation, Examples, Judging, Method, Probe, Scored};
use serde::{Deserialize, Serialize};

use super::activations::{Activations, places};
use super::companions::Companions;
use super::design::FOLDS;
use super::task::{Asks, Task};
use super::together::together;
use crate::error::EvalError;
use crate::study::Journal;

/// What a place tells about a question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// Figures on contexts that training used, about facts that it did not.
    pub seen: Evaluation,
    /// Figures on contexts whose wording was held out too.
    pub held_out: Evaluation,
    /// For each fold: AUROC on the fold set aside, of a probe trained without either; for sites whose layer is chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inner: Vec<f64>,
    /// Features with a weight, mean over folds.
    pub features: f64,
    /// Score of each row.
    pub scores: Vec<f32>,
    /// The probe of each fold; for sites whose layer is chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<(u32, Probe)>,
}

/// Signals of all places for one question.
pub type Signals = BTreeMap<Place, Signal>;

/// The site whose layer is chosen: the whole stream, the best site in the paper.
pub const CHOSEN: Site = Site::ResidPost;

/// How probes are made and judged.
#[derive(Clone, Copy, Debug)]
pub struct Probing {
    /// How.
    pub method: Method,
    /// How figures are made.
    pub judging: Judging,
}

/// Trains and judges a probe at every place that is not in the journal yet, `workers` places at a time.
///
/// # Errors
/// What training refuses; cancellation, with what is done in the journal.
pub fn signals(
    task: &Task,
    (activations, config, workers): (&Activations, &Config, usize),
    probing: &Probing,
    journal: &mut Journal<Signal>,
    companions: &mut Companions<'_>,
) -> Result<Signals, EvalError> {
    let all = places(config);
    let what = format!("probing for {}", task.asks.name());
    let key = |place: Place| format!("{}/{place}", task.asks.name());
    let missing = |journal: &Journal<Signal>, place: Place| {
        journal.get(&key(place)).is_none_or(|s| s.scores.len() != task.labels.len())
    };
    let workers = workers.max(1);
    for (done, places) in all.chunks(workers).enumerate() {
        companions.step(&what, done * workers, all.len())?;
        let mut work = Vec::new();
        for &place in places.iter().filter(|place| missing(journal, **place)) {
            work.push((place, task.examples(activations.rows(place, &task.cells)?)?));
        }
        let found = together(&work, |(place, examples)| one(task, examples, probing, place.site == CHOSEN));
        for ((place, _), signal) in work.iter().zip(found) {
            journal.put(key(*place), signal?)?;
        }
    }
    Ok(all.into_iter().filter_map(|place| Some((place, journal.get(&key(place))?.clone()))).collect())
}

fn one(task: &Task, examples: &Examples, probing: &Probing, chosen: bool) -> Result<Signal, EvalError> {
    let plan = task.plan();
    let probes = plan.probes(&probing.method, examples)?;
    let mut scored = plan.score(&probes, examples)?;
    scored.strata.clone_from(&task.strata);
    let count = |w: &[f32]| w.iter().filter(|w| **w != 0.0).count() as f64;
    let mut inner = Vec::new();
    for fold in 0..if chosen { FOLDS as u32 } else { 0 } {
        let aside = (fold + 1) % FOLDS as u32;
        let probe = plan.train(&probing.method, examples, |row| ![fold, aside].contains(&task.folds[row]))?;
        let rows: Vec<usize> = (0..examples.len()).filter(|&r| task.folds[r] == aside && task.seen[r]).collect();
        let mut judged = Scored::new(examples, probe.scores(&examples.rows)?).pick(&rows);
        judged.strata = rows.iter().map(|&r| task.strata[r]).collect();
        inner.push(judged.auroc().unwrap_or(f64::NAN));
    }
    Ok(Signal {
        seen: scored.pick(&task.rows_of(true)).evaluate(&probing.judging)?,
        held_out: scored.pick(&task.rows_of(false)).evaluate(&probing.judging)?,
        inner,
        features: probes.iter().map(|(_, p)| count(p.weight())).sum::<f64>() / probes.len().max(1) as f64,
        scores: scored.scores.iter().map(|&s| s as f32).collect(),
        probes: if chosen { probes } else { Vec::new() },
    })
}

/// The layer of each fold, chosen without it, and what comes of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Question.
    pub asks: Asks,
    /// Layer of [`CHOSEN`] for each fold.
    pub layers: Vec<usize>,
    /// The layer that most folds chose (the lowest of equals): the one that controls are run at.
    pub layer: usize,
    /// Figures of the chosen layers, on contexts that training used.
    pub seen: Evaluation,
    /// On contexts held out.
    pub held_out: Evaluation,
}

/// Scores of each row at the layer that its fold chose.
pub fn chosen_scores(task: &Task, signals: &Signals) -> (Vec<usize>, Scored) {
    let of = |layer: usize| signals.get(&Place::new(CHOSEN, layer));
    let depth = signals.keys().filter(|p| p.site == CHOSEN).count();
    let best = |fold: usize| {
        let judged = |layer: usize| of(layer).and_then(|s| s.inner.get(fold)).copied().unwrap_or(f64::NAN);
        // the first of equals; a fold without a figure counts as chance
        let figure = |layer: usize| if judged(layer).is_nan() { 0.5 } else { judged(layer) };
        (0..depth).fold(0, |best, layer| if figure(layer) > figure(best) { layer } else { best })
    };
    let layers: Vec<usize> = (0..FOLDS).map(best).collect();
    let score = |row: usize| {
        let layer = layers.get(task.folds[row] as usize).copied().unwrap_or(0);
        of(layer).map_or(f64::NAN, |s| f64::from(s.scores[row]))
    };
    let scored = Scored {
        scores: (0..task.labels.len()).map(score).collect(),
        labels: task.labels.clone(),
        groups: task.groups.clone(),
        strata: task.strata.clone(),
    };
    (layers, scored)
}

/// Chooses the layers and judges them.
///
/// # Errors
/// Too few rows to judge.
pub fn choose(task: &Task, signals: &Signals, judging: &Judging) -> Result<Choice, EvalError> {
    let (layers, scored) = chosen_scores(task, signals);
    let votes = |layer: usize| layers.iter().filter(|l| **l == layer).count();
    let layer = layers.iter().copied().fold(layers[0], |best, l| {
        if votes(l) > votes(best) || votes(l) == votes(best) && l < best { l } else { best }
    });
    Ok(Choice {
        asks: task.asks,
        layer,
        seen: scored.pick(&task.rows_of(true)).evaluate(judging)?,
        held_out: scored.pick(&task.rows_of(false)).evaluate(judging)?,
        layers,
    })
}

/// Scores of a place as they were cross-fitted.
pub fn scored(task: &Task, signal: &Signal) -> Scored {
    Scored {
        scores: signal.scores.iter().map(|&s| f64::from(s)).collect(),
        labels: task.labels.clone(),
        groups: task.groups.clone(),
        strata: task.strata.clone(),
    }
}

/// Where the AUROC of the two questions peaks, and whether detection comes before decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Layer of the largest AUROC for conflict, with the 95% interval over draws of answers.
    pub conflict: [f64; 3],
    /// For the source.
    pub source: [f64; 3],
    /// Source less conflict, in layers.
    pub difference: [f64; 3],
}

/// Bootstrap of the layers where the AUROCs peak: answers are drawn, the same for both questions.
pub fn order(tasks: [(&Task, &Signals); 2], draws: usize, seed: u64) -> Option<Order> {
    use meden_stats::bootstrap::Bootstrap;
    use meden_stats::ranking::Ranking;
    let mut rankings = Vec::new();
    for (task, signals) in tasks {
        let rows = task.rows_of(true);
        let of_layer = |signal: &Signal| {
            let picked = scored(task, signal).pick(&rows);
            Ranking::within(&picked.scores, &picked.strata)
        };
        let layers = signals.iter().filter(|(p, _)| p.site == CHOSEN).map(|(_, s)| of_layer(s));
        let labels: Vec<bool> = rows.iter().map(|&r| task.labels[r]).collect();
        let groups: Vec<u32> = rows.iter().map(|&r| task.groups[r]).collect();
        rankings.push((layers.collect::<Option<Vec<_>>>()?, labels, groups));
    }
    // one weight an answer, drawn over the answers of both questions
    let mut answers: Vec<u32> = rankings.iter().flat_map(|r| r.2.iter().copied()).collect();
    answers.sort_unstable();
    answers.dedup();
    let place: BTreeMap<u32, usize> = answers.iter().enumerate().map(|(i, &a)| (a, i)).collect();
    let peaks = |weights: &[f64]| -> Option<[f64; 2]> {
        let mut peaks = [0.0; 2];
        for (peak, (layers, labels, groups)) in peaks.iter_mut().zip(&rankings) {
            let weigh = |row: usize| {
                let w = weights[place[&groups[row]]];
                if labels[row] { (w, 0.0) } else { (0.0, w) }
            };
            let areas: Vec<f64> = layers.iter().map(|r| r.auroc_weighted(weigh)).collect::<Option<_>>()?;
            let best = (0..areas.len()).fold(0, |b, l| if areas[l] > areas[b] { l } else { b });
            *peak = best as f64;
        }
        Some(peaks)
    };
    let value = peaks(&vec![1.0; answers.len()])?;
    let boot = Bootstrap { draws, seed, ..Bootstrap::default() };
    let drawn: Vec<[f64; 2]> = boot.clustered_draws(&answers, peaks).into_iter().flatten().collect();
    let interval = |value: f64, f: &dyn Fn(&[f64; 2]) -> f64| -> Option<[f64; 3]> {
        let values: Vec<f64> = drawn.iter().map(f).collect();
        let at = |q| meden_stats::quantile::quantile(&values, q);
        Some([value, at(0.025)?, at(0.975)?])
    };
    Some(Order {
        conflict: interval(value[0], &|d| d[0])?,
        source: interval(value[1], &|d| d[1])?,
        difference: interval(value[1] - value[0], &|d| d[1] - d[0])?,
    })
}
