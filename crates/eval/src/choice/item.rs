//! A question with its options and its key.

use serde::{Deserialize, Serialize};

/// Most options of an item: letters A to Z.
pub const MOST_OPTIONS: usize = 26;

/// A multiple-choice item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// `subject/row`, with the row in three digits, from 0.
    pub id: String,
    /// What it belongs to; the file's name where nothing else says.
    pub subject: String,
    /// The question, byte for byte.
    pub question: String,
    /// The options, byte for byte: 2 to 26.
    pub choices: Vec<String>,
    /// Index of the key; the first of several right ones.
    pub answer: usize,
    /// Indices of all options that count as right (TruthfulQA's second task has several), ascending.
    pub right: Vec<usize>,
}

impl Item {
    /// Checks what every item must hold to.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn check(&self) -> Result<(), String> {
        let n = self.choices.len();
        if self.question.trim().is_empty() {
            return Err("an empty question; remove the row".to_owned());
        }
        if !(2..=MOST_OPTIONS).contains(&n) {
            return Err(format!("{n} options; 2 to {MOST_OPTIONS} are needed"));
        }
        if self.answer >= n || self.right.iter().any(|&r| r >= n) {
            return Err(format!("the key is option {}, but there are {n}, counted from 0", self.answer));
        }
        Ok(())
    }

    /// The letter of an option.
    pub fn letter(option: usize) -> char {
        char::from(b'A' + (option.min(MOST_OPTIONS - 1)) as u8)
    }
}

/// The index that a key names: a number from 0, a letter, or the text of exactly one option.
pub fn key(text: &str, choices: &[String]) -> Option<usize> {
    let text = text.trim();
    if let Ok(index) = text.parse::<usize>() {
        return Some(index);
    }
    let mut letters = text.chars();
    if let (Some(c), None) = (letters.next(), letters.next())
        && c.is_ascii_alphabetic()
    {
        return Some(usize::from(c.to_ascii_uppercase() as u8 - b'A'));
    }
    let mut same = choices.iter().enumerate().filter(|(_, c)| c.trim() == text);
    match (same.next(), same.next()) {
        (Some((index, _)), None) => Some(index),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_number_a_letter_or_a_text() {
        let choices = ["red", "blue", "red"].map(str::to_owned);
        assert_eq!(key(" 2 ", &choices), Some(2));
        assert_eq!(key("b", &choices), Some(1));
        assert_eq!(key("blue", &choices), Some(1));
        assert_eq!(key("red", &choices), None);
        assert_eq!(key("", &choices), None);
        assert_eq!(key("9", &choices), Some(9));
    }
}
