//! Asking a model: demonstrations are read once and forked, a question behind them is read and answered greedily.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use meden_engine::{Control, KvTypes, Model, Session, SessionOptions};

use super::prompt::prompt;
use crate::error::EvalError;
use crate::kv_lab::distance::LogProbs;
use crate::task::Codec;

/// Most tokens of an answer, as in the paper's code.
pub const ANSWER_TOKENS: usize = 12;

/// A model and its words.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The model.
    pub model: &'a Arc<Model>,
    /// Text to ids and back.
    pub codec: &'a Codec<'a>,
}

/// Demonstrations that a session has read.
pub struct Prefix {
    text: String,
    ids: Vec<u32>,
    session: Session,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// What was written, up to its first line break.
    pub written: String,
    /// Log-probabilities of the first token.
    pub first: LogProbs,
    /// Tokens of the whole prompt.
    pub tokens: usize,
}

impl Asker<'_> {
    /// Reads demonstrations.
    ///
    /// # Errors
    /// What the tokenizer or the engine refuses; cancellation.
    pub fn prefix(&self, demonstrations: &str, control: &mut Control<'_>) -> Result<Prefix, EvalError> {
        // what two prompts share is read once, whatever the tokenizer joins at the border
        let [one, other] =
            ["context: a", "question: b"].map(|tail| self.codec.encode_document(&prompt(demonstrations, tail)));
        let ids: Vec<u32> = one?.into_iter().zip(other?).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
        let options = SessionOptions { kv_type: KvTypes::F32, ..SessionOptions::default() };
        let mut session = Session::new(self.model.clone(), options)?;
        if !ids.is_empty() {
            session.prefill(&ids, control)?;
        }
        Ok(Prefix { text: demonstrations.to_owned(), ids, session })
    }

    /// The ids of a question behind the demonstrations: those of the whole prompt, and how many of them the prefix has
    /// read.
    ///
    /// # Errors
    /// What the tokenizer refuses; a prompt that does not begin with what the prefix has read.
    pub fn tail(&self, prefix: &Prefix, question: &str) -> Result<(Vec<u32>, usize), EvalError> {
        let ids = self.codec.encode_document(&prompt(&prefix.text, question))?;
        if ids.starts_with(&prefix.ids) && ids.len() > prefix.ids.len() {
            return Ok((ids, prefix.ids.len()));
        }
        let why = format!("the tokenizer joins demonstrations and question: {question}");
        Err(EvalError::Prompt { why })
    }

    /// Reads a question and writes the answer, the likeliest token each time.
    ///
    /// # Errors
    /// What the tokenizer or the engine refuses; cancellation.
    pub fn ask(&self, prefix: &Prefix, question: &str, cancel: &AtomicBool) -> Result<Asked, EvalError> {
        let control = Control { cancel: Some(cancel), ..Control::default() };
        self.ask_with(prefix, question, control, cancel)
    }

    /// The same with companions while the question is read, such as hooks; the answer is written without them.
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub fn ask_with(
        &self,
        prefix: &Prefix,
        question: &str,
        mut reading: Control<'_>,
        cancel: &AtomicBool,
    ) -> Result<Asked, EvalError> {
        let (ids, read) = self.tail(prefix, question)?;
        let mut session = prefix.session.fork()?;
        let first = LogProbs::of(&session.prefill(&ids[read..], &mut reading)?);
        drop(reading);
        let mut written = Vec::new();
        let mut next = first.first_choice();
        while written.len() < ANSWER_TOKENS && !self.codec.is_end(next) {
            written.push(next);
            // a line break ends the answer, and short answers end soon: nothing is read for nothing
            if self.codec.decode(&written).contains('\n') || written.len() == ANSWER_TOKENS {
                break;
            }
            let mut control = Control { cancel: Some(cancel), ..Control::default() };
            next = LogProbs::of(session.decode(next, &mut control)?).first_choice();
        }
        let text = self.codec.decode(&written);
        let line = text.split('\n').next().unwrap_or_default().trim().to_owned();
        Ok(Asked { written: line, first, tokens: ids.len() })
    }

    /// Ids of an answer as it stands behind `answer:`.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn answer_ids(&self, answer: &str) -> Result<Vec<u32>, EvalError> {
        self.codec.encode(&format!(" {answer}"))
    }
}

impl Prefix {
    /// The session that has read the demonstrations.
    pub fn session(&self) -> &Session {
        &self.session
    }
}
