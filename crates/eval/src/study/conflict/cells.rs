//! The prompts of a fact: every kind of demonstrations, every context, every answer that the context may name.

use serde::{Deserialize, Serialize};

use super::data::{Relation, TRAINING_CONTEXTS};
use super::design::{Case, Design, OTHERS};
use super::prompt::{Demo, Demos, example};
use meden_stats::Rng;

/// Which answer a context names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Says {
    /// The true one.
    Truth,
    /// A false one, by number.
    Other(usize),
}

/// One prompt about one fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// Number of the case.
    pub case: usize,
    /// What the demonstrations show.
    pub demos: Demos,
    /// Number of the set of demonstrations.
    pub set: usize,
    /// Number of the context.
    pub context: usize,
    /// What the context says.
    pub says: Says,
}

impl Cell {
    /// Whether the context contradicts what the model knows.
    pub fn is_conflict(&self) -> bool {
        self.says != Says::Truth
    }

    /// Whether the context is of those that training uses.
    pub fn is_seen(&self) -> bool {
        self.context < TRAINING_CONTEXTS
    }

    /// The name in files.
    pub fn key(&self, relations: &[Relation], design: &Design) -> String {
        let case = &design.cases[self.case];
        let relation = &relations[case.relation];
        let says = match self.says {
            Says::Truth => relation.facts[case.fact].answer(),
            Says::Other(n) => &case.others[n].answer,
        };
        let (demos, set, subject) = (self.demos.name(), self.set, &relation.facts[case.fact].subject);
        format!("{}/{subject}/{demos}-{set}/{}/{says}", relation.name, self.context)
    }

    /// What is asked: context and question.
    pub fn question(&self, relations: &[Relation], design: &Design) -> String {
        let case = &design.cases[self.case];
        let relation = &relations[case.relation];
        let fact = &relation.facts[case.fact];
        let context = relation.context(self.context, fact, self.says_of(relation, case));
        example(Some(&context), &relation.question(0, fact), None)
    }

    /// The answer that the context names.
    pub fn says_of<'a>(&self, relation: &'a Relation, case: &'a Case) -> &'a str {
        match self.says {
            Says::Truth => relation.facts[case.fact].answer(),
            Says::Other(n) => &case.others[n].answer,
        }
    }
}

/// Every prompt of the design. Each kind of demonstrations is used with every context and both false answers; true
/// contexts come with agreeing demonstrations, where the conflict probe reads them; without demonstrations only the
/// first context is asked, for the premise. Sets of demonstrations take turns over facts and contexts.
pub fn cells(relations: &[Relation], design: &Design, sets: usize) -> Vec<Cell> {
    let mut all = Vec::new();
    for (number, case) in design.cases.iter().enumerate() {
        for context in 0..relations[case.relation].contexts.len() {
            let set = (number + context) % sets.max(1);
            let cell = |demos, says| Cell { case: number, demos, set, context, says };
            for demos in Demos::SHOWN {
                all.extend((0..OTHERS).map(|n| cell(demos, Says::Other(n))));
            }
            all.push(cell(Demos::Agree, Says::Truth));
            if context == 0 {
                all.push(Cell { set: 0, ..cell(Demos::None, Says::Other(0)) });
            }
        }
    }
    all
}

/// Sets of demonstrations, each of `size` facts of different relations, drawn from those that only serve as such.
/// Fewer where there are fewer such relations.
pub fn demonstration_sets(relations: &[Relation], (sets, size): (usize, usize), seed: u64) -> Vec<Vec<Demo<'_>>> {
    let pool: Vec<&Relation> = relations.iter().filter(|r| r.demo).collect();
    (0..sets)
        .map(|set| {
            let mut rng = Rng::new(seed, set as u64);
            let mut order: Vec<&Relation> = pool.clone();
            rng.shuffle(&mut order);
            order.truncate(size);
            let drawn = order.into_iter().filter_map(|relation| {
                let fact = &relation.facts[rng.below(relation.facts.len() as u64) as usize];
                let mut others: Vec<&str> = relation.facts.iter().map(|f| f.answer()).collect();
                others.retain(|o| !fact.answers.iter().any(|a| a == o));
                let chosen = rng.below(others.len() as u64) as usize;
                let other = *others.get(chosen)?;
                Some(Demo { relation, fact, other, context: rng.below(TRAINING_CONTEXTS as u64) as usize })
            });
            drawn.collect()
        })
        .collect()
}
