//! Facts, ways to ask for them, and contexts to put them in.
//!
//! A plain text file, so that people can add relations: `[relation]` with `exact` (the case of letters counts) or `demo`
//! (its facts only serve as demonstrations) behind it, then `q` lines with ways to ask, `c` lines with contexts, and `=`
//! lines with facts: subject, answer, other accepted answers, parted by `|`. `{s}` stands for the subject, `{a}` for the
//! answer.

use super::answer::normalise;
use crate::error::EvalError;

/// Facts typed for this project, CC0.
pub const FACTS: &str = include_str!("data/facts.txt");
/// Subjects and objects of `evandez/relations`, MIT (see `data/LICENSE-relations.txt`).
pub const RELATIONS: &str = include_str!("data/relations.txt");

/// Ways to ask that a relation needs: a fact counts as known by two of three.
pub const QUESTIONS: usize = 3;
/// Contexts that training uses; those behind them are held out.
pub const TRAINING_CONTEXTS: usize = 3;
/// Fewest contexts of a relation, held-out ones included.
const CONTEXTS: usize = 4;

/// A kind of fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Its name.
    pub name: String,
    /// The case of letters counts in answers.
    pub exact: bool,
    /// Its facts only serve as demonstrations.
    pub demo: bool,
    /// Ways to ask; the first is used with contexts.
    pub questions: Vec<String>,
    /// Contexts; the first [`TRAINING_CONTEXTS`] are for training.
    pub contexts: Vec<String>,
    /// Its facts.
    pub facts: Vec<Fact>,
}

/// A subject and what is true of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Who or what it is about.
    pub subject: String,
    /// Accepted answers; the first is the one that contexts name.
    pub answers: Vec<String>,
}

impl Fact {
    /// The answer that contexts name.
    pub fn answer(&self) -> &str {
        &self.answers[0]
    }
}

impl Relation {
    /// A question about a fact.
    pub fn question(&self, number: usize, fact: &Fact) -> String {
        fill(&self.questions[number], &fact.subject, "")
    }

    /// A context that says `answer` of the fact's subject.
    pub fn context(&self, number: usize, fact: &Fact, answer: &str) -> String {
        fill(&self.contexts[number], &fact.subject, answer)
    }
}

/// Puts subject and answer into a template: what begins a sentence gets a capital, and `a` before a vowel becomes `an`.
fn fill(template: &str, subject: &str, answer: &str) -> String {
    let mut text = template.to_owned();
    for (mark, value) in [("{s}", subject), ("{a}", answer)] {
        if value.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']) {
            text = text.replace(&format!(" a {mark}"), &format!(" an {mark}"));
        }
        let capital = capitalised(value);
        if let Some(rest) = text.strip_prefix(mark) {
            text = format!("{capital}{rest}");
        }
        text = text.replace(&format!(". {mark}"), &format!(". {capital}"));
        text = text.replace(mark, value);
    }
    text
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Reads relations. Subjects are one a relation, since a relation that says two things of one subject has no answer.
///
/// # Errors
/// A line that is none of the above, a relation without enough questions, contexts or facts, a subject that comes twice;
/// each with the number of its line.
pub fn parse(text: &str) -> Result<Vec<Relation>, EvalError> {
    let mut relations: Vec<Relation> = Vec::new();
    let mut begun = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(i, l)| (i + 1, l.trim())) {
        let bad = |why: String| EvalError::Facts { line: number, why };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix('[') {
            let (name, flags) = head.split_once(']').ok_or_else(|| bad("a name ends with `]`".into()))?;
            let relation = begin(name, flags).map_err(bad)?;
            if relations.iter().any(|r| r.name == relation.name) {
                return Err(bad(format!("the relation {name} is there already; give it another name")));
            }
            relations.push(relation);
            begun.push(number);
            continue;
        }
        let Some(relation) = relations.last_mut() else {
            return Err(bad("facts begin with the name of a relation, as in [capital_of_country]".into()));
        };
        add(relation, line).map_err(bad)?;
    }
    if relations.is_empty() {
        return Err(EvalError::Facts { line: 1, why: "no relation in it".into() });
    }
    for (relation, line) in relations.iter().zip(begun) {
        let counts = (relation.questions.len(), relation.contexts.len(), relation.facts.len());
        if counts.0 < QUESTIONS || counts.1 < CONTEXTS || counts.2 < 2 {
            let (name, (q, c, f)) = (&relation.name, counts);
            let why = format!(
                "{name} has {q} questions, {c} contexts and {f} facts; at least {QUESTIONS}, {CONTEXTS} and 2 are needed"
            );
            return Err(EvalError::Facts { line, why });
        }
    }
    Ok(relations)
}

fn begin(name: &str, flags: &str) -> Result<Relation, String> {
    let name = name.trim();
    if name.is_empty() {
        return Err("a relation has a name, as in [capital_of_country]".into());
    }
    let mut relation = Relation {
        name: name.to_owned(),
        exact: false,
        demo: false,
        questions: Vec::new(),
        contexts: Vec::new(),
        facts: Vec::new(),
    };
    for flag in flags.split_whitespace() {
        match flag {
            "exact" => relation.exact = true,
            "demo" => relation.demo = true,
            other => return Err(format!("`{other}` behind the name of a relation; exact and demo are known")),
        }
    }
    Ok(relation)
}

fn add(relation: &mut Relation, line: &str) -> Result<(), String> {
    let Some((kind, rest)) = line.split_once(' ').map(|(k, r)| (k, r.trim())) else {
        return Err(format!("`{line}` is no line of facts; lines begin with q, c or ="));
    };
    let needs = |marks: &[&str]| match marks.iter().find(|m| !rest.contains(**m)) {
        Some(mark) => Err(format!("`{rest}` does not name {mark}")),
        None => Ok(rest.to_owned()),
    };
    match kind {
        "q" => relation.questions.push(needs(&["{s}"])?),
        "c" => relation.contexts.push(needs(&["{s}", "{a}"])?),
        "=" => {
            let mut parts = rest.split('|').map(|p| p.trim().to_owned());
            let subject = parts.next().unwrap_or_default();
            let answers: Vec<String> = parts.collect();
            if subject.is_empty() || answers.is_empty() || answers.iter().any(|a| normalise(a, true).is_empty()) {
                return Err(format!("`{rest}`: a fact is `= subject | answer`, none of them empty"));
            }
            if relation.facts.iter().any(|f| f.subject == subject) {
                return Err(format!("{subject} is in {} already; a subject has one answer", relation.name));
            }
            relation.facts.push(Fact { subject, answers });
        }
        other => return Err(format!("`{other}` begins no line of facts; q, c and = do")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "# note\n[capital]\nq Capital of {s}?\nq {s}'s capital?\nq What is {s} ruled from?\nc {a} is the capital of {s}.\nc {s} is ruled from {a}.\nc In {s}, {a} rules.\nc {s}: a {a}.\n= France | Paris\n= the Netherlands | Amsterdam | Amsterdam, NL\n";

    #[test]
    fn what_the_program_carries_reads_and_is_wide() {
        for (text, least) in [(FACTS, 1500), (RELATIONS, 3000)] {
            let relations = parse(text).unwrap();
            let facts: usize = relations.iter().map(|r| r.facts.len()).sum();
            assert!(facts >= least, "{facts}");
            for relation in &relations {
                assert!(relation.contexts.len() > TRAINING_CONTEXTS + 1, "{}", relation.name);
                let fact = &relation.facts[0];
                for number in 0..relation.contexts.len() {
                    let text = relation.context(number, fact, fact.answer());
                    assert!(text.contains(fact.answer()) && !text.contains('{'), "{text}");
                }
            }
        }
        assert!(parse(FACTS).unwrap().iter().filter(|r| r.demo).count() >= 3);
    }

    #[test]
    fn a_sentence_begins_with_a_capital_and_articles_fit() {
        let relation = &parse(SMALL).unwrap()[0];
        let fact = &relation.facts[1];
        assert_eq!(relation.context(1, fact, "Utrecht"), "The Netherlands is ruled from Utrecht.");
        assert_eq!(relation.context(3, fact, "Arnhem"), "The Netherlands: an Arnhem.");
        assert_eq!(relation.question(0, fact), "Capital of the Netherlands?");
    }

    #[test]
    fn lines_that_make_no_sense_are_refused_with_their_number() {
        let refused = |from: &str, to: &str| match parse(&SMALL.replace(from, to)).unwrap_err() {
            EvalError::Facts { line, why } => (line, why),
            other => panic!("{other}"),
        };
        assert_eq!(refused("q Capital of {s}?", "q Capital?").0, 3);
        assert!(refused("= France | Paris", "= France").1.contains("subject | answer"));
        assert!(refused("= France", "= the Netherlands").1.contains("already"));
        assert!(refused("[capital]", "[capital] loud").1.contains("loud"));
        assert!(refused("c {s}: a {a}.\n", "").1.contains("3 contexts"));
        assert_eq!(refused("[capital]\n", "").0, 2);
        assert!(parse("").is_err());
    }
}
