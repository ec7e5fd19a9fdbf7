//! What is known of captured prompts: labels, groups, texts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use meden_lens::capture::CaptureFile;
use meden_lens::place::Place;
use meden_lens::probe::{Examples, Rows};
use serde::Deserialize;

use crate::exit::{Exit, failure, usage};
use crate::prompt;

/// Flags of labelled activations.
#[derive(clap::Args, Clone, Debug)]
pub struct LabelledArgs {
    /// Activations, as `meden lens capture` writes them
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// A label for each prompt: a line 0 or 1 (or a class name), or JSON lines with "label" and, where known, "group",
    /// "text" and "answer"
    #[arg(long, value_name = "FILE")]
    pub labels: PathBuf,
    /// Names of the two classes, as in no_conflict,conflict
    #[arg(long, value_delimiter = ',', default_value = "0,1", value_name = "FALSE,TRUE")]
    pub classes: Vec<String>,
}

/// A line of the labels.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    label: serde_json::Value,
    group: Option<serde_json::Value>,
    text: Option<String>,
    answer: Option<String>,
}

/// Captured rows with what is known of their prompts.
pub struct Labelled {
    /// The open capture.
    pub file: CaptureFile,
    /// Names of the classes.
    pub classes: [String; 2],
    /// One a row.
    pub labels: Vec<bool>,
    /// One a row: rows of one prompt, or of one group where groups are given, stay together.
    pub groups: Vec<u32>,
    /// One a row, where every prompt has one.
    pub texts: Option<Vec<String>>,
    /// One a row, where every prompt has one.
    pub answers: Option<Vec<String>>,
    /// Tokens of each row's prompt up to the row's own.
    pub lengths: Vec<usize>,
}

impl LabelledArgs {
    /// Opens the capture and puts the labels beside its rows.
    pub fn read(&self) -> anyhow::Result<Labelled> {
        let [no, yes] = <[String; 2]>::try_from(self.classes.clone())
            .map_err(|c| usage(format!("--classes: {} names; give two, as in no,yes", c.len())))?;
        if no == yes {
            return Err(usage(format!("--classes: both are called {no}")));
        }
        let file = CaptureFile::open(&self.from)?;
        let lines = self.lines(&[no.clone(), yes.clone()])?;
        if lines.len() != file.prompts() {
            return Err(failure(
                Exit::BadFile,
                format!(
                    "{}: {} labels, but {} has {} prompts; give one for each, in their order",
                    self.labels.display(),
                    lines.len(),
                    self.from.display(),
                    file.prompts()
                ),
            ));
        }
        let rows = file.rows();
        let each = |f: &dyn Fn(&Known) -> Option<String>| -> Option<Vec<String>> {
            rows.iter().map(|r| f(&lines[r.prompt])).collect()
        };
        Ok(Labelled {
            labels: rows.iter().map(|r| lines[r.prompt].label).collect(),
            groups: rows.iter().map(|r| lines[r.prompt].group).collect(),
            texts: each(&|k| k.text.clone()),
            answers: each(&|k| k.answer.clone()),
            lengths: rows.iter().map(|r| r.position + 1).collect(),
            classes: [no, yes],
            file,
        })
    }

    fn lines(&self, classes: &[String; 2]) -> anyhow::Result<Vec<Known>> {
        let text = prompt::read_text(&self.labels)?;
        let mut groups: HashMap<String, u32> = HashMap::new();
        let mut all: Vec<Known> = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let bad =
                |why: String| failure(Exit::BadFile, format!("{}, line {}: {why}", self.labels.display(), number + 1));
            let line = line.trim();
            let parsed = if line.starts_with('{') {
                serde_json::from_str(line).map_err(|e| bad(format!("no label: {e}")))?
            } else {
                Line { label: line.into(), group: None, text: None, answer: None }
            };
            let label = label(&parsed.label, classes).ok_or_else(|| {
                let [no, yes] = classes;
                bad(format!("`{}` is no label; 0, 1, {no} and {yes} are", parsed.label))
            })?;
            // a prompt without a group is one by itself
            let name = parsed.group.map_or_else(|| format!("\0{}", all.len()), |g| g.to_string());
            let next = groups.len() as u32;
            let group = *groups.entry(name).or_insert(next);
            all.push(Known { label, group, text: parsed.text, answer: parsed.answer });
        }
        Ok(all)
    }
}

struct Known {
    label: bool,
    group: u32,
    text: Option<String>,
    answer: Option<String>,
}

fn label(value: &serde_json::Value, classes: &[String; 2]) -> Option<bool> {
    use serde_json::Value;
    match value {
        Value::Bool(label) => Some(*label),
        Value::Number(n) => match n.as_f64() {
            Some(0.0) => Some(false),
            Some(1.0) => Some(true),
            _ => None,
        },
        Value::String(s) => match s.trim() {
            s if s == classes[0] => Some(false),
            s if s == classes[1] => Some(true),
            "0" | "false" => Some(false),
            "1" | "true" => Some(true),
            _ => None,
        },
        _ => None,
    }
}

impl Labelled {
    /// The rows of a place under their labels.
    pub fn examples(&self, place: Place) -> anyhow::Result<Examples> {
        let width = self.file.width(place).unwrap_or(0);
        let rows = Rows::new(self.file.read(place, 0..self.file.len())?, width)?;
        Ok(Examples::new(rows, self.labels.clone(), self.groups.clone())?)
    }

    /// Places of the capture that are meant: all that a probe can read for none.
    pub fn places(&self, named: Option<&str>, from: &Path) -> anyhow::Result<Vec<Place>> {
        let there: Vec<Place> = self.file.places().iter().filter(|p| !p.site.is_global()).copied().collect();
        let Some(named) = named else { return Ok(there) };
        let found =
            there.iter().find(|p| p.to_string() == named || format!("blocks.{}.hook_{}", p.layer, p.site) == named);
        match found {
            Some(place) => Ok(vec![*place]),
            None => {
                let all: Vec<String> = there.iter().map(ToString::to_string).collect();
                Err(usage(format!("--place {named}: not in {}, which has {}", from.display(), all.join(", "))))
            }
        }
    }
}
