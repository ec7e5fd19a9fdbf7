//! Flags and readings that several of these verbs share.

use meden_engine::{Budget, Policy, PressSpec, Schedule, SkipOverflow};
use meden_eval::kv_lab::sweep::Spare;
use meden_eval::task::{Codec, Texts};

use crate::args::Layers;
use crate::exit::usage;
use crate::load::Opened;

/// Presses separated by commas; JSON with parameters may stand among them.
#[derive(Clone, Debug, PartialEq)]
pub struct PressList(pub Vec<PressSpec>);

impl std::str::FromStr for PressList {
    type Err = String;
    fn from_str(text: &str) -> Result<PressList, String> {
        let parts = split_outside_braces(text);
        let presses = parts.iter().map(|p| p.parse::<PressSpec>().map_err(|e| e.to_string()));
        presses.collect::<Result<Vec<_>, _>>().map(PressList)
    }
}

/// Parts between commas that stand in no braces or brackets.
fn split_outside_braces(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0i32);
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// What presses have to leave alone.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Cache")]
pub struct SpareArgs {
    /// First tokens that always stay
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub sinks: usize,
    /// Newest tokens that always stay
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub recents: usize,
    /// Layers that are left alone, as in 0,1, or none [default: what the press's paper says]
    #[arg(long, value_name = "LAYERS", value_parser = crate::args::parse_layers)]
    pub skip_layers: Option<Layers>,
    /// A skipped layer that outgrows the budget keeps its ends (window), or grows without bound (grow)
    #[arg(long, default_value = "window", value_name = "window|grow")]
    pub skip_overflow: SkipOverflow,
    /// When the press acts [default: prefill_chunk:256,decode_every:32 where that is a choice]
    #[arg(long, value_name = "WHEN")]
    pub schedule: Option<Schedule>,
}

impl SpareArgs {
    /// The same for the laboratory.
    pub fn spare(&self) -> Spare {
        Spare {
            sinks: self.sinks,
            recents: self.recents,
            skip_layers: self.skip_layers.clone().map(|l| l.0),
            skip_overflow: self.skip_overflow,
        }
    }

    /// The policy of a press and a budget, with `schedule` where the user said none.
    pub fn policy(&self, press: &PressSpec, budget: Budget, schedule: Option<Schedule>) -> Policy {
        let usual = || Policy::new(press.clone(), budget).schedule;
        let schedule = self.schedule.or(schedule).unwrap_or_else(usual);
        self.spare().policy(press, budget, schedule)
    }
}

/// The built-in real text: Jane Austen, Pride and Prejudice (1813), chapters 1 to 3, in the public domain.
const BOOK: &str = include_str!("../../../assets/pride-and-prejudice-1-3.txt");
const BOOK_NAME: &str = "pride-and-prejudice-1-3";

/// Which real text tasks are made of.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Text")]
pub struct TextArgs {
    /// A text of your own that tasks are made of [default: Pride and Prejudice, chapters 1 to 3, about 4,800 tokens]
    #[arg(long, value_name = "FILE")]
    pub text: Option<std::path::PathBuf>,
}

impl TextArgs {
    /// The text, under a name that changes with its content.
    pub fn read(&self, codec: &Codec<'_>) -> anyhow::Result<Texts> {
        let Some(path) = &self.text else {
            return Ok(Texts::new(BOOK_NAME, BOOK.trim_end(), codec)?);
        };
        let text = crate::prompt::read_text(path)?;
        if text.trim().is_empty() {
            return Err(usage(format!("--text {}: there is nothing in it", path.display())));
        }
        let mut hash = meden_files::hash::Hash::sha256();
        hash.update(text.as_bytes());
        let hex: String = hash.bytes().iter().take(4).map(|b| format!("{b:02x}")).collect();
        let file = path.file_name().map_or_else(|| "text".into(), |n| n.to_string_lossy());
        Ok(Texts::new(&format!("{file}:{hex}"), &text, codec)?)
    }

    /// The raw text of the file, or of the built-in book.
    pub fn raw(&self) -> anyhow::Result<String> {
        match &self.text {
            Some(path) => crate::prompt::read_text(path),
            None => Ok(BOOK.trim_end().to_owned()),
        }
    }
}

/// Text to ids for a model, and what a user should know about it.
pub fn codec(opened: &Opened) -> anyhow::Result<(Codec<'_>, Option<String>)> {
    let codec = Codec::new(opened.tokenizer.as_ref(), opened.template.as_ref(), opened.config.vocab)?;
    let note = codec.is_bytes().then(|| {
        "the model comes without a tokenizer: each byte of a text stands for the token of its value".to_owned()
    });
    Ok((codec, note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presses_are_split_at_commas_outside_their_json() {
        let list: PressList = r#"knorm,{"kind": "streaming_llm", "n_sink": 2},random"#.parse().unwrap();
        let names: Vec<&str> = list.0.iter().map(PressSpec::name).collect();
        assert_eq!(names, ["knorm", "streaming_llm", "random"]);
        assert!("knorm,,random".parse::<PressList>().is_err());
        assert!("nothing".parse::<PressList>().unwrap_err().contains("knorm"));
    }
}
