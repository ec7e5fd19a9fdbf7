//! How many bytes a cache will take, before any weight is read: the counts of a session without its numbers.
//!
//! The plan decides here as it does in a session, piece by piece of the prompt and token by token of the answer, so the
//! figures are those that [`Session::stats`](super::Session::stats) reports after the run; a test holds the two
//! together, press by press. Presses whose counts depend on the text (pools of slots, chunks) get an upper bound, and
//! those that decide themselves how much stays are refused.

mod counts;

use serde::Serialize;

use super::SessionOptions;
use super::compress::no_reader_of_narrow_keys;
use crate::cache::KvCache;
use crate::error::EngineError;
use crate::model::config::Config;
use crate::press::PressSpec;
use crate::press::budget::{Budget, keep_of};
use crate::press::plan::Plan;
use crate::press::policy::{Policy, Rounding};
use crate::press::registry::Adaptivity;
use crate::press::replay::Text;
use counts::{Counts, Shape};

/// What is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Tokens of the prompt, read by one call.
    pub prompt: usize,
    /// Tokens decoded after it, one by one.
    pub decode: usize,
}

/// What a cache will hold and cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Tokens seen at the end.
    pub seen: usize,
    /// Slots that each head of a layer keeps, on average where heads differ.
    pub kept: Vec<usize>,
    /// Their mean over layers and heads.
    pub kept_tokens_mean: f64,
    /// Bytes of data pages and of what travels beside the slots.
    pub kv_bytes: u64,
    /// Bytes of data pages.
    pub page_bytes: u64,
    /// Bytes of positions, norms, columns, channel lists and page bounds.
    pub metadata_bytes: u64,
    /// What the same tokens take without a press.
    pub dense_bytes: u64,
    /// Most bytes of pages in use at once on the way.
    pub peak_page_bytes: u64,
    /// `1 - kv_bytes / dense_bytes`.
    pub effective_ratio: f64,
    /// Whether the figures are exact; otherwise the text decides, and they are upper bounds.
    pub exact: bool,
    /// What a user should know.
    pub notes: Vec<String>,
}

impl SessionOptions {
    /// What the cache of a model of this shape will hold after a run.
    ///
    /// # Errors
    /// A policy that this model cannot carry out, and more tokens than its context.
    pub fn forecast(&self, config: &Config, run: Run) -> Result<Forecast, EngineError> {
        let seen = run.prompt + run.decode;
        if seen > config.context {
            return Err(EngineError::ContextExceeded { needed: seen, limit: config.context });
        }
        if self.prefill_chunk == 0 {
            return Err(EngineError::Setting {
                field: "prefill chunk",
                value: "0".into(),
                allowed: "at least 1 token".into(),
            });
        }
        let cache = KvCache::new(config, self.kv_type, self.kv_rotate);
        if let Some(read) = &self.read {
            read.check(config)?;
        }
        let plan = self.policy.as_ref().map(|p| Plan::compile(p, config, &cache)).transpose()?;
        if let Some(plan) = &plan {
            no_reader_of_narrow_keys(plan, self)?;
            // channels are dropped by a share of their own, and tokens are all kept
            if plan.press().own_budget() && !matches!(plan.policy.press, PressSpec::Think(_)) {
                return Err(EngineError::Press {
                    press: plan.policy.press.to_string(),
                    why: "it decides itself how much stays, so its bytes are known only after a text has been read"
                        .into(),
                });
            }
            if plan.replays(run.prompt) {
                plan.press().readings(&Text { ids: &vec![0; run.prompt], room: config.context - run.prompt })?;
            }
        }
        let shape = Shape::new(config, self, plan.as_ref());
        let mut counts = Counts::new(&shape, self.prefill_chunk, plan.as_ref());
        counts.read(run.prompt, true);
        for token in 0..run.decode {
            // without a prompt, the first token is one
            counts.read(1, run.prompt == 0 && token == 0);
        }
        let mut forecast = counts.total();
        if let Some(plan) = &plan {
            forecast.notes = notes(plan, config, seen);
        }
        Ok(forecast)
    }
}

/// Whether a press keeps counts that do not depend on the text.
fn is_exact(press: &PressSpec) -> bool {
    if !press.parts().is_empty() {
        let known = |part: &PressSpec| {
            matches!(part, PressSpec::Think(_)) || part.build().is_ok_and(|p| !p.own_budget()) && is_exact(part)
        };
        return press.parts().iter().all(known);
    }
    let chunks = matches!(press, PressSpec::Chunk(_) | PressSpec::Chunkkv(_) | PressSpec::Block(_));
    let even = matches!(press.info().adaptivity, Adaptivity::Uniform | Adaptivity::Layers | Adaptivity::Channels);
    even && !chunks && press.inner().is_none_or(is_exact)
}

fn notes(plan: &Plan, config: &Config, seen: usize) -> Vec<String> {
    let policy: &Policy = &plan.policy;
    let mut notes = Vec::new();
    if !is_exact(&policy.press) {
        notes.push(format!(
            "how {} shares slots out depends on the text: its bytes are upper bounds",
            policy.press.name()
        ));
    }
    if plan.unbounded() {
        notes.push("skipped layers grow with the text: this cache is not bounded".to_owned());
    }
    if let (Budget::Ratio(share), Rounding::Meden) = (policy.budget, policy.rounding)
        && seen > 0
        && policy.sinks + policy.recents > keep_of(seen, 1.0 - share)
    {
        notes.push(format!(
            "{} of {seen} tokens is less than {} sinks and {} recents, which stay",
            policy.budget, policy.sinks, policy.recents
        ));
    }
    let sliding = config.attention.iter().filter(|a| a.window.is_some()).count();
    if sliding > 0 {
        notes.push(format!(
            "{sliding} of {} layers slide and are not pressed; the budget speaks of the others",
            config.layers
        ));
    }
    notes
}
