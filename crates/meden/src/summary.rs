//! What a run did, in figures: for people as two lines on standard error, for programs as JSON.

use std::time::Duration;

use meden_engine::{CacheStats, Session};
use meden_report::{human, memory};
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::generate::{Answer, Finish, TokenLogprob};

/// Seconds and tokens a second.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Timings {
    /// Reading the weights.
    pub load_seconds: f64,
    /// Reading the prompt.
    pub prefill_seconds: f64,
    /// Prompt tokens read a second.
    pub prefill_tokens_per_second: Option<f64>,
    /// Writing the tokens after the first, whose logits the prefill gives.
    pub decode_seconds: f64,
    /// Those tokens a second; absent where none was written.
    pub decode_tokens_per_second: Option<f64>,
}

impl Timings {
    /// The timings of an answer to a prompt of `prompt_tokens` tokens.
    pub fn of(answer: &Answer, prompt_tokens: usize, load: Duration) -> Timings {
        let rate =
            |tokens: usize, time: Duration| (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64());
        Timings {
            load_seconds: load.as_secs_f64(),
            prefill_seconds: answer.prefill.as_secs_f64(),
            prefill_tokens_per_second: rate(prompt_tokens, answer.prefill),
            decode_seconds: answer.decode.as_secs_f64(),
            decode_tokens_per_second: rate(answer.decoded, answer.decode),
        }
    }
}

/// Bytes of this process as the operating system counts them; absent where it does not say.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// In memory now.
    pub resident_bytes: Option<u64>,
    /// Most in memory at once since the program started.
    pub peak_bytes: Option<u64>,
    /// Weights as they are held.
    pub weight_bytes: u64,
}

impl Memory {
    /// Asks the operating system now.
    pub fn now(weight_bytes: usize) -> Memory {
        Memory { resident_bytes: memory::resident(), peak_bytes: memory::peak(), weight_bytes: weight_bytes as u64 }
    }
}

/// What `--json` says of one answer, whichever verb asked for it.
#[derive(Serialize)]
pub struct Answered<'a> {
    text: &'a str,
    ids: &'a [u32],
    prompt_tokens: usize,
    completion_tokens: usize,
    finish: Finish,
    timings: Timings,
    memory: Memory,
    cache: CacheStats,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    logprobs: &'a [TokenLogprob],
}

impl<'a> Answered<'a> {
    /// The figures of an answer to a prompt of `prompt_tokens` tokens, with what session and process hold now.
    pub fn new(answer: &'a Answer, prompt_tokens: usize, session: &Session, load: Duration) -> Answered<'a> {
        Answered {
            text: &answer.text,
            ids: &answer.ids,
            prompt_tokens,
            completion_tokens: answer.ids.len(),
            finish: answer.finish,
            timings: Timings::of(answer, prompt_tokens, load),
            memory: Memory::now(session.model().weight_bytes()),
            cache: session.stats(),
            logprobs: &answer.logprobs,
        }
    }

    /// Did the answer lose anything to a press?
    pub fn evicted(&self) -> bool {
        self.cache.evicted > 0
    }

    /// The lines after the answer.
    pub fn lines(&self, answer: &Answer) -> Vec<String> {
        lines(answer, self.prompt_tokens, &self.cache, &self.memory)
    }

    /// How the program ends after it.
    pub fn exit(&self) -> Exit {
        if self.finish == Finish::Interrupted { Exit::Interrupted } else { Exit::Ok }
    }
}

/// Bytes, or a dash where the system does not say.
pub fn bytes_or_dash(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), human::bytes)
}

/// The lines after an answer: work and speed, cache and memory, and what the cache has to say.
pub fn lines(answer: &Answer, prompt_tokens: usize, cache: &CacheStats, memory: &Memory) -> Vec<String> {
    let work = format!(
        "read {} tokens in {} ({}/s), wrote {}{}",
        human::count(prompt_tokens as u64),
        human::duration(answer.prefill),
        human::rate(prompt_tokens as u64, answer.prefill),
        human::count(answer.ids.len() as u64),
        if answer.decoded > 0 {
            format!(" ({}/s)", human::rate(answer.decoded as u64, answer.decode))
        } else {
            String::new()
        }
    );
    let mut lines = vec![work];
    lines.extend(cache_lines(cache, memory));
    lines
}

/// Cache and memory, and what the cache has to say.
pub fn cache_lines(cache: &CacheStats, memory: &Memory) -> Vec<String> {
    let mut lines = vec![cache_line(cache, memory)];
    if let Some(read) = &cache.read
        && let Some(share) = read.share
    {
        let tokens = human::count(read.tokens);
        lines.push(format!("read {} of the cache's bytes for {tokens} written tokens", human::percent(share)));
    }
    lines.extend(cache.notes.iter().map(|n| format!("note: {n}")));
    lines
}

fn cache_line(cache: &CacheStats, memory: &Memory) -> String {
    let share = if cache.dense_bytes > 0 { cache.kv_bytes as f64 / cache.dense_bytes as f64 } else { 1.0 };
    let of = if cache.evicted > 0 {
        format!(
            " of {} dense ({}), {} of {} tokens a head",
            human::bytes(cache.dense_bytes),
            human::percent(share),
            human::count(cache.kept_tokens_mean.round() as u64),
            human::count(cache.seen as u64)
        )
    } else {
        String::new()
    };
    format!(
        "cache {}{of}; process {} now, {} at most",
        human::bytes(cache.kv_bytes),
        bytes_or_dash(memory.resident_bytes),
        bytes_or_dash(memory.peak_bytes)
    )
}
