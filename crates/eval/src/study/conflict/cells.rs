//! The prompts of a fact: every kind of demonstrations, every context, every answer that the context may name.

use serde::{Deserialize, Serialize};

use super::data::{Fact, Relation, TRAINING_CONTEXTS};
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

    /// Whether it is of those that the premise is judged by: one a fact and kind of demonstrations.
    pub fn is_of_premise(&self) -> bool {
        self.context == self.case % TRAINING_CONTEXTS && self.says == Says::Other(0)
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

/// The contexts that a fact is asked with: two of those for training and one of those held out, in turn over facts.
fn contexts_of(case: usize, contexts: usize) -> [usize; 3] {
    let held_out = (contexts - TRAINING_CONTEXTS).max(1);
    [case % TRAINING_CONTEXTS, (case + 1) % TRAINING_CONTEXTS, TRAINING_CONTEXTS + case % held_out]
}

/// Every prompt of the design. Each kind of demonstrations is used with both false answers; true contexts come with
/// agreeing demonstrations, where the conflict probe reads them; without demonstrations only the first context is asked,
/// for the premise. Sets of demonstrations take turns over facts and contexts.
pub fn cells(relations: &[Relation], design: &Design, sets: usize) -> Vec<Cell> {
    let mut all = Vec::new();
    for (number, case) in design.cases.iter().enumerate() {
        for context in contexts_of(number, relations[case.relation].contexts.len()) {
            let set = (number / TRAINING_CONTEXTS + context) % sets.max(1);
            let cell = |demos, says| Cell { case: number, demos, set, context, says };
            for demos in Demos::SHOWN {
                all.extend((0..OTHERS).map(|n| cell(demos, Says::Other(n))));
            }
            all.push(cell(Demos::Agree, Says::Truth));
            if context == number % TRAINING_CONTEXTS {
                all.push(Cell { set: 0, ..cell(Demos::None, Says::Other(0)) });
            }
        }
    }
    all
}

/// Sets of demonstrations, each of `size` facts, drawn from those that only serve as such and that `usable` takes
/// (relation, fact, by number). Facts of a set are of different relations as far as there are enough. An empty set where
/// no fact is usable.
///
/// A model that does not know the truth cannot see that a demonstration ignores its context: studies use known facts.
pub fn demonstration_sets<'a>(
    relations: &'a [Relation],
    (sets, size): (usize, usize),
    seed: u64,
    usable: impl Fn(usize, usize) -> bool,
) -> Vec<Vec<Demo<'a>>> {
    let pool: Vec<(&Relation, Vec<&Fact>)> = relations
        .iter()
        .enumerate()
        .filter(|(_, r)| r.demo)
        .map(|(n, r)| (r, r.facts.iter().enumerate().filter(|(f, _)| usable(n, *f)).map(|(_, f)| f).collect()))
        .filter(|(_, facts): &(&Relation, Vec<&Fact>)| !facts.is_empty())
        .collect();
    (0..sets)
        .map(|set| {
            let mut rng = Rng::new(seed, set as u64);
            let mut order: Vec<usize> = (0..pool.len()).collect();
            rng.shuffle(&mut order);
            let mut taken: Vec<&Fact> = Vec::new();
            let mut demos = Vec::new();
            // round and round over the relations, until the set is full or nothing is left
            for turn in 0..size * pool.len().max(1) {
                let Some(&at) = order.get(turn % pool.len().max(1)) else { break };
                let (relation, facts) = &pool[at];
                let left: Vec<&Fact> = facts.iter().filter(|f| !taken.contains(f)).copied().collect();
                if demos.len() == size || left.is_empty() {
                    continue;
                }
                let fact = left[rng.below(left.len() as u64) as usize];
                let others: Vec<&str> =
                    relation.facts.iter().map(Fact::answer).filter(|o| !fact.answers.iter().any(|a| a == o)).collect();
                let chosen = rng.below(others.len() as u64) as usize;
                let Some(&other) = others.get(chosen) else { continue };
                taken.push(fact);
                let context = rng.below(TRAINING_CONTEXTS as u64) as usize;
                demos.push(Demo { relation, fact, other, context });
            }
            demos
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::data::{FACTS, parse};
    use super::super::design::Other;
    use super::*;
    use std::collections::HashSet;

    fn design(facts: usize) -> Design {
        let other = |answer: &str| Other { answer: answer.into(), accepted: vec![], rank: 1, longer: 0 };
        let case = |fact: usize| Case {
            relation: 0,
            fact,
            cluster: fact as u32,
            fold: 0,
            others: [other("Atlantis"), other("Utopia")],
            confidence: 0.0,
        };
        Design { cases: (0..facts).map(case).collect(), ..Design::default() }
    }

    #[test]
    fn every_fact_has_every_kind_both_answers_and_one_cell_a_kind_for_the_premise() {
        let relations = parse(FACTS).unwrap();
        let design = design(12);
        let all = cells(&relations, &design, 3);
        let keys: HashSet<String> = all.iter().map(|c| c.key(&relations, &design)).collect();
        assert_eq!(keys.len(), all.len(), "no two cells are one");
        for case in 0..12 {
            let of: Vec<&Cell> = all.iter().filter(|c| c.case == case).collect();
            assert_eq!(of.len(), 3 * 7 + 1);
            assert_eq!(of.iter().filter(|c| c.is_seen() && c.demos != Demos::None).count(), 14);
            for demos in Demos::ALL {
                assert_eq!(of.iter().filter(|c| c.demos == demos && c.is_of_premise()).count(), 1);
            }
        }
        let question = all[0].question(&relations, &design);
        assert!(question.contains("Atlantis") && question.ends_with("answer:"), "{question}");
        assert_eq!(all.iter().map(|c| c.set).collect::<HashSet<_>>().len(), 3);
    }

    #[test]
    fn demonstrations_are_different_facts_and_another_answer() {
        let relations = parse(FACTS).unwrap();
        let sets = demonstration_sets(&relations, (4, 5), 1, |_, f| f % 2 == 0);
        assert_eq!(sets, demonstration_sets(&relations, (4, 5), 1, |_, f| f % 2 == 0));
        assert_ne!(sets[0], sets[1]);
        for set in &sets {
            let subjects: HashSet<&str> = set.iter().map(|d| d.fact.subject.as_str()).collect();
            assert_eq!(subjects.len(), 5);
            assert!(set.iter().all(|d| d.relation.demo && !d.fact.answers.iter().any(|a| a == d.other)));
        }
        assert!(demonstration_sets(&relations, (1, 3), 1, |_, _| false)[0].is_empty());
    }
}
