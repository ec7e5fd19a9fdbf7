//! The labels of MMLU-Redux (arXiv 2406.04127) and the rows of its files.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::choice::import::{bytes, files, subject};
use crate::choice::item::{Item, key};
use crate::choice::literal::list;
use crate::choice::table::{Csv, items_error};
use crate::error::EvalError;

/// What is wrong with an item; the order is that of the paper's decision tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Nothing.
    Ok,
    /// The question is unclear or lacks what is needed.
    BadQuestionClarity,
    /// The options are unclear or cut.
    BadOptionsClarity,
    /// No option is right.
    NoCorrectAnswer,
    /// Several options are right.
    MultipleCorrectAnswers,
    /// One option is right, and it is not the key.
    WrongGroundtruth,
    /// The annotator could not decide.
    Expert,
}

impl Label {
    /// All labels, in the order of the tables.
    pub const ALL: [Label; 7] = [
        Label::Ok,
        Label::BadQuestionClarity,
        Label::BadOptionsClarity,
        Label::NoCorrectAnswer,
        Label::MultipleCorrectAnswers,
        Label::WrongGroundtruth,
        Label::Expert,
    ];

    /// The canonical spelling.
    pub fn name(self) -> &'static str {
        match self {
            Label::Ok => "ok",
            Label::BadQuestionClarity => "bad_question_clarity",
            Label::BadOptionsClarity => "bad_options_clarity",
            Label::NoCorrectAnswer => "no_correct_answer",
            Label::MultipleCorrectAnswers => "multiple_correct_answers",
            Label::WrongGroundtruth => "wrong_groundtruth",
            Label::Expert => "expert",
        }
    }

    /// The label of any spelling of the files: case, blanks and underscores say nothing. `None` for other words.
    pub fn parse(text: &str) -> Option<Label> {
        let plain = text.to_lowercase().replace('_', " ").split_whitespace().collect::<Vec<_>>().join("_");
        Label::ALL.into_iter().find(|l| l.name() == plain)
    }
}

/// What an annotator wrote as the right answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Correction {
    /// Nothing.
    None,
    /// Options that are right, ascending.
    Options(Vec<usize>),
    /// Words; never guessed at.
    Text(String),
}

impl Correction {
    /// Reads `2`, `B`, `A,B`, `1, 3`, `2 and 3` or `0 1 3` as options; anything else is text.
    pub fn parse(text: &str) -> Correction {
        let text = text.trim();
        if text.is_empty() {
            return Correction::None;
        }
        let option = |word: &str| match word.as_bytes() {
            [c @ b'0'..=b'3'] => Some(usize::from(c - b'0')),
            [c @ b'A'..=b'D'] => Some(usize::from(c - b'A')),
            _ => None,
        };
        let words = text.split([',', ' ']).filter(|w| !w.is_empty() && *w != "and" && *w != "or");
        match words.map(option).collect::<Option<Vec<_>>>() {
            Some(mut options) if !options.is_empty() => {
                options.sort_unstable();
                options.dedup();
                Correction::Options(options)
            }
            _ => Correction::Text(text.to_owned()),
        }
    }
}

/// A row of a Redux file.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// The item with its original key.
    pub item: Item,
    /// The label.
    pub label: Label,
    /// What the annotator held to be right.
    pub correction: Correction,
    /// Cells as in the file: error_type, source, correct_answer, potential_reason.
    pub raw: [String; 4],
}

impl Labelled {
    /// Options that count as right once repaired; `None` where the item cannot be repaired.
    pub fn repaired(&self) -> Option<&[usize]> {
        match (self.label, &self.correction) {
            (Label::Ok, _) => Some(&self.item.right),
            (Label::WrongGroundtruth | Label::MultipleCorrectAnswers, Correction::Options(options)) => Some(options),
            _ => None,
        }
    }

    /// Why label and correction contradict each other.
    pub fn contradiction(&self) -> Option<String> {
        let Correction::Options(options) = &self.correction else { return None };
        let has_key = options.contains(&self.item.answer);
        let why = match self.label {
            Label::Ok if !has_key => "labelled ok, but another option is named as right",
            Label::WrongGroundtruth if has_key => "labelled wrong_groundtruth, but the key itself is named as right",
            _ => return None,
        };
        Some(format!("{}: {why} ({})", self.item.id, self.raw[2].trim()))
    }
}

/// Rows of Redux files with what a reader should know.
#[derive(Clone, Debug, Default)]
pub struct Redux {
    /// The rows, by file and line.
    pub rows: Vec<Labelled>,
    /// Encodings that were guessed.
    pub notes: Vec<String>,
}

/// Reads a Redux file or a folder of them.
///
/// # Errors
/// A file that cannot be read, a row that is no item, a label that is none of the seven.
pub fn read(path: &Path) -> Result<Redux, EvalError> {
    let mut all = Redux::default();
    for file in files(path)? {
        one(&file.display().to_string(), &subject(&file), &bytes(&file)?, &mut all)?;
    }
    Ok(all)
}

fn one(name: &str, subject: &str, data: &[u8], all: &mut Redux) -> Result<(), EvalError> {
    let table = Csv::read(name, data)?;
    let [question, choices, answer] =
        [table.need(name, "question")?, table.need(name, "choices")?, table.need(name, "answer")?];
    let kept = ["error_type", "source", "correct_answer", "potential_reason"].map(|c| table.need(name, c));
    let [error_type, source, correct, reason] = kept;
    let kept = [error_type?, source?, correct?, reason?];
    for (row, (line, cells)) in table.rows.iter().enumerate() {
        let wrong = |why: String| items_error(name, *line, &why);
        let raw = kept.map(|c| cells[c].clone());
        let label = Label::parse(&raw[0]).ok_or_else(|| {
            let known = Label::ALL.map(Label::name).join(", ");
            wrong(format!("error_type `{}` is none of {known}", raw[0]))
        })?;
        let options = list(&cells[choices]).ok_or_else(|| wrong("`choices` is no list".to_owned()))?;
        let key =
            key(&cells[answer], &options).ok_or_else(|| wrong(format!("the answer `{}` is no key", cells[answer])))?;
        let item = Item {
            id: format!("{subject}/{row:03}"),
            subject: subject.to_owned(),
            question: cells[question].clone(),
            choices: options,
            answer: key,
            right: vec![key],
        };
        item.check().map_err(wrong)?;
        let correction = Correction::parse(&raw[2]);
        all.rows.push(Labelled { item, label, correction, raw });
    }
    all.notes.extend(table.notes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_become_seven_labels_and_nothing_else() {
        for text in ["OK ", "ok", "Bad Question Clarity", "bad_question_clarity", " No correct answer"] {
            assert!(Label::parse(text).is_some(), "{text}");
        }
        assert_eq!(Label::parse("fine"), None);
        assert_eq!(Label::parse(""), None);
        let mut all = Redux::default();
        let header = "question,choices,answer,error_type,source,correct_answer,potential_reason\n";
        let text = format!("{header}q,\"['a','b']\",0,fine,,,\n");
        let error = one("f.csv", "s", text.as_bytes(), &mut all).unwrap_err().to_string();
        assert!(error.contains("f.csv") && error.contains("line 2") && error.contains("fine"), "{error}");
    }

    #[test]
    fn a_correction_is_never_guessed() {
        let options = |o: &[usize]| Correction::Options(o.to_vec());
        for (text, expected) in [
            ("2 and 3", options(&[2, 3])),
            ("A,B", options(&[0, 1])),
            ("0 1 3", options(&[0, 1, 3])),
            ("1, 3", options(&[1, 3])),
            ("B", options(&[1])),
            ("", Correction::None),
        ] {
            assert_eq!(Correction::parse(text), expected, "{text}");
        }
        for text in ["30", "27.7 million", "7.69 (so ~8", "and", "a"] {
            assert!(matches!(Correction::parse(text), Correction::Text(_)), "{text}");
        }
    }
}
