//! Tasks that show what a compressed cache has lost, one a file.
//!
//! A task makes items: something to read, and questions about it whose answers are known. Nothing is downloaded:
//! filler is made from word lists, and real text is the user's or a book that the program carries. An item depends on
//! its [`Place`] alone (seed, number, length), so a run can be stopped and gone on with, and split over machines.
//!
//! What is read is the part that a press compresses; the question follows afterwards, so a press cannot see what will
//! be asked ([`Question::Unseen`]), unless a study wants just that ([`Question::Seen`]). Either way the last token of
//! the prompt is read from the compressed cache, so the first token of an answer always comes from it.

mod capped;
mod codec;
mod continuation;
mod copy;
mod decode;
mod judge;
mod key_value;
mod labels;
mod needle;
mod passkey;
mod questions;
mod texts;
mod words;

use serde::{Deserialize, Serialize};

pub use codec::{Codec, Layout};
pub use judge::Judge;
pub use texts::Texts;

use crate::error::EvalError;

/// Which item: the same place gives the same item everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Seed of the data.
    pub seed: u64,
    /// Number of the item; depths go round with it.
    pub number: usize,
    /// Tokens of the part that is compressed, at most.
    pub length: usize,
}

/// What items are made of.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// Real text.
    pub texts: &'a Texts,
    /// Text to ids and back.
    pub codec: &'a Codec<'a>,
    /// Whether questions go through the chat template.
    pub template: bool,
}

/// A question about what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The question, in words.
    pub question: String,
    /// How the answer begins; given to the model.
    pub prefix: String,
    /// The right answer, which follows the prefix after a space.
    pub answer: String,
    /// Wrong answers of the same kind, where there are some.
    pub candidates: Vec<String>,
    /// How an answer is judged.
    pub judge: Judge,
}

/// What an item holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A text, and questions about it.
    Ask {
        /// What is read and compressed.
        context: String,
        /// What is asked; each question is asked of the same compressed cache, not one after the other.
        probes: Vec<Probe>,
    },
    /// Tokens that are read and compressed, and those that follow them in the text.
    Continue {
        /// Read and compressed.
        context: Vec<u32>,
        /// What follows, token by token.
        next: Vec<u32>,
    },
    /// Tokens read one after the other by a cache that is never larger than its cap.
    Capped {
        /// The text.
        ids: Vec<u32>,
    },
    /// A short prompt and a long answer, written with a cache that is never larger than its cap.
    Decode {
        /// What is read first.
        prompt: Vec<u32>,
        /// Tokens to write.
        tokens: usize,
    },
}

/// One thing to judge by.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Where it comes from.
    pub place: Place,
    /// Where in the text the fact stands that is asked for, as a share of it.
    pub depth: Option<f64>,
    /// What it holds.
    pub content: Content,
}

/// Something that makes items.
pub trait Task: Sync {
    /// The registered name.
    fn name(&self) -> &'static str;
    /// One line: what it shows.
    fn about(&self) -> &'static str;
    /// The item at a place.
    ///
    /// # Errors
    /// A length in which the task does not fit, and a text that is too short for it; both say what would do.
    fn item(&self, place: Place, source: &Source<'_>) -> Result<Item, EvalError>;

    /// The first `count` items of a seed.
    ///
    /// # Errors
    /// As for [`Task::item`].
    fn items(&self, (seed, length): (u64, usize), count: usize, source: &Source<'_>) -> Result<Vec<Item>, EvalError> {
        (0..count).map(|number| self.item(Place { seed, number, length }, source)).collect()
    }
}

/// Every task by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// The next 128 tokens of a real text.
    Continuation,
    /// Five digits in filler text.
    Passkey,
    /// A number in real text.
    NeedleNumber,
    /// A uuid in real text.
    NeedleUuid,
    /// One value of a list of keys and values.
    KeyValue,
    /// A list of words, to be repeated.
    Copy,
    /// Labels shown by examples.
    Labels,
    /// Several questions on one document.
    Questions,
    /// Perplexity with a capped cache.
    Capped,
    /// A long answer with a capped cache.
    Decode,
}

impl TaskKind {
    /// Every task.
    pub const ALL: [TaskKind; 10] = [
        TaskKind::Continuation,
        TaskKind::Passkey,
        TaskKind::NeedleNumber,
        TaskKind::NeedleUuid,
        TaskKind::KeyValue,
        TaskKind::Copy,
        TaskKind::Labels,
        TaskKind::Questions,
        TaskKind::Capped,
        TaskKind::Decode,
    ];

    /// The task itself.
    pub fn task(self) -> &'static dyn Task {
        match self {
            TaskKind::Continuation => &continuation::Continuation,
            TaskKind::Passkey => &passkey::Passkey,
            TaskKind::NeedleNumber => &needle::Needle { uuid: false },
            TaskKind::NeedleUuid => &needle::Needle { uuid: true },
            TaskKind::KeyValue => &key_value::KeyValue,
            TaskKind::Copy => &copy::Copy,
            TaskKind::Labels => &labels::Labels,
            TaskKind::Questions => &questions::Questions,
            TaskKind::Capped => &capped::Capped,
            TaskKind::Decode => &decode::Decode,
        }
    }

    /// Whether its answers are judged right or wrong.
    pub fn is_asked(self) -> bool {
        !matches!(self, TaskKind::Continuation | TaskKind::Capped | TaskKind::Decode)
    }

    /// Whether the cache is kept small all the way, rather than compressed once.
    pub fn is_on_the_way(&self) -> bool {
        matches!(self, TaskKind::Capped | TaskKind::Decode)
    }
}

impl std::fmt::Display for TaskKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.task().name())
    }
}

impl std::str::FromStr for TaskKind {
    type Err = EvalError;
    fn from_str(text: &str) -> Result<Self, EvalError> {
        let names = || TaskKind::ALL.map(|k| k.task().name()).join(", ");
        TaskKind::ALL.into_iter().find(|k| k.task().name() == text.trim()).ok_or_else(|| EvalError::Setting {
            field: "task",
            value: text.to_owned(),
            allowed: names(),
        })
    }
}

/// Whether a press sees the question before it chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// It comes after the compression.
    Unseen,
    /// It is part of the compressed text.
    Seen,
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Question::Unseen => "unseen",
            Question::Seen => "seen",
        })
    }
}

impl std::str::FromStr for Question {
    type Err = EvalError;
    fn from_str(text: &str) -> Result<Self, EvalError> {
        match text.trim() {
            "unseen" => Ok(Question::Unseen),
            "seen" => Ok(Question::Seen),
            _ => Err(EvalError::Setting {
                field: "question",
                value: text.to_owned(),
                allowed: "unseen (asked after the compression) or seen (part of the compressed text)".to_owned(),
            }),
        }
    }
}

/// How deep the fact of an item stands: ten depths, from the beginning to the end, that go round with its number.
fn depth(place: Place) -> f64 {
    (place.number % 10) as f64 / 9.0
}

/// A random stream of its own for each item and purpose.
fn rng(place: Place, task: &str) -> meden_stats::Rng {
    // FNV-1a: a name gives a number.
    let name = task.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    meden_stats::Rng::new(place.seed, name ^ ((place.length as u64) << 32) ^ place.number as u64)
}

/// The error of a task that does not fit.
fn too_short(task: &'static str, place: Place, needed: usize) -> EvalError {
    EvalError::Setting {
        field: "length",
        value: place.length.to_string(),
        allowed: format!("at least {needed} tokens for the task {task}"),
    }
}

#[cfg(test)]
mod tests;
