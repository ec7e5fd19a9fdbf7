//! The tug of war between the two answers, layer by layer, through the logit lens.

use meden_engine::{Model, Site};
use meden_lens::logit_lens::LogitLens;
use meden_lens::place::Place;
use meden_lens::probability::{log_sum_exp, standing};
use meden_lens::probe::{Estimate, Judging, Scored};
use meden_stats::bootstrap::Bootstrap;
use meden_stats::moments;
use serde::{Deserialize, Serialize};

use super::activations::Activations;
use super::companions::Companions;
use super::task::Task;
use crate::error::EvalError;
use crate::study::Journal;

/// How the first tokens of both answers stand at one layer, for each row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standings {
    /// Log-probability of the text's answer.
    pub context: Vec<f32>,
    /// Of memory's.
    pub memory: Vec<f32>,
    /// Rank of the text's answer, 1 for the likeliest.
    pub context_rank: Vec<u32>,
    /// Of memory's.
    pub memory_rank: Vec<u32>,
}

/// A layer of the tug of war, for answers that followed the text or memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tug {
    /// Mean log-probability of the text's answer in rows that follow [memory, the text].
    pub context: [Estimate; 2],
    /// Of memory's answer.
    pub memory: [Estimate; 2],
    /// Median rank of the text's answer.
    pub context_rank: [f64; 2],
    /// Of memory's answer.
    pub memory_rank: [f64; 2],
    /// AUROC of the margin between the two for the source.
    pub margin: Estimate,
}

/// Rows whose logits are held at once.
const BLOCK: usize = 64;

/// Reads every row of the source question at every layer that is not in the journal yet. `firsts` are the first tokens
/// of [the text's, memory's] answer of each row.
///
/// # Errors
/// What the lens refuses; cancellation.
pub fn tug(
    (task, firsts): (&Task, &[[u32; 2]]),
    (activations, model): (&Activations, &Model),
    judging: &Judging,
    journal: &mut Journal<Standings>,
    companions: &mut Companions<'_>,
) -> Result<Vec<Tug>, EvalError> {
    let layers = model.config().layers;
    let end = Place::new(Site::ResidPost, layers - 1);
    let mut all = Vec::new();
    for layer in 0..layers {
        companions.step("reading through the logit lens", layer, layers)?;
        let key = format!("{layer}");
        if journal.get(&key).is_none_or(|s| s.context.len() != firsts.len()) {
            let rows = activations.rows(Place::new(Site::ResidPost, layer), &task.cells)?;
            let ends = activations.rows(end, &task.cells)?;
            let values = |rows: &meden_lens::probe::Rows, range: std::ops::Range<usize>| -> Vec<f32> {
                range.flat_map(|r| rows.row(r).to_vec()).collect()
            };
            let lens = LogitLens::new(model);
            let mut s = Standings { context: vec![], memory: vec![], context_rank: vec![], memory_rank: vec![] };
            for first in (0..firsts.len()).step_by(BLOCK) {
                let range = first..(first + BLOCK).min(firsts.len());
                let place = Place::new(Site::ResidPost, layer);
                let logits = lens.logits(place, &values(&rows, range.clone()), &values(&ends, range.clone()))?;
                for (row, logits) in range.zip(logits.chunks_exact(model.config().vocab)) {
                    let lse = log_sum_exp(logits);
                    let [context, memory] = firsts[row].map(|id| standing(logits, lse, id));
                    s.context.push(context.logprob as f32);
                    s.memory.push(memory.logprob as f32);
                    s.context_rank.push(context.rank as u32);
                    s.memory_rank.push(memory.rank as u32);
                }
            }
            journal.put(key.clone(), s)?;
        }
        if let Some(standings) = journal.get(&key) {
            all.push(layer_of(task, standings, judging)?);
        }
    }
    Ok(all)
}

fn layer_of(task: &Task, s: &Standings, judging: &Judging) -> Result<Tug, EvalError> {
    let boot = Bootstrap { draws: judging.draws, seed: judging.seed, level: judging.level, ..Bootstrap::default() };
    let mean = |values: &[f32], class: bool| {
        let values: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
        let of = |drawn: &[f64]| {
            let weights: Vec<f64> = (0..values.len())
                .map(|r| if task.labels[r] == class { drawn[r] * task.weights[r] } else { 0.0 })
                .collect();
            moments::weighted_mean(&values, &weights)
        };
        let value = of(&vec![1.0; values.len()]).unwrap_or(f64::NAN);
        let interval = boot.clustered(&task.groups, of);
        let (low, high) = interval.map_or((f64::NAN, f64::NAN), |i| (i.low, i.high));
        Estimate { value, low, high }
    };
    let median = |ranks: &[u32], class: bool| {
        let of: Vec<f64> =
            ranks.iter().zip(&task.labels).filter(|(_, l)| **l == class).map(|(&r, _)| f64::from(r)).collect();
        meden_stats::quantile::median(&of).unwrap_or(f64::NAN)
    };
    let classes = [false, true];
    Ok(Tug {
        context: classes.map(|c| mean(&s.context, c)),
        memory: classes.map(|c| mean(&s.memory, c)),
        context_rank: classes.map(|c| median(&s.context_rank, c)),
        memory_rank: classes.map(|c| median(&s.memory_rank, c)),
        margin: margin(task, s).pick(&task.rows_of(true)).evaluate(judging)?.auroc,
    })
}

/// The margin between the two answers at a layer, as a predictor of the source.
pub fn margin(task: &Task, s: &Standings) -> Scored {
    Scored {
        scores: s.context.iter().zip(&s.memory).map(|(&c, &m)| f64::from(c) - f64::from(m)).collect(),
        labels: task.labels.clone(),
        groups: task.groups.clone(),
        strata: task.strata.clone(),
    }
}
