//! A conversation and its session. What the cache has read is never read again, unless it has to be.
//!
//! The chat template writes the whole conversation anew at every turn. As long as that text begins with the text that
//! the session has read, only what is new is tokenised and read. Where it does not (a template that trims answers, an
//! answer cut at a stop string), the conversation is read again from the start, which is slower and never wrong.

use std::path::Path;
use std::sync::Arc;

use meden_engine::text::{Message, Prompt};
use meden_engine::{CacheStats, Control, Hook, Model, Policy, Session, SessionOptions};
use serde::{Deserialize, Serialize};

use crate::args::{Asked, SamplingArgs};
use crate::exit::{Exit, failure, usage};
use crate::generate::{Answer, Events, Finish, Request, generate_watched};
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
    /// Edits the last token of each turn.
    steer: Option<Asked>,
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
        Ok(Conversation { opened, model, options, session, said, steer: None })
    }

    /// With a steering. What is read again (after another press, or where a template writes earlier turns anew) is read
    /// without the edits of earlier turns.
    pub fn steered(mut self, steer: Option<Asked>) -> anyhow::Result<Conversation<'m>> {
        if let Some(asked) = &steer {
            asked.hook(&self.session, 1)?; // refuses another model now, not at the first turn
        }
        self.steer = steer;
        Ok(self)
    }

    /// Whether turns are steered.
    pub fn is_steered(&self) -> bool {
        self.steer.is_some()
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
        let whole = template.prompt(tokenizer, &self.said.messages, true)?;
        let new = self.said.read.as_ref().and_then(|read| whole.text.strip_prefix(read.as_str()));
        let ids = match new {
            Some(new) => {
                let new = Prompt { text: new.to_owned(), guard: whole.guard };
                self.said.unread.into_iter().chain(tokenizer.encode_prompt(&new)?).collect()
            }
            None => {
                self.session = Session::new(self.model.clone(), self.options.clone())?;
                tokenizer.encode_prompt(&whole)?
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
        let mut steering = self.steer.as_ref().map(|s| s.hook(&self.session, ids.len())).transpose()?;
        let mut hooks: Vec<&mut dyn Hook> = steering.iter_mut().map(|h| h as &mut dyn Hook).collect();
        let answer = generate_watched(&mut self.session, Some(tokenizer), &request, (events, &mut hooks))?;
        let complete = match answer.finish {
            Finish::EndOfText | Finish::MaxTokens | Finish::ContextFull => true,
            Finish::Interrupted => !answer.ids.is_empty(),
            Finish::StopString => false,
        };
        if complete {
            self.said.read = Some(whole.text + &answer.text);
            self.said.unread = answer.unread;
        }
        Ok(answer)
    }

    /// Changes the press by reading the whole conversation again under the new one. On failure nothing changes.
    pub fn set_policy(&mut self, policy: Option<Policy>, reading: &mut dyn FnMut(usize, usize)) -> anyhow::Result<()> {
        let mut options = SessionOptions { policy, ..self.options.clone() };
        crate::repeat::instruct(crate::repeat::press_of(&mut options.policy), self.opened.tokenizer.as_ref(), false)?;
        let mut session = Session::new(self.model.clone(), options.clone())?;
        if !self.session.history().is_empty() {
            let mut control = Control { progress: Some(reading), cancel: Some(signals::flag()), ..Control::default() };
            session.prefill(self.session.history(), &mut control)?;
        }
        (self.session, self.options) = (session, options);
        Ok(())
    }

    /// Writes the session, and what was said, to one file.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        if self.session.seen() == 0 {
            return Err(usage("/save: nothing has been said yet"));
        }
        Ok(self.session.save_with(path, &serde_json::to_value(&self.said)?)?)
    }

    /// Goes on with a conversation that [`Conversation::save`] wrote. On failure nothing changes.
    pub fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        let (session, note) = Session::restore_with(self.model.clone(), path)?;
        let said = serde_json::from_value(note).map_err(|_| {
            let why = "a saved session without a conversation; give a file that /save wrote";
            failure(Exit::BadFile, format!("{}: {why}", path.display()))
        })?;
        (self.options, self.session, self.said) = (session.options().clone(), session, said);
        Ok(())
    }
}
