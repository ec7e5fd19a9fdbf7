//! Text to ids and back, and where the compressed part of a prompt ends.

use meden_engine::text::{ChatTemplate, Message, Prompt, Tokenizer};

use super::{Probe, Question};
use crate::error::EvalError;

/// Characters for the border between what is compressed and what is not; one that occurs in no text is taken.
const BORDERS: std::ops::RangeInclusive<char> = '\u{E000}'..='\u{E0FF}';
/// Ids of a byte where a model has no tokenizer.
const BYTES: usize = 256;

/// How texts become ids: by the model's tokenizer or, where a model comes without one, byte by byte.
#[derive(Clone, Copy)]
pub struct Codec<'a> {
    tokenizer: Option<&'a Tokenizer>,
    template: Option<&'a ChatTemplate>,
}

/// The ids of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What is read first, and compressed.
    pub compressed: Vec<u32>,
    /// What is read then, from the compressed cache; never empty.
    pub tail: Vec<u32>,
    /// The right answer.
    pub answer: Vec<u32>,
}

impl<'a> Codec<'a> {
    /// A codec for a model.
    ///
    /// # Errors
    /// A model without a tokenizer whose vocabulary has no id for each byte.
    pub fn new(
        tokenizer: Option<&'a Tokenizer>,
        template: Option<&'a ChatTemplate>,
        vocab: usize,
    ) -> Result<Codec<'a>, EvalError> {
        if tokenizer.is_none() && vocab < BYTES {
            return Err(EvalError::Setting {
                field: "model",
                value: format!("{vocab} ids and no tokenizer"),
                allowed: "a tokenizer beside the weights, or at least 256 ids to stand for bytes".to_owned(),
            });
        }
        Ok(Codec { tokenizer, template })
    }

    /// Whether bytes stand for tokens.
    pub fn is_bytes(&self) -> bool {
        self.tokenizer.is_none()
    }

    /// Whether the model has a chat template.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// Ids of a text, with nothing around it.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        match self.tokenizer {
            Some(tokenizer) => Ok(tokenizer.encode_plain(text)?),
            None => Ok(text.bytes().map(u32::from).collect()),
        }
    }

    /// Ids of a text that begins a document, with what the model wants there.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        let mut ids = self.encode(text)?;
        if let Some(tokenizer) = self.tokenizer {
            // bos is put there where the tokenizer itself would
            if let Some(bos) =
                tokenizer.bos().filter(|bos| tokenizer.encode("a", true).is_ok_and(|i| i.first() == Some(bos)))
            {
                ids.insert(0, bos);
            }
        }
        Ok(ids)
    }

    /// The text of ids.
    pub fn decode(&self, ids: &[u32]) -> String {
        match self.tokenizer {
            Some(tokenizer) => tokenizer.decode(ids, true),
            None => {
                let bytes: Vec<u8> = ids.iter().map(|&id| u8::try_from(id).unwrap_or(b'?')).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }

    /// Whether an id ends a text.
    pub fn is_end(&self, id: u32) -> bool {
        self.tokenizer.is_some_and(|t| t.eos_ids().contains(&id))
    }

    /// Tokens that stand before the context in a prompt.
    ///
    /// # Errors
    /// What the tokenizer or the template refuses.
    pub fn header(&self, template: bool) -> Result<usize, EvalError> {
        let probe = Probe {
            question: "?".to_owned(),
            prefix: String::new(),
            answer: "a".to_owned(),
            candidates: Vec::new(),
            judge: super::Judge::Contains,
        };
        Ok(self.layout("", &probe, (Question::Unseen, template))?.compressed.len())
    }

    /// The ids of a context with its question.
    ///
    /// # Errors
    /// What the tokenizer or the template refuses, and a template without a place for the border.
    pub fn layout(
        &self,
        context: &str,
        probe: &Probe,
        (question, template): (Question, bool),
    ) -> Result<Layout, EvalError> {
        let (mut compressed, tail_text, guard) = self.split(context, &probe.question, template)?;
        let prefix = &probe.prefix;
        let tail_text = format!("{tail_text}{prefix}");
        let mut tail = self.encode_tail(&tail_text, guard)?;
        let whole = self.encode_tail(&format!("{tail_text} {}", probe.answer), guard)?;
        let answer = match whole.strip_prefix(tail.as_slice()) {
            Some(answer) if !answer.is_empty() => answer.to_vec(),
            // a tokenizer that joins the prefix's end with the answer
            _ => self.encode(&format!(" {}", probe.answer))?,
        };
        if question == Question::Seen {
            // all but the last token, which is read from the compressed cache
            let last = tail.split_off(tail.len().saturating_sub(1));
            compressed.append(&mut tail);
            tail = last;
        }
        Ok(Layout { compressed, tail, answer })
    }

    /// Ids up to the end of the context, and the text from there to where the answer begins.
    fn split(&self, context: &str, question: &str, template: bool) -> Result<(Vec<u32>, String, char), EvalError> {
        let (Some(tokenizer), Some(chat), true) = (self.tokenizer, self.template, template) else {
            return Ok((self.encode_document(context)?, format!("\n\n{question}\n"), '\u{FDD0}'));
        };
        let unused = |c: &char| !context.contains(*c) && !question.contains(*c);
        let border = BORDERS.into_iter().find(unused).ok_or_else(|| EvalError::Prompt {
            why: "the text uses every character from U+E000 to U+E0FF; remove one".to_owned(),
        })?;
        let content = format!("{context}{border}\n\n{question}");
        let prompt = chat.prompt(tokenizer, &[Message::new("user", content)], true)?;
        let (before, after) = prompt.text.split_once(border).ok_or_else(|| EvalError::Prompt {
            why: "the chat template does not write the user's message as it is; use no template".to_owned(),
        })?;
        let ids = tokenizer.encode_prompt(&Prompt { text: before.to_owned(), guard: prompt.guard })?;
        Ok((ids, after.to_owned(), prompt.guard))
    }

    fn encode_tail(&self, text: &str, guard: char) -> Result<Vec<u32>, EvalError> {
        match self.tokenizer {
            Some(tokenizer) => Ok(tokenizer.encode_prompt(&Prompt { text: text.to_owned(), guard })?),
            None => self.encode(text),
        }
    }
}
