//! Which facts are tested, with which false answers, in which fold.
//!
//! A false answer is a true answer of another known fact of the same relation, so that a text's words do not tell false
//! contexts from true ones. Answers of a relation are parted into *pods*; false answers come from the fact's own pod,
//! each answer as often as it is a true one there, and a pod lies in one fold: what a probe is tested on, it has met
//! neither as a true nor as a false answer.

use std::collections::{BTreeMap, HashSet};

use meden_lens::probe::split;
use serde::{Deserialize, Serialize};

use super::answer::normalise;
use super::ask::Asker;
use super::assign::cheapest;
use super::data::{Fact, Relation};
use super::memory::{Recall, answers, known};
use crate::error::EvalError;
use crate::study::Journal;

/// Folds that facts are tested in.
pub const FOLDS: usize = 5;
/// False answers of a fact.
pub const OTHERS: usize = 2;
/// Fewest answers of a pod: a fact needs two false ones.
const POD: usize = OTHERS + 1;
/// A cost that no pairing of many facts makes up for.
const NEVER: f64 = 1e9;

/// A known fact as it is tested.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Number of its relation.
    pub relation: usize,
    /// Number of the fact in its relation.
    pub fact: usize,
    /// Number of its answer among all answers of all relations: facts of one answer are drawn together.
    pub cluster: u32,
    /// Fold that it is tested in.
    pub fold: u32,
    /// False answers.
    pub others: [Other; OTHERS],
    /// Log-probability of the true answer's first token, closed book.
    pub confidence: f64,
}

/// A false answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// As contexts name it.
    pub answer: String,
    /// All that is accepted for it.
    pub accepted: Vec<String>,
    /// Rank of its first token, closed book.
    pub rank: u32,
    /// Tokens more than the true answer has.
    pub longer: i64,
}

/// How well false answers are matched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Matching {
    /// Share of false answers with as many tokens as the true one.
    pub same_tokens: f64,
    /// Median closed-book rank of false answers.
    pub median_rank: f64,
    /// Median ratio of the ranks of a fact's two false answers, the larger over the smaller.
    pub median_rank_ratio: f64,
    /// Share of answers that are false exactly twice as often as they are true.
    pub balanced: f64,
}

/// What is tested.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Design {
    /// Facts, in the order of the data.
    pub cases: Vec<Case>,
    /// How well false answers are matched.
    pub matching: Matching,
    /// Known facts that are not tested, and why.
    pub left_out: Vec<(String, usize)>,
}

/// A known fact under way.
struct Known<'a> {
    relation: usize,
    fact: usize,
    answer: usize, // in the relation's answers
    recall: &'a Recall,
}

/// Makes the design of everything that is known. `most` limits the facts of one answer (those of the first of them in the
/// data stay), so that Europe or euro do not outweigh all others.
///
/// # Errors
/// What the tokenizer refuses.
pub fn design(
    asker: &Asker<'_>,
    relations: &[Relation],
    journal: &Journal<Recall>,
    (most, seed): (usize, u64),
) -> Result<Design, EvalError> {
    let recalls = known(relations, journal);
    let mut design = Design::default();
    let mut pods: Vec<Vec<Case>> = Vec::new();
    let mut clusters = 0;
    for (number, relation) in relations.iter().enumerate().filter(|(_, r)| !r.demo) {
        let names = answers(relation);
        let mut words = Vec::new();
        for name in &names {
            words.push(asker.answer_ids(name)?);
        }
        let mut facts: Vec<Known<'_>> = Vec::new();
        let mut per_answer = vec![0usize; names.len()];
        let mut beyond = 0;
        for (f, fact) in relation.facts.iter().enumerate() {
            let Some(recall) = recalls.get(&(number, f)) else { continue };
            let answer = names.iter().position(|n| *n == fact.answer()).unwrap_or(0);
            per_answer[answer] += 1;
            if per_answer[answer] > most {
                beyond += 1;
                continue;
            }
            facts.push(Known { relation: number, fact: f, answer, recall });
        }
        leave_out(&mut design, format!("{}: more than {most} facts of one answer", relation.name), beyond);
        let parts = part(&facts, &words);
        if parts.is_empty() {
            leave_out(&mut design, format!("{}: fewer than {POD} answers are known", relation.name), facts.len());
        }
        for part in parts {
            let members: Vec<&Known<'_>> = facts.iter().filter(|k| part.contains(&k.answer)).collect();
            let (cases, without) = pair(relation, &members, &words, clusters);
            leave_out(&mut design, format!("{}: no two false answers fit", relation.name), without);
            pods.push(cases);
        }
        clusters += names.len() as u32;
    }
    place(&mut design, pods, seed)?;
    design.matching = matching(&design.cases, relations);
    Ok(design)
}

fn leave_out(design: &mut Design, why: String, count: usize) {
    if count > 0 {
        design.left_out.push((why, count));
    }
}

/// The answers of each pod: neighbours in number of tokens and of facts, so that false answers match.
fn part(facts: &[Known<'_>], words: &[Vec<u32>]) -> Vec<HashSet<usize>> {
    let mut count: BTreeMap<usize, usize> = BTreeMap::new();
    facts.iter().for_each(|k| *count.entry(k.answer).or_default() += 1);
    let mut order: Vec<usize> = count.keys().copied().collect();
    order.sort_by_key(|a| (words[*a].len(), std::cmp::Reverse(count[a]), *a));
    let pods = (order.len() / POD).min(FOLDS);
    (0..pods).map(|p| order[p * order.len() / pods..(p + 1) * order.len() / pods].iter().copied().collect()).collect()
}

/// Gives each fact of a pod two false answers, each answer as often as it is true there; how many facts found none.
fn pair(relation: &Relation, members: &[&Known<'_>], words: &[Vec<u32>], clusters: u32) -> (Vec<Case>, usize) {
    let n = members.len();
    let fits = |row: usize, column: usize| {
        let (own, other) = (members[row].answer, members[column].answer);
        let (fact, source) = (&relation.facts[members[row].fact], &relation.facts[members[column].fact]);
        own != other && words[own].first() != words[other].first() && apart(fact, source, relation.exact)
    };
    let mut cost = vec![NEVER; n * n];
    for row in 0..n {
        for column in (0..n).filter(|&c| fits(row, c)) {
            let (own, other) = (&words[members[row].answer], &words[members[column].answer]);
            let rank = members[row].recall.ranks.get(members[column].answer).copied().unwrap_or(1);
            cost[row * n + column] = 2.0 * own.len().abs_diff(other.len()) as f64 + 0.25 * f64::from(rank.max(1)).ln();
        }
    }
    let mut chosen: Vec<Vec<usize>> = vec![Vec::new(); n];
    for _ in 0..OTHERS {
        let columns = cheapest(&cost, n);
        for (row, column) in columns.into_iter().enumerate() {
            // where the balance leaves nothing that fits, the cheapest that does
            let best = || (0..n).min_by(|&a, &b| cost[row * n + a].total_cmp(&cost[row * n + b])).unwrap_or(column);
            let column = if cost[row * n + column] < NEVER { column } else { best() };
            if cost[row * n + column] >= NEVER {
                continue;
            }
            let answer = members[column].answer;
            chosen[row].push(answer);
            (0..n).filter(|&c| members[c].answer == answer).for_each(|c| cost[row * n + c] = NEVER);
        }
    }
    let mut cases = Vec::new();
    for (known, others) in members.iter().zip(&chosen) {
        let Ok(others) = <[usize; OTHERS]>::try_from(others.clone()) else { continue };
        cases.push(Case {
            relation: known.relation,
            fact: known.fact,
            cluster: clusters + known.answer as u32,
            fold: 0,
            others: others.map(|answer| other(relation, known, answer, words)),
            confidence: known.recall.confidence.unwrap_or(f64::NAN),
        });
    }
    let without = n - cases.len();
    (cases, without)
}

fn other(relation: &Relation, known: &Known<'_>, answer: usize, words: &[Vec<u32>]) -> Other {
    let name = answers(relation)[answer].to_owned();
    let mut accepted: Vec<String> = Vec::new();
    for fact in relation.facts.iter().filter(|f| f.answer() == name) {
        for alias in &fact.answers {
            if !accepted.contains(alias) {
                accepted.push(alias.clone());
            }
        }
    }
    Other {
        answer: name,
        accepted,
        rank: known.recall.ranks.get(answer).copied().unwrap_or(0),
        longer: words[answer].len() as i64 - words[known.answer].len() as i64,
    }
}

/// No accepted answer of one is one of the other, and the false one shares no word with the subject.
fn apart(fact: &Fact, source: &Fact, exact: bool) -> bool {
    let forms = |f: &Fact| f.answers.iter().map(|a| normalise(a, exact)).collect::<HashSet<String>>();
    let words = |text: &str| normalise(text, exact).split(' ').map(str::to_owned).collect::<HashSet<String>>();
    forms(fact).is_disjoint(&forms(source)) && words(&fact.subject).is_disjoint(&words(source.answer()))
}

/// Puts pods into folds of about equal size.
fn place(design: &mut Design, pods: Vec<Vec<Case>>, seed: u64) -> Result<(), EvalError> {
    let groups: Vec<u32> = pods.iter().enumerate().flat_map(|(p, cases)| vec![p as u32; cases.len()]).collect();
    let distinct = pods.iter().filter(|p| !p.is_empty()).count();
    // too few pods to test anything: the caller says so, and the design still shows what is known
    let folds = if distinct < FOLDS { vec![0; groups.len()] } else { split::folds(&groups, FOLDS, seed)? };
    design.cases = pods.into_iter().flatten().zip(folds).map(|(case, fold)| Case { fold, ..case }).collect();
    Ok(())
}

fn matching(cases: &[Case], relations: &[Relation]) -> Matching {
    let others: Vec<&Other> = cases.iter().flat_map(|c| &c.others).collect();
    let share = |count: usize, of: usize| if of == 0 { f64::NAN } else { count as f64 / of as f64 };
    let ratio = |c: &Case| {
        let [a, b] = [0, 1].map(|i| f64::from(c.others[i].rank.max(1)));
        a.max(b) / a.min(b)
    };
    let median = |values: Vec<f64>| meden_stats::quantile::median(&values).unwrap_or(f64::NAN);
    let mut counts: BTreeMap<(usize, &str), (usize, usize)> = BTreeMap::new();
    for case in cases {
        let own = relations[case.relation].facts[case.fact].answer();
        counts.entry((case.relation, own)).or_default().0 += 1;
        case.others.iter().for_each(|o| counts.entry((case.relation, o.answer.as_str())).or_default().1 += 1);
    }
    Matching {
        same_tokens: share(others.iter().filter(|o| o.longer == 0).count(), others.len()),
        median_rank: median(others.iter().map(|o| f64::from(o.rank)).collect()),
        median_rank_ratio: median(cases.iter().map(ratio).collect()),
        balanced: share(counts.values().filter(|(t, f)| *f == OTHERS * t).count(), counts.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(answers: &[&str]) -> Relation {
        let facts = answers.iter().enumerate();
        let fact = |(i, a): (usize, &&str)| Fact { subject: format!("s{i}"), answers: vec![(*a).to_owned()] };
        let lines = |n: usize, line: &str| vec![line.to_owned(); n];
        Relation {
            name: "r".into(),
            exact: false,
            demo: false,
            questions: lines(3, "{s}?"),
            contexts: lines(4, "{s} {a}"),
            facts: facts.map(fact).collect(),
        }
    }

    /// Everything known; first tokens are the answers' first letters, ranks the answers' numbers.
    fn paired(names: &[&str]) -> (Relation, Vec<Case>, usize) {
        let relation = relation(names);
        let all = answers(&relation);
        let words: Vec<Vec<u32>> = all.iter().map(|a| a.bytes().map(u32::from).collect()).collect();
        let ranks: Vec<u32> = (1..=all.len() as u32).collect();
        let recall = Recall { written: vec![], known: true, confidence: Some(-1.0), ranks };
        let facts: Vec<Known<'_>> = relation
            .facts
            .iter()
            .enumerate()
            .map(|(f, fact)| {
                let answer = all.iter().position(|a| *a == fact.answer()).unwrap();
                Known { relation: 0, fact: f, answer, recall: &recall }
            })
            .collect();
        let members: Vec<&Known<'_>> = facts.iter().collect();
        let (cases, without) = pair(&relation, &members, &words, 0);
        (relation.clone(), cases, without)
    }

    #[test]
    fn every_answer_is_false_twice_as_often_as_true_where_that_is_possible() {
        let (relation, cases, without) = paired(&["ab", "cd", "ef", "ab", "cd", "ef", "gh", "gh"]);
        assert_eq!((cases.len(), without), (8, 0));
        for case in &cases {
            let own = relation.facts[case.fact].answer();
            let [a, b] = &case.others;
            assert!(a.answer != b.answer && a.answer != own && b.answer != own, "{case:?}");
        }
        assert_eq!(matching(&cases, &[relation]).balanced, 1.0);
    }

    #[test]
    fn answers_that_begin_alike_or_stand_in_the_subject_are_no_false_answers() {
        let (_, cases, without) = paired(&["north one", "north two", "south", "west"]);
        assert_eq!((cases.len(), without), (4, 0));
        for case in &cases {
            let alike = |o: &Other| o.answer.starts_with("north");
            assert!(case.fact > 1 || !case.others.iter().any(alike), "{case:?}");
        }
        let mut shared = relation(&["x", "y"]);
        shared.facts[0].subject = "the y".into();
        assert!(!apart(&shared.facts[0], &shared.facts[1], false));
    }

    #[test]
    fn a_pod_without_balance_still_gives_each_fact_what_fits() {
        let (relation, cases, without) = paired(&["aa", "aa", "aa", "aa", "bb", "cc"]);
        assert_eq!((cases.len(), without), (6, 0));
        let matching = matching(&cases, &[relation]);
        assert!(matching.balanced < 1.0 && matching.same_tokens == 1.0, "{matching:?}");
    }

    #[test]
    fn pods_have_at_least_three_answers_and_part_them_all() {
        let recall = Recall { written: vec![], known: true, confidence: None, ranks: vec![] };
        for count in [0, 2, 3, 7, 40] {
            let facts: Vec<Known<'_>> =
                (0..count).map(|i| Known { relation: 0, fact: i, answer: i, recall: &recall }).collect();
            let words: Vec<Vec<u32>> = (0..count).map(|i| vec![0; 1 + i % 2]).collect();
            let pods = part(&facts, &words);
            assert_eq!(pods.len(), (count / 3).min(5), "{count}");
            assert!(pods.iter().all(|p| p.len() >= 3));
            assert_eq!(pods.iter().map(HashSet::len).sum::<usize>(), if count < 3 { 0 } else { count });
        }
    }
}
