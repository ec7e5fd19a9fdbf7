//! What the probes have to beat: controls that should be at chance, and predictors that need no activations.

use meden_lens::probe::controls::{Bench, Control, Kind};
use meden_lens::probe::evaluate::auroc_difference;
use meden_lens::probe::{Estimate, Evaluation, Examples, Judging, Method, Rows, Scored};
use serde::{Deserialize, Serialize};

use super::behaviour::Outcome;
use super::cells::Cell;
use super::data::Relation;
use super::design::Design;
use super::signals::Probing;
use super::task::Task;
use crate::error::EvalError;

/// What is known of the rows beside their activations.
pub struct Known<'a> {
    /// Relations.
    pub relations: &'a [Relation],
    /// Design.
    pub design: &'a Design,
    /// Cells.
    pub cells: &'a [Cell],
    /// Outcomes, beside the cells.
    pub outcomes: &'a [Outcome],
}

/// The controls at one place, judged on the contexts that training used.
///
/// # Errors
/// What training refuses.
pub fn controls(
    task: &Task,
    examples: &Examples,
    probing: &Probing,
    known: &Known<'_>,
) -> Result<Vec<Control>, EvalError> {
    let judged = task.rows_of(true);
    let bench = bench(task, examples, probing, &judged);
    let cells = || task.cells.iter().map(|&c| (&known.cells[c], &known.outcomes[c]));
    let texts: Vec<String> = cells().map(|(c, _)| c.question(known.relations, known.design)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let named: Vec<&str> = cells()
        .map(|(cell, _)| {
            let case = &known.design.cases[cell.case];
            cell.says_of(&known.relations[case.relation], case)
        })
        .collect();
    let lengths: Vec<usize> = cells().map(|(_, o)| o.tokens).collect();
    Ok(vec![bench.shuffled()?, bench.words(&texts)?, bench.answers(&named)?, bench.lengths(&lengths)?, bench.means()?])
}

fn bench<'a>(task: &'a Task, examples: &'a Examples, probing: &Probing, judged: &'a [usize]) -> Bench<'a> {
    Bench {
        examples,
        plan: task.plan(),
        strata: &task.strata,
        judged,
        judging: probing.judging,
        method: probing.method,
    }
}

/// A predictor of the source that needs no probe, and the probe's lead over it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// What it is.
    pub name: String,
    /// Its figures.
    pub evaluation: Evaluation,
    /// AUROC of the chosen probe less its own.
    pub lead: Estimate,
}

/// The predictors of the source: the margin between the two answers in the last layer, the entropy there, and how sure
/// the model was closed book.
///
/// # Errors
/// What training refuses.
pub fn baselines(
    task: &Task,
    (examples, chosen): (&Examples, &Scored),
    probing: &Probing,
    known: &Known<'_>,
) -> Result<Vec<Baseline>, EvalError> {
    let judged = task.rows_of(true);
    let bench = bench(task, examples, probing, &judged);
    let outcome = |row: usize| &known.outcomes[task.cells[row]];
    let margins = (0..task.labels.len()).map(|r| outcome(r).logprobs[0] - outcome(r).logprobs[1]).collect();
    let margin = Scored {
        scores: margins,
        labels: task.labels.clone(),
        groups: task.groups.clone(),
        strata: task.strata.clone(),
    };
    let single = |f: &dyn Fn(usize) -> f64| -> Result<Scored, EvalError> {
        let values: Vec<f32> = (0..task.labels.len()).map(|r| f(r) as f32).collect();
        Ok(bench.scores(Rows::new(values, 1)?, &Method::logistic(1e-4))?)
    };
    let confidence = |row: usize| known.design.cases[known.cells[task.cells[row]].case].confidence;
    let all = [
        ("first-token margin, last layer", margin.pick(&judged)),
        ("entropy of the first token", single(&|r| outcome(r).entropy)?),
        ("closed-book confidence", single(&confidence)?),
    ];
    all.into_iter().map(|(name, scored)| against(name, &scored, chosen, &probing.judging)).collect()
}

/// A predictor beside the chosen probe, on the same rows.
///
/// # Errors
/// Too few rows, scores of other rows.
pub fn against(name: &str, scored: &Scored, chosen: &Scored, judging: &Judging) -> Result<Baseline, EvalError> {
    Ok(Baseline {
        name: name.to_owned(),
        evaluation: scored.evaluate(judging)?,
        lead: auroc_difference(chosen, scored, judging)?,
    })
}

/// Whether every control is where chance would be, and the probe above all of them.
pub fn all_pass(controls: &[Control], probe: &Evaluation) -> bool {
    controls
        .iter()
        .filter(|c| c.kind != Kind::DifferenceOfMeans)
        .all(|c| c.passes == Some(true) && probe.auroc.low > c.evaluation.auroc.value)
}
