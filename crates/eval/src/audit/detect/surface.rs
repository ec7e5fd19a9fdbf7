//! Questions that point to something that is not there, or end in the middle.

use super::{Detector, Evidence, Finding};
use crate::choice::Item;

/// The detector.
pub struct Surface;

/// Words that point outside the item.
const OUTSIDE: [&str; 14] = [
    "the above",
    "above passage",
    "above figure",
    "the figure",
    "figure below",
    "the diagram",
    "the graph",
    "shown below",
    "the table below",
    "the following passage",
    "previous question",
    "the passage",
    "the picture",
    "pictured",
];
/// A question longer than this may hold the passage that it speaks of; in characters.
const HOLDS_A_PASSAGE: usize = 400;

impl Detector for Surface {
    fn name(&self) -> &'static str {
        "surface"
    }

    fn about(&self) -> &'static str {
        "a reference to a figure, passage or question that is not there, a stem that is too short, odd signs"
    }

    fn scan(&self, evidence: &Evidence<'_>) -> Vec<Option<Finding>> {
        evidence.items.iter().map(opinion).collect()
    }
}

fn opinion(item: &Item) -> Option<Finding> {
    let found = |score: f64, reason: String| Some(Finding { score, reason });
    let text = item.question.to_lowercase();
    if let Some(number) = numbered(&text) {
        return found(0.8, format!("speaks of question {number}, which is not there"));
    }
    if let Some(words) = OUTSIDE.iter().find(|w| text.contains(**w) && text.chars().count() < HOLDS_A_PASSAGE) {
        return found(0.6, format!("speaks of \"{words}\", and the item is short"));
    }
    if item.question.contains('\u{fffd}') {
        return found(0.5, "holds a sign that could not be decoded".to_owned());
    }
    if item.question.split_whitespace().count() < 3 {
        return found(0.4, "the question has fewer than three words".to_owned());
    }
    (text.matches('"').count() % 2 == 1).then(|| Finding { score: 0.2, reason: "an unpaired quote".to_owned() })
}

fn numbered(text: &str) -> Option<&str> {
    let after = text.split("question ").nth(1)?;
    let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    (digits > 0).then(|| &after[..digits])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let score = |question: &str| {
            let choices = ["a", "b"].map(str::to_owned).to_vec();
            let (id, subject, question) = ("s/0".to_owned(), "s".to_owned(), question.to_owned());
            opinion(&Item { id, subject, question, choices, answer: 0, right: vec![0] }).map(|f| f.score)
        };
        assert_eq!(score("Use your answer to question 21 here."), Some(0.8));
        assert_eq!(score("In the figure, what is the angle?"), Some(0.6));
        assert_eq!(score("The question is what it is."), None);
        assert_eq!(score("Why?"), Some(0.4));
    }
}
