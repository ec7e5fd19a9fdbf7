//! From a study to something that can be asked while a model answers: two probes, and what they may be believed.
//!
//! Probes of the chosen layers are trained on all facts; the curves that turn their scores into probabilities, and the
//! figures they carry, come from the cross-fitted scores, which no probe of the same fact made. What is asked live has
//! agreeing demonstrations, so only such rows count here, as often as they came: most answers follow the text, and the
//! probability has to know that.

use meden_engine::Site;
use meden_lens::place::Place;
use meden_lens::probe::controls::Control;
use meden_lens::probe::file::{About, MadeOn, Position};
use meden_lens::probe::{Calibration, Judging, Method, ProbeFile, Reads, Scored};
use serde::{Deserialize, Serialize};

use super::activations::Activations;
use super::cells::Cell;
use super::prompt::Demos;
use super::signals::{CHOSEN, Choice, Signals, chosen_scores};
use super::task::{Asks, Task};
use crate::error::EvalError;

/// A probability beyond which a verdict is given; below it, and above its complement, the source is unsure.
pub const SURE: f64 = 0.8;

/// Which source an answer seems to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// From the document.
    Document,
    /// From memory.
    Memory,
    /// Neither is likely enough.
    Unsure,
}

impl Verdict {
    /// Of a probability that the document wins.
    pub fn of(document: f64) -> Verdict {
        if document >= SURE {
            Verdict::Document
        } else if document <= 1.0 - SURE {
            Verdict::Memory
        } else {
            Verdict::Unsure
        }
    }
}

/// How often verdicts were right on rows that no probe of their fact had seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdicts {
    /// Rows called "document", and of them those that were.
    pub document: [usize; 2],
    /// Rows called "memory", and of them those that were.
    pub memory: [usize; 2],
    /// Rows called "unsure".
    pub unsure: usize,
}

/// A probe for live use.
///
/// # Errors
/// What training refuses; too few rows of a class with agreeing demonstrations.
pub fn live(
    (task, cells): (&Task, &[Cell]),
    (signals, choice, controls): (&Signals, &Choice, &[Control]),
    (activations, model): (&Activations, MadeOn),
    (method, judging, preamble): (Method, &Judging, String),
) -> Result<(ProbeFile, Verdicts), EvalError> {
    let place = Place::new(CHOSEN, choice.layer);
    let examples = task.examples(activations.rows(place, &task.cells)?)?;
    let probe = task.plan().train(&method, &examples, |_| true)?;
    let (_, scored) = chosen_scores(task, signals);
    let asked: Vec<usize> = (0..task.labels.len()).filter(|&r| cells[task.cells[r]].demos == Demos::Agree).collect();
    let scored: Scored = scored.pick(&asked);
    let calibration = Calibration::fit(&scored.labels, &scored.scores)?;
    let mut verdicts = Verdicts::default();
    for (&score, &label) in scored.scores.iter().zip(&scored.labels) {
        let (counts, right) = match Verdict::of(calibration.probability(score)) {
            Verdict::Document => (&mut verdicts.document, label),
            Verdict::Memory => (&mut verdicts.memory, !label),
            Verdict::Unsure => {
                verdicts.unsure += 1;
                continue;
            }
        };
        counts[0] += 1;
        counts[1] += usize::from(right);
    }
    let reads = Reads { site: Site::ResidPost.name().to_owned(), layer: choice.layer, position: Position::Last };
    let mut about = About::new(model, reads, method, task.asks.classes());
    about.rows = task.seen.iter().filter(|s| **s).count();
    about.groups = task.groups.iter().collect::<std::collections::HashSet<_>>().len();
    about.evaluation = Some(scored.evaluate(judging)?);
    about.calibration = Some(calibration);
    about.controls = controls.to_vec();
    about.note = note(task.asks).to_owned();
    about.preamble = preamble;
    Ok((ProbeFile { probe, about }, verdicts))
}

fn note(asks: Asks) -> &'static str {
    match asks {
        Asks::Conflict => {
            "one to seven sentences of context that state or contradict one short fact the model knows, asked in the \
             layout `context: ... question: ... answer:` with three agreeing demonstrations"
        }
        Asks::Source => {
            "contexts of one to seven sentences that contradict one short fact the model knows, asked in the layout \
             `context: ... question: ... answer:` with three agreeing demonstrations"
        }
    }
}
