//! What the model answers to every prompt, and whether the premise holds: that it follows a false text often, and
//! often does not.

use std::collections::BTreeMap;

use meden_engine::Control;
use meden_stats::interval::wilson;
use serde::{Deserialize, Serialize};

use super::answer::is_one_of;
use super::ask::{Asker, Prefix};
use super::cells::{Cell, Says};
use super::companions::Companions;
use super::data::Relation;
use super::design::Design;
use super::prompt::{Demo, Demos, demonstrations};
use crate::error::EvalError;
use crate::study::Journal;

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// It is what the text says, and not what the model knows.
    Context,
    /// It is what the model knows, and not what the text says.
    Memory,
    /// Text and memory agree, and this is it.
    Agreed,
    /// It is something else.
    Neither,
}

/// What came of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was written.
    pub written: String,
    /// Where it comes from.
    pub source: Source,
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Log-probability of the first token of what the text says, and of what the model knows.
    pub logprobs: [f64; 2],
    /// Entropy of the first token in nats.
    pub entropy: f64,
}

/// Reads demonstrations as they are needed and keeps them.
pub struct Prefixes<'a> {
    asker: Asker<'a>,
    sets: &'a [Vec<Demo<'a>>],
    read: BTreeMap<(Demos, usize), Prefix>,
}

impl<'a> Prefixes<'a> {
    /// None read yet.
    pub fn new(asker: Asker<'a>, sets: &'a [Vec<Demo<'a>>]) -> Prefixes<'a> {
        Prefixes { asker, sets, read: BTreeMap::new() }
    }

    /// The demonstrations of a cell, read.
    ///
    /// # Errors
    /// What the engine refuses; cancellation.
    pub fn of(&mut self, cell: &Cell, companions: &Companions<'_>) -> Result<&Prefix, EvalError> {
        let key = (cell.demos, cell.set);
        if !self.read.contains_key(&key) {
            let none = Vec::new();
            let demos = self.sets.get(cell.set).unwrap_or(&none);
            let mut control = Control { cancel: Some(companions.cancel), ..Control::default() };
            let prefix = self.asker.prefix(&demonstrations(demos, cell.demos), &mut control)?;
            self.read.insert(key, prefix);
        }
        Ok(&self.read[&key])
    }
}

/// Where an answer to a cell comes from.
pub fn source(written: &str, cell: &Cell, relations: &[Relation], design: &Design) -> Source {
    let case = &design.cases[cell.case];
    let relation = &relations[case.relation];
    let true_one = is_one_of(written, &relation.facts[case.fact].answers, relation.exact);
    match cell.says {
        Says::Truth if true_one => Source::Agreed,
        Says::Truth => Source::Neither,
        Says::Other(n) => {
            let false_one = is_one_of(written, &case.others[n].accepted, relation.exact);
            match (false_one, true_one) {
                (true, false) => Source::Context,
                (false, true) => Source::Memory,
                // both: the two share a form, and nobody can say which was meant
                _ => Source::Neither,
            }
        }
    }
}

/// Asks every cell that is not in the journal yet.
///
/// # Errors
/// What the engine refuses; cancellation, with what is done in the journal.
pub fn observe(
    asker: &Asker<'_>,
    (relations, design): (&[Relation], &Design),
    (cells, sets): (&[Cell], &[Vec<Demo<'_>>]),
    journal: &mut Journal<Outcome>,
    companions: &mut Companions<'_>,
) -> Result<(), EvalError> {
    let mut prefixes = Prefixes::new(*asker, sets);
    for (done, cell) in cells.iter().enumerate() {
        companions.step("asking with contexts", done, cells.len())?;
        let key = cell.key(relations, design);
        if journal.get(&key).is_some() {
            continue;
        }
        let case = &design.cases[cell.case];
        let relation = &relations[case.relation];
        let prefix = prefixes.of(cell, companions)?;
        let asked = asker.ask(prefix, &cell.question(relations, design), companions.cancel)?;
        let says = asker.answer_ids(cell.says_of(relation, case))?;
        let knows = asker.answer_ids(relation.facts[case.fact].answer())?;
        let logprob = |ids: &[u32]| ids.first().map_or(f64::NEG_INFINITY, |&id| -asked.first.nll(id));
        let outcome = Outcome {
            source: source(&asked.written, cell, relations, design),
            logprobs: [logprob(&says), logprob(&knows)],
            entropy: asked.first.entropy(),
            tokens: asked.tokens,
            written: asked.written,
        };
        journal.put(key, outcome)?;
    }
    Ok(())
}

/// Shares of answers to conflicting prompts under one kind of demonstrations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// What the demonstrations show.
    pub demos: Demos,
    /// Prompts.
    pub prompts: usize,
    /// Facts that they are about.
    pub facts: usize,
    /// Share that follows the text, with the 95% interval of as many independent answers as there are facts.
    pub context: [f64; 3],
    /// Share that follows memory.
    pub memory: [f64; 3],
    /// Share that does neither.
    pub neither: [f64; 3],
}

/// The shares, by kind of demonstrations, over the cells that `choose` takes.
pub fn shares<'c>(observed: impl Iterator<Item = (&'c Cell, &'c Outcome)> + Clone, demos: Demos) -> Option<Shares> {
    let mut facts = std::collections::HashSet::new();
    let mut counts = [0usize; 3];
    for (cell, outcome) in observed.filter(|(c, _)| c.demos == demos && c.is_conflict()) {
        facts.insert(cell.case);
        match outcome.source {
            Source::Context => counts[0] += 1,
            Source::Memory => counts[1] += 1,
            _ => counts[2] += 1,
        }
    }
    let prompts: usize = counts.iter().sum();
    if prompts == 0 {
        return None;
    }
    let share = |count: usize| {
        let value = count as f64 / prompts as f64;
        let n = facts.len() as u64;
        let whole = (value * n as f64).round() as u64;
        let i = wilson(whole, n, 0.95);
        [value, i.map_or(f64::NAN, |i| i.low), i.map_or(f64::NAN, |i| i.high)]
    };
    let [context, memory, neither] = counts.map(share);
    Some(Shares { demos, prompts, facts: facts.len(), context, memory, neither })
}

/// Whether a study can be made at all, and what to do where not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Premise {
    /// Shares with one context and one false answer a fact, by kind of demonstrations.
    pub shares: Vec<Shares>,
    /// Facts asked.
    pub facts: usize,
    /// Whether it holds under at least one kind of demonstrations or over all of them together: context and memory each
    /// at least 15%, neither at most 40%.
    pub holds: bool,
}

/// Least share of each source.
const LEAST: f64 = 0.15;
/// Most share of neither.
const MOST_NEITHER: f64 = 0.40;

impl Premise {
    /// The cells that it is about: one a fact and kind of demonstrations.
    pub fn cells(cells: &[Cell]) -> Vec<Cell> {
        cells.iter().filter(|c| c.is_of_premise()).copied().collect()
    }

    /// From what was observed.
    pub fn of<'c>(observed: impl Iterator<Item = (&'c Cell, &'c Outcome)> + Clone) -> Premise {
        let of = observed.filter(|(c, _)| c.is_of_premise());
        let shares: Vec<Shares> = Demos::ALL.into_iter().filter_map(|d| shares(of.clone(), d)).collect();
        let fine =
            |context: f64, memory: f64, neither: f64| context >= LEAST && memory >= LEAST && neither <= MOST_NEITHER;
        let shown: Vec<&Shares> = shares.iter().filter(|s| s.demos != Demos::None).collect();
        let mean = |f: fn(&Shares) -> f64| shown.iter().map(|s| f(s)).sum::<f64>() / shown.len().max(1) as f64;
        let together = fine(mean(|s| s.context[0]), mean(|s| s.memory[0]), mean(|s| s.neither[0]));
        let one = shown.iter().any(|s| fine(s.context[0], s.memory[0], s.neither[0]));
        let facts = shares.iter().map(|s| s.facts).max().unwrap_or(0);
        let holds = !shown.is_empty() && (together || one);
        Premise { shares, facts, holds }
    }
}
