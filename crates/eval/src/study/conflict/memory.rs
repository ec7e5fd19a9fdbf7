//! What a model knows without a text: every fact is asked closed book, in several wordings.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::answer::is_one_of;
use super::ask::{Asker, Prefix};
use super::companions::Companions;
use super::data::{QUESTIONS, Relation};
use super::prompt::example;
use crate::error::EvalError;
use crate::study::Journal;

/// What came of asking for a fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// What was written, one a wording; the third is asked only where the first two disagree.
    pub written: Vec<String>,
    /// Whether two of three were right.
    pub known: bool,
    /// For a known fact: log-probability of the answer's first token in the first wording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// For a known fact: rank (1 is the likeliest) of the first token of every answer of the relation, in the order of
    /// [`answers`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<u32>,
}

/// The key of a fact in files.
pub fn key(relation: &Relation, fact: usize) -> String {
    format!("{}/{}", relation.name, relation.facts[fact].subject)
}

/// Different answers of a relation, as contexts name them, in the order of the facts.
pub fn answers(relation: &Relation) -> Vec<&str> {
    let mut all: Vec<&str> = Vec::new();
    for fact in &relation.facts {
        if !all.contains(&fact.answer()) {
            all.push(fact.answer());
        }
    }
    all
}

/// Asks for every fact of the relations that is not in the journal yet.
///
/// # Errors
/// What the engine refuses; cancellation, with what is done in the journal.
pub fn recall(
    asker: &Asker<'_>,
    (relations, prefix): (&[Relation], &Prefix),
    journal: &mut Journal<Recall>,
    companions: &mut Companions<'_>,
) -> Result<(), EvalError> {
    let total: usize = relations.iter().map(|r| r.facts.len()).sum();
    let mut done = 0;
    for relation in relations {
        let mut firsts = Vec::new();
        for answer in answers(relation) {
            firsts.push(asker.answer_ids(answer)?.first().copied().unwrap_or(0));
        }
        for fact in 0..relation.facts.len() {
            companions.step("asking closed book", done, total)?;
            done += 1;
            if journal.get(&key(relation, fact)).is_none() {
                let recall = one(asker, prefix, (relation, fact, &firsts), companions)?;
                journal.put(key(relation, fact), recall)?;
            }
        }
    }
    Ok(())
}

fn one(
    asker: &Asker<'_>,
    prefix: &Prefix,
    (relation, number, firsts): (&Relation, usize, &[u32]),
    companions: &mut Companions<'_>,
) -> Result<Recall, EvalError> {
    let fact = &relation.facts[number];
    let mut written = Vec::new();
    let (mut right, mut first) = (0, None);
    for wording in 0..QUESTIONS {
        // two that agree decide
        if wording == 2 && right != 1 {
            break;
        }
        let question = example(None, &relation.question(wording, fact), None);
        let asked = asker.ask(prefix, &question, companions.cancel)?;
        right += usize::from(is_one_of(&asked.written, &fact.answers, relation.exact));
        written.push(asked.written);
        first.get_or_insert(asked.first);
    }
    let known = right >= 2;
    let first = first.filter(|_| known);
    let own = asker.answer_ids(fact.answer())?.first().copied().unwrap_or(0);
    Ok(Recall {
        written,
        known,
        confidence: first.as_ref().map(|f| -f.nll(own)),
        ranks: first.map_or_else(Vec::new, |f| firsts.iter().map(|&id| f.rank(id) as u32).collect()),
    })
}

/// How many facts of each relation are known: (relation, facts, known), in the order of the relations.
pub fn table(relations: &[Relation], journal: &Journal<Recall>) -> Vec<(String, usize, usize)> {
    relations
        .iter()
        .map(|relation| {
            let known = (0..relation.facts.len()).filter(|&f| journal.get(&key(relation, f)).is_some_and(|r| r.known));
            (relation.name.clone(), relation.facts.len(), known.count())
        })
        .collect()
}

/// Known facts as (relation, fact), by number, with what came of asking.
pub fn known<'j>(relations: &[Relation], journal: &'j Journal<Recall>) -> HashMap<(usize, usize), &'j Recall> {
    let mut all = HashMap::new();
    for (r, relation) in relations.iter().enumerate() {
        for fact in 0..relation.facts.len() {
            if let Some(recall) = journal.get(&key(relation, fact)).filter(|recall| recall.known) {
                all.insert((r, fact), recall);
            }
        }
    }
    all
}
