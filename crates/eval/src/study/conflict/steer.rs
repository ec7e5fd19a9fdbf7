//! What happens when the stream is pushed towards one source: the direction between the means of rows that followed the
//! text and rows that followed memory is added at the last token of one layer.
//!
//! Directions come from the folds that the prompt's fact is not in. Sizes are multiples of the distance between the
//! means.

use std::collections::BTreeMap;

use meden_engine::{Control, Site};
use meden_lens::capture::{Selection, capture};
use meden_lens::edit::{At, Change, Edit, Edits, Values};
use meden_lens::place::{Place, Positions};
use meden_lens::probe::{Method, Probe};
use meden_stats::{Distribution, Ranking, moments};
use serde::{Deserialize, Serialize};

use super::activations::Activations;
use super::ask::Asker;
use super::behaviour::{Prefixes, Source, source};
use super::cells::{Cell, Says};
use super::companions::Companions;
use super::controls::Known;
use super::prompt::Demos;
use super::signals::{CHOSEN, Signals};
use super::task::Task;
use crate::error::EvalError;
use crate::study::Journal;

/// What came of one prompt under one push.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pushed {
    /// What was written.
    pub written: String,
    /// Where it comes from.
    pub source: Source,
    /// Kurtosis of the stream behind each layer.
    pub kurtosis: Vec<f32>,
    /// Score of the conflict probe of each layer.
    pub conflict: Vec<f32>,
}

/// One strength of the push over all prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Multiples of the distance between the means: above 0 towards the text, below towards memory, 0 for none.
    pub strength: f64,
    /// Prompts.
    pub prompts: usize,
    /// Shares of answers from [the text, memory, neither].
    pub shares: [f64; 3],
    /// For each layer: AUROC of the conflict probe, pushed conflicts against true contexts that were not pushed.
    pub conflict_auroc: Vec<f64>,
    /// For each layer: mean kurtosis.
    pub kurtosis: Vec<f64>,
}

/// What is pushed.
pub struct Push<'a> {
    /// The source question, whose rows give the direction.
    pub task: &'a Task,
    /// The conflict question's probes.
    pub signals: &'a Signals,
    /// Where it is added.
    pub layer: usize,
    /// Most prompts.
    pub prompts: usize,
    /// Strengths, 0 among them.
    pub strengths: &'a [f64],
}

/// Pushes prompts with agreeing demonstrations and false contexts, one a fact.
///
/// # Errors
/// What the engine refuses; cancellation.
pub fn steer(
    asker: &Asker<'_>,
    push: &Push<'_>,
    (known, prefixes): (&Known<'_>, &mut Prefixes<'_>),
    (activations, journal): (&Activations, &mut Journal<Pushed>),
    companions: &mut Companions<'_>,
) -> Result<Vec<Arm>, EvalError> {
    let place = Place::new(CHOSEN, push.layer);
    let examples = push.task.examples(activations.rows(place, &push.task.cells)?)?;
    let directions = push.task.plan().probes(&Method::DifferenceOfMeans, &examples)?;
    let chosen = choose(known, push.prompts);
    let total = chosen.len() * push.strengths.len();
    let mut done = 0;
    let mut arms = Vec::new();
    for &strength in push.strengths {
        let mut pushed = Vec::new();
        for &number in &chosen {
            companions.step("steering", done, total)?;
            done += 1;
            let cell = &known.cells[number];
            let key = format!("{strength}/{}", cell.key(known.relations, known.design));
            if journal.get(&key).is_none() {
                let fold = known.design.cases[cell.case].fold;
                let direction = directions.iter().find(|(f, _)| *f == fold).map(|(_, p)| p.weight());
                let edit = direction.filter(|_| strength != 0.0).map(|d| (place, d, strength));
                let one = one(asker, (cell, edit), (known, prefixes), push.signals, companions)?;
                journal.put(key.clone(), one)?;
            }
            pushed.extend(journal.get(&key).cloned());
        }
        arms.push(arm(strength, &pushed, &chosen, (known, push.signals, activations))?);
    }
    Ok(arms)
}

/// Conflicts with agreeing demonstrations, one a fact, contexts in turn.
fn choose(known: &Known<'_>, most: usize) -> Vec<usize> {
    let fits = |cell: &Cell| cell.demos == Demos::Agree && cell.is_of_premise();
    let all: Vec<usize> = (0..known.cells.len()).filter(|&n| fits(&known.cells[n])).collect();
    let count = most.min(all.len());
    (0..count).map(|i| all[i * all.len() / count]).collect()
}

/// Where a direction is added, which, and how strongly.
type Added<'a> = (Place, &'a [f32], f64);

fn one(
    asker: &Asker<'_>,
    (cell, edit): (&Cell, Option<Added<'_>>),
    (known, prefixes): (&Known<'_>, &mut Prefixes<'_>),
    signals: &Signals,
    companions: &mut Companions<'_>,
) -> Result<Pushed, EvalError> {
    let config = asker.model.config();
    let prefix = prefixes.of(cell, companions)?;
    let question = cell.question(known.relations, known.design);
    let (ids, read) = asker.tail(prefix, &question)?;
    let hook = || -> Result<Option<Edits>, EvalError> {
        let Some((place, direction, strength)) = edit else { return Ok(None) };
        let row = direction.iter().map(|&d| (strength * f64::from(d)) as f32).collect();
        let at = At::Some(vec![ids.len() as u32 - 1]);
        let edit = Edit { place, heads: None, at, change: Change::Add(Values::Same(row)) };
        Ok(Some(Edits::new(vec![edit], config)?))
    };
    let mut writing = hook()?;
    let mut control = Control { cancel: Some(companions.cancel), ..Control::default() };
    if let Some(edits) = &mut writing {
        control.hooks.push(edits);
    }
    // what follows the last token of the question is not edited, so the hook is only there for the question
    let asked = asker.ask_with(prefix, &question, control, companions.cancel)?;
    let mut looking = hook()?;
    let mut control = Control { cancel: Some(companions.cancel), ..Control::default() };
    if let Some(edits) = &mut looking {
        control.hooks.push(edits);
    }
    let places: Vec<Place> = (0..config.layers).map(|l| Place::new(Site::ResidPost, l)).collect();
    let selection = Selection::new(places.clone(), Positions::Last);
    let captured = capture(prefix.session(), &[ids[read..].to_vec()], &selection, &mut control)?;
    let fold = known.design.cases[cell.case].fold;
    let (mut kurtosis, mut conflict) = (Vec::new(), Vec::new());
    for place in places {
        let row = captured.row(place, 0).unwrap_or_default();
        let spread = Distribution::of(row.iter().map(|&v| f64::from(v)));
        kurtosis.push(spread.map_or(f32::NAN, |d| d.kurtosis as f32));
        conflict.push(probe_of(signals, place, fold).map_or(Ok(f64::NAN), |p| p.score(row))? as f32);
    }
    let source = source(&asked.written, cell, known.relations, known.design);
    Ok(Pushed { written: asked.written, source, kurtosis, conflict })
}

fn probe_of(signals: &Signals, place: Place, fold: u32) -> Option<&Probe> {
    signals.get(&place)?.probes.iter().find(|(f, _)| *f == fold).map(|(_, p)| p)
}

fn arm(
    strength: f64,
    pushed: &[Pushed],
    chosen: &[usize],
    (known, signals, activations): (&Known<'_>, &Signals, &Activations),
) -> Result<Arm, EvalError> {
    let share = |which: &[Source]| {
        pushed.iter().filter(|p| which.contains(&p.source)).count() as f64 / pushed.len().max(1) as f64
    };
    // the true context of the same fact and wording, not pushed
    let place_of: BTreeMap<Cell, usize> = known.cells.iter().enumerate().map(|(n, c)| (*c, n)).collect();
    let calm: Vec<usize> =
        chosen.iter().filter_map(|&n| place_of.get(&Cell { says: Says::Truth, ..known.cells[n] })).copied().collect();
    let layers = pushed.first().map_or(0, |p| p.kurtosis.len());
    let (mut conflict_auroc, mut kurtosis) = (Vec::new(), Vec::new());
    for layer in 0..layers {
        let place = Place::new(Site::ResidPost, layer);
        kurtosis.push(moments::mean(&pushed.iter().map(|p| f64::from(p.kurtosis[layer])).collect::<Vec<_>>()));
        let rows = activations.rows(place, &calm)?;
        let (mut scores, mut labels, mut folds) = (Vec::new(), Vec::new(), Vec::new());
        for (p, &n) in pushed.iter().zip(chosen) {
            scores.push(f64::from(p.conflict[layer]));
            labels.push(true);
            folds.push(known.design.cases[known.cells[n].case].fold);
        }
        for (row, &n) in calm.iter().enumerate() {
            let fold = known.design.cases[known.cells[n].case].fold;
            let Some(probe) = probe_of(signals, place, fold) else { continue };
            scores.push(probe.score(rows.row(row))?);
            labels.push(false);
            folds.push(fold);
        }
        let area = Ranking::within(&scores, &folds).and_then(|r| r.auroc(&labels));
        conflict_auroc.push(area.unwrap_or(f64::NAN));
    }
    Ok(Arm {
        strength,
        prompts: pushed.len(),
        shares: [share(&[Source::Context]), share(&[Source::Memory]), share(&[Source::Neither, Source::Agreed])],
        conflict_auroc,
        kurtosis,
    })
}
