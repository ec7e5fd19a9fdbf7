//! One answer: read the prompt, then write token by token until something says stop.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use meden_engine::text::{Sampled, Sampler, SamplingConfig, StopStrings, StreamDecoder, Tokenizer};
use meden_engine::{Control, EngineError, Hook, Session};
use serde::{Deserialize, Serialize};

use crate::args::SamplingArgs;

/// What to write.
pub struct Request<'a> {
    /// Tokens to read first; the session may hold earlier ones.
    pub ids: &'a [u32],
    /// Whether the answer goes on where these tokens end.
    pub continues: bool,
    /// Most tokens to write.
    pub max_tokens: usize,
    /// How to choose.
    pub sampling: SamplingConfig,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// Go on after the model's end-of-text token.
    pub ignore_eos: bool,
    /// Set from outside to stop.
    pub cancel: &'a AtomicBool,
}

impl<'a> Request<'a> {
    /// A request with the choices of the command line.
    pub fn new(ids: &'a [u32], continues: bool, args: &SamplingArgs) -> Request<'a> {
        Request {
            ids,
            continues,
            max_tokens: args.max_tokens,
            sampling: args.config(),
            stop: args.stop.clone(),
            ignore_eos: args.ignore_eos,
            cancel: crate::signals::flag(),
        }
    }
}

/// Told what happens while it happens.
pub trait Events {
    /// Tokens of the prompt read so far, and in all.
    fn reading(&mut self, _done: usize, _total: usize) {}
    /// Text that may be shown now.
    fn text(&mut self, piece: &str) -> anyhow::Result<()>;
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model's end-of-text token.
    EndOfText,
    /// A stop string.
    StopString,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The model's context is full.
    ContextFull,
    /// Ctrl-C.
    Interrupted,
}

/// A written token with its log-probabilities.
#[derive(Clone, Debug, Serialize)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// The token's text; a part of a character shows as U+FFFD.
    pub text: String,
    /// Natural logarithm of the model's own probability.
    pub logprob: f32,
    /// The likeliest tokens: (id, log-probability).
    pub top: Vec<(u32, f32)>,
}

/// An answer.
pub struct Answer {
    /// Its text, without a stop string.
    pub text: String,
    /// Its tokens, without an end-of-text token.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// For each token, where asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Time to read the prompt.
    pub prefill: Duration,
    /// Time to write the tokens after the first, whose logits the prefill gave.
    pub decode: Duration,
    /// Tokens that were fed back: one `decode` each.
    pub decoded: usize,
    /// The last token, when the session has not read it.
    pub unread: Option<u32>,
}

/// Reads `request.ids` into `session` and writes an answer. A cancelled call is an answer that was interrupted.
pub fn generate(
    session: &mut Session,
    tokenizer: Option<&Tokenizer>,
    request: &Request<'_>,
    events: &mut dyn Events,
) -> anyhow::Result<Answer> {
    generate_watched(session, tokenizer, request, (events, &mut []))
}

/// The same with hooks that see what is read and what is written.
pub fn generate_watched<'h>(
    session: &mut Session,
    tokenizer: Option<&Tokenizer>,
    request: &Request<'_>,
    (events, hooks): (&mut dyn Events, &mut [&'h mut (dyn Hook + 'h)]),
) -> anyhow::Result<Answer> {
    let mut writer = Writer::new(tokenizer, request)?;
    let start = Instant::now();
    let read = {
        let mut progress = |done: usize, total: usize| events.reading(done, total);
        let hooks = again(hooks);
        let mut control =
            Control { progress: Some(&mut progress), cancel: Some(request.cancel), hooks, items: Vec::new() };
        session.prefill(request.ids, &mut control)
    };
    let prefill = start.elapsed();
    let mut logits = match read {
        Ok(logits) => logits,
        Err(EngineError::Cancelled { .. }) => {
            return Ok(writer.answer(Finish::Interrupted, prefill, Duration::ZERO, 0));
        }
        Err(error) => return Err(error.into()),
    };
    let context = session.model().config().context;
    let start = Instant::now();
    let mut decoded = 0;
    let finish = loop {
        if writer.ids.len() == request.max_tokens {
            break Finish::MaxTokens;
        }
        let sampled = writer.sampler.sample(&logits, session.history())?;
        if let Some(finish) = writer.take(sampled, events)? {
            break finish;
        }
        // The last token asked for is not read back: nothing would look at what it gives.
        if writer.ids.len() == request.max_tokens {
            break Finish::MaxTokens;
        }
        if session.seen() == context {
            break Finish::ContextFull;
        }
        let Some(id) = writer.unread.take() else {
            break Finish::MaxTokens;
        };
        let hooks = again(hooks);
        let mut control = Control { cancel: Some(request.cancel), hooks, ..Control::default() };
        match session.decode(id, &mut control) {
            Ok(row) => {
                logits.clear();
                logits.extend_from_slice(row);
                decoded += 1;
            }
            Err(EngineError::Cancelled { .. }) => {
                writer.unread = Some(id);
                break Finish::Interrupted;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let decode = start.elapsed();
    writer.close(events)?;
    Ok(writer.answer(finish, prefill, decode, decoded))
}

/// The same hooks for one call more.
fn again<'a, 'h: 'a>(hooks: &'a mut [&'h mut (dyn Hook + 'h)]) -> Vec<&'a mut dyn Hook> {
    hooks.iter_mut().map(|hook| &mut **hook as &mut dyn Hook).collect()
}

/// What turns chosen tokens into shown text.
struct Writer<'t> {
    tokenizer: Option<&'t Tokenizer>,
    sampler: Sampler,
    stream: Option<StreamDecoder<'t>>,
    stops: StopStrings,
    eos: Vec<u32>,
    keep_logprobs: bool,
    text: String,
    ids: Vec<u32>,
    logprobs: Vec<TokenLogprob>,
    unread: Option<u32>,
}

impl<'t> Writer<'t> {
    fn new(tokenizer: Option<&'t Tokenizer>, request: &Request<'_>) -> anyhow::Result<Writer<'t>> {
        let keep_eos = tokenizer.filter(|_| !request.ignore_eos);
        Ok(Writer {
            tokenizer,
            sampler: Sampler::new(request.sampling.clone())?,
            stream: tokenizer
                .map(|t| if request.continues { StreamDecoder::continuing(t) } else { StreamDecoder::new(t) }),
            stops: StopStrings::new(request.stop.clone())?,
            eos: keep_eos.map(|t| t.eos_ids().to_vec()).unwrap_or_default(),
            keep_logprobs: request.sampling.logprobs > 0,
            text: String::new(),
            ids: Vec::new(),
            logprobs: Vec::new(),
            unread: None,
        })
    }

    fn take(&mut self, sampled: Sampled, events: &mut dyn Events) -> anyhow::Result<Option<Finish>> {
        if self.eos.contains(&sampled.id) {
            return Ok(Some(Finish::EndOfText));
        }
        self.ids.push(sampled.id);
        self.unread = Some(sampled.id);
        if self.keep_logprobs {
            let text = self.tokenizer.map(|t| t.decode(&[sampled.id], false)).unwrap_or_default();
            let (id, logprob, top) = (sampled.id, sampled.logprob, sampled.top);
            self.logprobs.push(TokenLogprob { id, text, logprob, top });
        }
        let piece = self.stream.as_mut().map(|s| s.push(sampled.id)).unwrap_or_default();
        let shown = self.stops.push(&piece);
        self.show(&shown, events)?;
        Ok(self.stops.hit().map(|_| Finish::StopString))
    }

    fn show(&mut self, piece: &str, events: &mut dyn Events) -> anyhow::Result<()> {
        if !piece.is_empty() {
            self.text.push_str(piece);
            events.text(piece)?;
        }
        Ok(())
    }

    /// Shows what was held back for a character or a stop string that never came.
    fn close(&mut self, events: &mut dyn Events) -> anyhow::Result<()> {
        if self.stops.hit().is_some() {
            return Ok(());
        }
        let rest = self.stream.as_mut().map(StreamDecoder::finish).unwrap_or_default();
        let mut rest = self.stops.push(&rest);
        if self.stops.hit().is_none() {
            rest.push_str(&self.stops.finish());
        }
        self.show(&rest, events)
    }

    fn answer(self, finish: Finish, prefill: Duration, decode: Duration, decoded: usize) -> Answer {
        Answer {
            text: self.text,
            ids: self.ids,
            finish,
            logprobs: self.logprobs,
            prefill,
            decode,
            decoded,
            unread: self.unread,
        }
    }
}
