//! Prompts in the layout of the paper, and demonstrations before them.

use serde::{Deserialize, Serialize};

use super::data::{Fact, Relation};

/// What demonstrations show of the relation between context and answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demos {
    /// True contexts, true answers: they show the format alone (`doo` in the paper's code).
    Agree,
    /// False contexts, answers that follow them (`dss`).
    Follow,
    /// False contexts, true answers all the same (`dso`).
    Ignore,
    /// No demonstration.
    None,
}

impl Demos {
    /// Those with demonstrations.
    pub const SHOWN: [Demos; 3] = [Demos::Agree, Demos::Follow, Demos::Ignore];
    /// All of them.
    pub const ALL: [Demos; 4] = [Demos::Agree, Demos::Follow, Demos::Ignore, Demos::None];

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Demos::Agree => "demonstrations agree with the context (doo)",
            Demos::Follow => "demonstrations follow a false context (dss)",
            Demos::Ignore => "demonstrations ignore a false context (dso)",
            Demos::None => "no demonstrations",
        }
    }

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Demos::Agree => "agree",
            Demos::Follow => "follow",
            Demos::Ignore => "ignore",
            Demos::None => "none",
        }
    }
}

/// A fact that is shown to the model, with a false answer for its context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demo<'a> {
    /// Its relation.
    pub relation: &'a Relation,
    /// The fact.
    pub fact: &'a Fact,
    /// Another answer of the relation.
    pub other: &'a str,
    /// Number of its context.
    pub context: usize,
}

/// What stands before the question that is asked, without the blank line between.
pub fn demonstrations(demos: &[Demo<'_>], kind: Demos) -> String {
    if kind == Demos::None {
        return String::new();
    }
    let one = |demo: &Demo<'_>| {
        let truth = demo.fact.answer();
        let (said, answer) = match kind {
            Demos::Follow => (demo.other, demo.other),
            Demos::Ignore => (demo.other, truth),
            Demos::Agree | Demos::None => (truth, truth),
        };
        let context = demo.relation.context(demo.context, demo.fact, said);
        example(Some(&context), &demo.relation.question(0, demo.fact), Some(answer))
    };
    demos.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

/// Demonstrations of questions without contexts, for asking from memory.
pub fn closed_book_demonstrations(demos: &[Demo<'_>]) -> String {
    let one = |demo: &Demo<'_>| example(None, &demo.relation.question(0, demo.fact), Some(demo.fact.answer()));
    demos.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

/// One question; it ends with `answer:` where no answer is given.
pub fn example(context: Option<&str>, question: &str, answer: Option<&str>) -> String {
    let context = context.map(|c| format!("context: {c}\n")).unwrap_or_default();
    let answer = answer.map(|a| format!(" {a}")).unwrap_or_default();
    format!("{context}question: {question}\nanswer:{answer}")
}

/// The whole prompt.
pub fn prompt(demonstrations: &str, question: &str) -> String {
    if demonstrations.is_empty() { question.to_owned() } else { format!("{demonstrations}\n\n{question}") }
}

#[cfg(test)]
mod tests {
    use super::super::data::{FACTS, parse};
    use super::*;

    #[test]
    fn the_layout_is_the_papers() {
        let relations = parse(FACTS).unwrap();
        let relation = relations.iter().find(|r| r.name == "next_in_order").unwrap();
        let demo = Demo { relation, fact: &relation.facts[0], other: "Friday", context: 1 };
        let text =
            prompt(&demonstrations(std::slice::from_ref(&demo), Demos::Ignore), &example(Some("C."), "Q?", None));
        assert_eq!(
            text,
            "context: After Monday comes Friday.\nquestion: What comes right after Monday?\nanswer: Tuesday\n\n\
             context: C.\nquestion: Q?\nanswer:"
        );
        assert!(
            demonstrations(std::slice::from_ref(&demo), Demos::Follow)
                .ends_with("Friday.\nquestion: What comes right after Monday?\nanswer: Friday")
        );
        assert!(!demonstrations(std::slice::from_ref(&demo), Demos::Agree).contains("Friday"));
        assert_eq!(prompt(&demonstrations(std::slice::from_ref(&demo), Demos::None), "x"), "x");
        assert!(!closed_book_demonstrations(&[demo]).contains("context"));
    }
}
