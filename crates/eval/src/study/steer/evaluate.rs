//! The same questions again, steered.

use std::collections::BTreeMap;

use meden_engine::{Control, Session};
use meden_lens::steer::{SteerHook, Steering, Toward};
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::kv_lab::distance::LogProbs;
use crate::study::Journal;
use crate::study::conflict::answer::is_one_of;
use crate::study::conflict::ask::{ANSWER_TOKENS, Asker, Prefix};
use crate::study::conflict::behaviour::{Prefixes, Source, source};
use crate::study::conflict::cells::Cell;
use crate::study::conflict::companions::Companions;
use crate::study::conflict::data::Relation;
use crate::study::conflict::design::Design;
use crate::study::conflict::prompt::{Demo, example};

/// What is done to the model.
#[derive(Clone, Copy)]
pub enum Arm<'a> {
    /// Nothing.
    Plain,
    /// Activations are edited.
    Steer {
        /// How.
        steering: &'a Steering,
        /// Which way.
        toward: Toward,
        /// How strongly.
        strength: f32,
    },
    /// Context-aware decoding (arXiv 2305.14739): `(1 + a) log p(.|text, question) - a log p(.|question)`; above 0 the
    /// text counts more, -1 is the closed book.
    Cad {
        /// Weight a.
        weight: f32,
        /// Demonstrations without texts, for the second session.
        closed: &'a Prefix,
    },
}

/// What came of a prompt under an arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// What was written.
    pub written: String,
    /// Where it comes from; for a closed book, `Agreed` is right.
    pub source: Source,
    /// Log-probability of the first token of what the text says, less that of what the model knows.
    pub leaning: f64,
    /// Length of the change relative to the row's, summed over layers; 0 where nothing is edited.
    pub relative: f64,
    /// KL divergence of the first token from the plain run, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
}

/// What prompts are asked.
#[derive(Clone, Copy)]
pub struct Questions<'a> {
    /// Relations.
    pub relations: &'a [Relation],
    /// Facts.
    pub design: &'a Design,
    /// Sets of demonstrations.
    pub sets: &'a [Vec<Demo<'a>>],
}

/// Asks cells under an arm; answers go to the journal under `<name>|<cell>`, and what is there is not asked again.
///
/// # Errors
/// What the engine refuses; cancellation, with what is done in the journal.
pub fn ask(
    asker: &Asker<'_>,
    questions: Questions<'_>,
    (name, arm, cells): (&str, Arm<'_>, &[Cell]),
    journal: &mut Journal<Answered>,
    companions: &mut Companions<'_>,
) -> Result<(), EvalError> {
    let Questions { relations, design, sets } = questions;
    let mut prefixes = Prefixes::new(*asker, sets);
    for (done, cell) in cells.iter().enumerate() {
        companions.step(name, done, cells.len())?;
        let key = format!("{name}|{}", cell.key(relations, design));
        if journal.get(&key).is_some() {
            continue;
        }
        let case = &design.cases[cell.case];
        let relation = &relations[case.relation];
        let prefix = prefixes.of(cell, companions)?;
        let question = cell.question(relations, design);
        let bare = example(None, &relation.question(0, &relation.facts[case.fact]), None);
        let (written, first, relative) = run(asker, prefix, (&question, &bare), arm, companions)?;
        let says = asker.answer_ids(cell.says_of(relation, case))?;
        let knows = asker.answer_ids(relation.facts[case.fact].answer())?;
        let logprob = |ids: &[u32]| ids.first().map_or(f64::NEG_INFINITY, |&id| -first.nll(id));
        let source = source(&written, cell, relations, design);
        let leaning = logprob(&says) - logprob(&knows);
        journal.put(key, Answered { written, source, leaning, relative, kl: None })?;
    }
    Ok(())
}

/// Asks facts closed book under an arm: the damage to what the model knows. `plain` keeps what the first token is without
/// an edit, by case.
///
/// # Errors
/// As [`ask`].
pub fn ask_closed(
    asker: &Asker<'_>,
    (questions, prefix): (Questions<'_>, &Prefix),
    (name, arm, cases): (&str, Arm<'_>, &[usize]),
    (journal, plain): (&mut Journal<Answered>, &mut BTreeMap<usize, LogProbs>),
    companions: &mut Companions<'_>,
) -> Result<(), EvalError> {
    for (done, &number) in cases.iter().enumerate() {
        companions.step(name, done, cases.len())?;
        let case = &questions.design.cases[number];
        let relation = &questions.relations[case.relation];
        let fact = &relation.facts[case.fact];
        let key = format!("{name}|closed/{}/{}", relation.name, fact.subject);
        if journal.get(&key).is_some() {
            continue;
        }
        let question = example(None, &relation.question(0, fact), None);
        let (written, first, relative) = run(asker, prefix, (&question, &question), arm, companions)?;
        if let Arm::Plain = arm {
            plain.insert(number, first.clone());
        } else if let std::collections::btree_map::Entry::Vacant(e) = plain.entry(number) {
            let of = run(asker, prefix, (&question, &question), Arm::Plain, companions)?;
            e.insert(of.1);
        }
        let right = is_one_of(&written, &fact.answers, relation.exact);
        let source = if right { Source::Agreed } else { Source::Neither };
        let kl = plain.get(&number).map(|plain| plain.kl(&first));
        journal.put(key, Answered { written, source, leaning: 0.0, relative, kl })?;
    }
    Ok(())
}

/// One answer: its text, the first token's distribution, and how long the edit was.
fn run(
    asker: &Asker<'_>,
    prefix: &Prefix,
    (question, bare): (&str, &str),
    arm: Arm<'_>,
    companions: &Companions<'_>,
) -> Result<(String, LogProbs, f64), EvalError> {
    match arm {
        Arm::Plain => {
            let asked = asker.ask(prefix, question, companions.cancel)?;
            Ok((asked.written, asked.first, 0.0))
        }
        Arm::Steer { steering, toward, strength } => {
            let (ids, read) = asker.tail(prefix, question)?;
            let mut hook = SteerHook::new(steering, (toward, strength), prefix.session(), ids.len() - read);
            let mut control = Control { cancel: Some(companions.cancel), ..Control::default() };
            control.hooks.push(&mut hook);
            let asked = asker.ask_with(prefix, question, control, companions.cancel)?;
            Ok((asked.written, asked.first, hook.applied().relative))
        }
        Arm::Cad { weight, closed } => {
            let with = Reader::new(asker, prefix, question, companions)?;
            let without = Reader::new(asker, closed, bare, companions)?;
            let (written, first) = contrast(asker, (with, without), weight, companions)?;
            Ok((written, first, 0.0))
        }
    }
}

/// A session that has read a prompt.
struct Reader {
    session: Session,
    logits: Vec<f32>,
}

impl Reader {
    fn new(
        asker: &Asker<'_>,
        prefix: &Prefix,
        question: &str,
        companions: &Companions<'_>,
    ) -> Result<Reader, EvalError> {
        let (ids, read) = asker.tail(prefix, question)?;
        let mut session = prefix.session().fork()?;
        let mut control = Control { cancel: Some(companions.cancel), ..Control::default() };
        let logits = session.prefill(&ids[read..], &mut control)?;
        Ok(Reader { session, logits })
    }

    fn step(&mut self, id: u32, companions: &Companions<'_>) -> Result<(), EvalError> {
        let mut control = Control { cancel: Some(companions.cancel), ..Control::default() };
        self.logits = self.session.decode(id, &mut control)?.to_vec();
        Ok(())
    }
}

/// `(1 + a) log p - a log q` of two rows of logits, as logits.
pub fn contrasted(with: &[f32], without: &[f32], weight: f32) -> Vec<f32> {
    let shift = |logits: &[f32]| {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
        f64::from(largest) + sum.ln()
    };
    let (p, q) = (shift(with), shift(without));
    let weight = f64::from(weight);
    let one = |(&a, &b): (&f32, &f32)| {
        // at -1 exactly what is known without the text
        let (a, b) = (f64::from(a) - p, f64::from(b) - q);
        (if weight == -1.0 { b } else { (1.0 + weight) * a - weight * b }) as f32
    };
    with.iter().zip(without).map(one).collect()
}

fn contrast(
    asker: &Asker<'_>,
    (mut with, mut without): (Reader, Reader),
    weight: f32,
    companions: &Companions<'_>,
) -> Result<(String, LogProbs), EvalError> {
    let mut written = Vec::new();
    let first = LogProbs::of(&contrasted(&with.logits, &without.logits, weight));
    let mut next = first.first_choice();
    while written.len() < ANSWER_TOKENS && !asker.codec.is_end(next) {
        written.push(next);
        if asker.codec.decode(&written).contains('\n') || written.len() == ANSWER_TOKENS {
            break;
        }
        with.step(next, companions)?;
        without.step(next, companions)?;
        next = LogProbs::of(&contrasted(&with.logits, &without.logits, weight)).first_choice();
    }
    let text = asker.codec.decode(&written);
    Ok((text.split('\n').next().unwrap_or_default().trim().to_owned(), first))
}

/// Mean loss of the 32 tokens behind an edited one, and of the same tokens without the edit, nats a token, over windows of
/// some sequences of ordinary text.
///
/// # Errors
/// What the engine refuses; sequences that are too short.
pub fn prose_loss(
    session: &Session,
    sequences: &[Vec<u32>],
    (steering, toward, strength): (&Steering, Toward, f32),
    companions: &mut Companions<'_>,
) -> Result<[f64; 2], EvalError> {
    const BEHIND: usize = 32;
    let mut sums = [0f64; 2];
    let mut count = 0usize;
    for (done, ids) in sequences.iter().enumerate() {
        companions.step("loss on prose", done, sequences.len())?;
        if ids.len() < BEHIND + 2 {
            return Err(EvalError::TooShort { tokens: ids.len(), needed: BEHIND + 2 });
        }
        let at = ids.len() - BEHIND - 1;
        for (run, sum) in sums.iter_mut().enumerate() {
            let mut fork = session.fork()?;
            let mut hook = SteerHook::new(steering, (toward, strength), &fork, at + 1);
            let mut control = Control { cancel: Some(companions.cancel), ..Control::default() };
            if run == 1 {
                control.hooks.push(&mut hook);
            }
            let rows = meden_engine::LogitRows::All;
            fork.score(&ids[..ids.len() - 1], rows, &mut control, &mut |token, logits| {
                if token >= at {
                    *sum += LogProbs::of(logits).nll(ids[token + 1]);
                }
                Ok(())
            })?;
        }
        count += BEHIND;
    }
    Ok(sums.map(|sum| sum / count.max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contrasting_with_minus_one_is_the_closed_book_and_with_nothing_the_open_one() {
        let (with, without) = ([1.0, 2.0, -3.0, 0.5], [0.0, -1.0, 4.0, 4.5]);
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        let normal = |x: &[f32]| contrasted(x, x, 0.0);
        assert!(same(&contrasted(&with, &without, -1.0), &normal(&without)));
        assert!(same(&contrasted(&with, &without, 0.0), &normal(&with)));
        // more of the text: what the text makes likelier than memory does rises
        let more = contrasted(&with, &without, 0.6);
        assert!(more[1] - more[3] > with[1] - with[3]);
    }
}
