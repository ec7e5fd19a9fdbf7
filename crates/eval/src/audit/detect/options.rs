//! Options that repeat, are empty, or are pieces of each other.

use super::duplicate::fold;
use super::{Detector, Evidence, Finding};
use crate::choice::Item;

/// The detector.
pub struct Options;

impl Detector for Options {
    fn name(&self) -> &'static str {
        "options"
    }

    fn about(&self) -> &'static str {
        "a repeated or empty option, one that begins another, `all of the above` not at the end"
    }

    fn scan(&self, evidence: &Evidence<'_>) -> Vec<Option<Finding>> {
        evidence.items.iter().map(opinion).collect()
    }
}

fn opinion(item: &Item) -> Option<Finding> {
    let found = |score: f64, reason: String| Some(Finding { score, reason });
    // case and punctuation may be what tells two options apart (Bb and BB), so only blanks are folded
    let texts: Vec<String> = item.choices.iter().map(|c| fold(c)).collect();
    let pairs = || (0..texts.len()).flat_map(|b| (0..b).map(move |a| (a, b)));
    let named = |a: usize, b: usize| format!("{} and {}", Item::letter(a), Item::letter(b));
    let same: Vec<(usize, usize)> = pairs().filter(|&(a, b)| texts[a] == texts[b]).collect();
    if let Some(&(a, b)) = same.iter().find(|(a, b)| *a == item.answer || *b == item.answer) {
        return found(1.0, format!("options {} are equal, and one of them is the key", named(a, b)));
    }
    if let Some(&(a, b)) = same.first() {
        return found(0.8, format!("options {} are equal", named(a, b)));
    }
    if let Some(empty) = texts.iter().position(String::is_empty) {
        return found(0.7, format!("option {} is empty", Item::letter(empty)));
    }
    let last = texts.len() - 1;
    let all = texts.iter().position(|t| t.to_lowercase().trim_end_matches('.') == "all of the above");
    if let Some(at) = all.filter(|&at| at != last) {
        return found(0.3, format!("option {} says all of the above, with options below it", Item::letter(at)));
    }
    let begins = |a: usize, b: usize| {
        texts[a].split(' ').count() > 2 && texts[b].len() > texts[a].len() && texts[b].starts_with(&texts[a])
    };
    if let Some((a, b)) = pairs().find(|&(a, b)| begins(a, b) || begins(b, a)) {
        return found(0.2, format!("of options {} one begins the other", named(a, b)));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(choices: &[&str], answer: usize) -> Option<f64> {
        let choices = choices.iter().map(|c| (*c).to_owned()).collect();
        let (id, subject, question) = ("s/0".to_owned(), "s".to_owned(), "q".to_owned());
        opinion(&Item { id, subject, question, choices, answer, right: vec![answer] }).map(|f| f.score)
    }

    #[test]
    fn a_repeated_key_is_certain_and_case_tells_options_apart() {
        assert_eq!(score(&["a b", "x", "a  b", "y"], 2), Some(1.0));
        assert_eq!(score(&["a b", "x", "a  b", "y"], 1), Some(0.8));
        assert_eq!(score(&["Bb", "BB", "bb"], 0), None);
        assert_eq!(score(&["p", "", "r"], 0), Some(0.7));
        assert_eq!(score(&["p", "All of the above.", "r"], 0), Some(0.3));
        assert_eq!(score(&["p", "q", "All of the above"], 0), None);
    }
}
