//! A conversation and its session. What the cache has read is never read again, unless it has to be.
//!
//! The chat template writes the whole conversation anew at every turn. As long as that text begins with the text that
//! the session has read, only what is new is tokenised and read. Where it does not (a template that trims answers, an
//! answer cut at a stop string), the conversation is read again from the start, which is slower and never wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meden_engine::text::Message;
use meden_engine::{CacheStats, Control, Model, Policy, Session, SessionOptions};
use serde::{Deserialize, Serialize};

use crate::args::SamplingArgs;
use crate::exit::{Exit, failure, usage};
use crate::generate::{Answer, Events, Finish, Request, generate};
use crate::load::Opened;
use crate::prompt::message;
use crate::signals;

/// A conversation with a model.
pub struct Conversation<'m> {
    opened: &'m Opened,
    model: Arc<Model>,
    options: SessionOptions,
    session: Session,
    said: Said,
}

/// What has been said, and how much of it the session has read.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Said {
    messages: Vec<Message>,
    /// The text that the session has read, with `unread` at its end; `None` when the two do not match any more.
    read: Option<String>,
    /// The last token of the last answer, which the session has not read.
    unread: Option<u32>,
}

impl<'m> Conversation<'m> {
    /// An empty conversation.
    pub fn new(
        opened: &'m Opened,
        model: Arc<Model>,
        options: SessionOptions,
        system: Option<String>,
    ) -> anyhow::Result<Conversation<'m>> {
        let session = Session::new(model.clone(), options.clone())?;
        let messages = system.iter().map(|s| message("system", s)).collect();
        let said = Said { messages, read: Some(String::new()), unread: None };
        Ok(Conversation { opened, model, options, session, said })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Everything that was said.
    pub fn messages(&self) -> &[Message] {
        &self.said.messages
    }

    /// What the cache holds.
    pub fn stats(&self) -> CacheStats {
        self.session.stats()
    }

    /// How the cache is kept small.
    pub fn policy(&self) -> Option<&Policy> {
        self.session.options().policy.as_ref()
    }

    /// Forgets everything but the system message.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        self.session = Session::new(self.model.clone(), self.options.clone())?;
        self.said.messages.retain(|m| m.role == "system");
        self.said.read = Some(String::new());
        self.said.unread = None;
        Ok(())
    }

    /// Says something and lets the model answer. A turn that fails leaves the conversation as it was.
    pub fn turn(&mut self, text: &str, sampling: &SamplingArgs, events: &mut dyn Events) -> anyhow::Result<Answer> {
        self.said.messages.push(message("user", text));
        let answer = self.answer(sampling, events);
        match &answer {
            Ok(answer) if !(answer.finish == Finish::Interrupted && answer.ids.is_empty()) => {
                self.said.messages.push(message("assistant", &answer.text));
            }
            _ => {
                self.said.messages.pop();
            }
        }
        answer
    }

    fn answer(&mut self, sampling: &SamplingArgs, events: &mut dyn Events) -> anyhow::Result<Answer> {
        let template = self.opened.template.as_ref();
        let template = template.ok_or_else(|| usage("this model has no chat template"))?;
        let tokenizer = self.opened.tokenizer()?;
        let whole = template.render(&self.said.messages, true)?;
        let new = self.said.read.as_ref().and_then(|read| whole.strip_prefix(read.as_str()));
        let ids = match new {
            Some(new) => self.said.unread.into_iter().chain(tokenizer.encode(new, false)?).collect(),
            None => {
                self.session = Session::new(self.model.clone(), self.options.clone())?;
                tokenizer.encode(&whole, false)?
            }
        };
        let (seen, limit) = (self.session.seen(), self.model.config().context);
        if seen + ids.len() > limit {
            let message = format!(
                "the conversation: {} tokens do not fit into the model's context of {limit} tokens; /reset starts a new one",
                seen + ids.len()
            );
            return Err(failure(Exit::Context, message));
        }
        // Until the answer is there, text and session do not match.
        self.said.read = None;
        let request = Request::new(&ids, false, sampling);
        let answer = generate(&mut self.session, Some(tokenizer), &request, events)?;
        let complete = match answer.finish {
            Finish::EndOfText | Finish::MaxTokens | Finish::ContextFull => true,
            Finish::Interrupted => !answer.ids.is_empty(),
            Finish::StopString => false,
        };
        if complete {
            self.said.read = Some(whole + &answer.text);
            self.said.unread = answer.unread;
        }
        Ok(answer)
    }

    /// Changes the press by reading the whole conversation again under the new one. On failure nothing changes.
    pub fn set_policy(&mut self, policy: Option<Policy>, reading: &mut dyn FnMut(usize, usize)) -> anyhow::Result<()> {
        let options = SessionOptions { policy, ..self.options.clone() };
        let mut session = Session::new(self.model.clone(), options.clone())?;
        if !self.session.history().is_empty() {
            let mut control = Control { progress: Some(reading), cancel: Some(signals::flag()), hooks: Vec::new() };
            session.prefill(self.session.history(), &mut control)?;
        }
        (self.session, self.options) = (session, options);
        Ok(())
    }

    /// Writes the session to `path` and what was said beside it.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        if self.session.seen() == 0 {
            return Err(usage("/save: nothing has been said yet"));
        }
        self.session.save(path)?;
        let beside = words_of(path);
        let text = serde_json::to_string_pretty(&self.said)?;
        std::fs::write(&beside, text)
            .map_err(|e| failure(Exit::BadFile, format!("{}: cannot write it: {e}", beside.display())))
    }

    /// Goes on with a conversation that [`Conversation::save`] wrote. On failure nothing changes.
    pub fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        let beside = words_of(path);
        let text = std::fs::read_to_string(&beside).map_err(|e| {
            failure(Exit::BadFile, format!("{}: cannot read it: {e}; give the file that /save wrote", beside.display()))
        })?;
        let said: Said = serde_json::from_str(&text)
            .map_err(|e| failure(Exit::BadFile, format!("{}: not a saved conversation: {e}", beside.display())))?;
        self.session = Session::restore(self.model.clone(), path)?;
        self.options = self.session.options().clone();
        self.said = said;
        Ok(())
    }
}

/// Where the words of a saved session stand: `FILE.chat.json`.
fn words_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".chat.json");
    PathBuf::from(name)
}
