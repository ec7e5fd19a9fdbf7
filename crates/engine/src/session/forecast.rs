//! How many bytes a cache will take, before any weight is read: the counts of a session without its numbers.
//!
//! The plan decides here as it does in a session, piece by piece of the prompt and token by token of the answer, so the
//! figures are those that [`Session::stats`](super::Session::stats) reports after the run; a test holds the two
//! together, press by press. Presses whose counts depend on the text (pools of slots, chunks) get an upper bound, and
//! those that decide themselves how much stays are refused.

use serde::Serialize;

use super::SessionOptions;
use crate::cache::KvCache;
use crate::cache::kinds::KvTypes;
use crate::error::EngineError;
use crate::model::config::Config;
use crate::press::budget::{Budget, SkipOverflow, keep_of};
use crate::press::plan::{Moment, Plan};
use crate::press::policy::{Policy, Rounding};
use crate::press::registry::Adaptivity;
use crate::press::replay::Text;
use crate::press::{PressSpec, Scope};

/// Bytes that travel beside each slot: its position and its key norm.
const SLOT_METADATA: usize = size_of::<u32>() + size_of::<f32>();

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
    /// Bytes of positions and norms.
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
        let shape = Shape::new(config, self.kv_type);
        let cache = KvCache::new(config, self.kv_type, self.kv_rotate);
        let plan = self.policy.as_ref().map(|p| Plan::compile(p, config, &cache)).transpose()?;
        if let Some(plan) = plan.as_ref().filter(|plan| plan.press().own_budget()) {
            return Err(EngineError::Press {
                press: plan.policy.press.to_string(),
                why: "it decides itself how much stays, so its bytes are known only after a text has been read".into(),
            });
        }
        if let Some(plan) = plan.as_ref().filter(|plan| plan.replays(run.prompt)) {
            plan.press().readings(&Text { ids: &vec![0; run.prompt], room: config.context - run.prompt })?;
        }
        let chunk = self.prefill_chunk;
        let mut counts =
            Counts { held: vec![0; config.layers], seen: 0, peak: 0, chunk, shape: &shape, plan: plan.as_ref() };
        counts.read(run.prompt, true);
        for _ in 0..run.decode {
            counts.read(1, false);
        }
        let mut forecast = counts.total();
        if let Some(plan) = &plan {
            forecast.exact = is_exact(&plan.policy.press);
            forecast.notes = notes(plan, config, seen);
        }
        Ok(forecast)
    }
}

/// What of a model decides the bytes of its cache.
struct Shape {
    page_tokens: usize,
    page_bytes: usize,
    heads: usize,
    windows: Vec<Option<usize>>,
    context: usize,
}

impl Shape {
    fn new(config: &Config, kv_type: KvTypes) -> Shape {
        let layout =
            meden_kernels::attention::PageLayout::new(config.head_dim, config.head_dim, kv_type.key, kv_type.value);
        Shape {
            page_tokens: layout.tokens().max(1),
            page_bytes: layout.page_bytes(),
            heads: config.kv_heads,
            windows: config.attention.iter().map(|a| a.window.map(|w| w as usize)).collect(),
            context: config.context,
        }
    }

    /// Bytes of data pages of one layer whose heads hold `slots` each.
    fn page_bytes(&self, slots: usize) -> usize {
        slots.div_ceil(self.page_tokens) * self.page_bytes * self.heads
    }
}

/// Slots of each layer's heads while tokens are read.
struct Counts<'a> {
    held: Vec<usize>,
    seen: usize,
    peak: usize,
    chunk: usize,
    shape: &'a Shape,
    plan: Option<&'a Plan>,
}

impl Counts<'_> {
    fn read(&mut self, tokens: usize, first: bool) {
        let mut left = tokens;
        while left > 0 {
            let mut moment = if first { Moment::PrefillChunk } else { Moment::Decode };
            let mut count = left.min(self.chunk);
            if let Some(plan) = self.plan {
                count = count.min(plan.piece(moment, left, self.seen, |layer| self.held[layer]));
            }
            left -= count;
            if first && left == 0 {
                moment = Moment::PrefillEnd;
            }
            self.piece(count, moment);
        }
    }

    fn piece(&mut self, count: usize, moment: Moment) {
        let seen = self.seen + count;
        let together = self.plan.is_some_and(|plan| plan.press().scope() == Scope::Cache || plan.press().renumbers());
        let mut pages: usize = self.held.iter().map(|&slots| self.shape.page_bytes(slots)).sum();
        for layer in 0..self.held.len() {
            let before = self.held[layer];
            pages = pages - self.shape.page_bytes(before) + self.shape.page_bytes(before + count);
            self.peak = self.peak.max(pages);
            let waits = self.plan.is_some_and(|plan| together && plan.pressed().contains(&layer));
            let after = |plan: &Plan| self.after(plan, layer, before + count, (seen, moment));
            let kept = self.plan.filter(|_| !waits).map_or(before + count, after);
            self.peak = self.peak.max(pages + self.copies(layer, before + count, kept));
            pages = pages - self.shape.page_bytes(before + count) + self.shape.page_bytes(kept);
            self.held[layer] = kept;
        }
        self.seen = seen;
        for (held, window) in self.held.iter_mut().zip(&self.shape.windows) {
            let Some(window) = window else { continue };
            // whole pages whose positions no later query can see go back
            let gone = (seen + 1).saturating_sub(*window) / self.shape.page_tokens * self.shape.page_tokens;
            *held = seen - gone.min(seen);
        }
        if let Some(plan) = self.plan.filter(|plan| moment == Moment::PrefillEnd && plan.replays(seen)) {
            self.replay(plan);
        }
        if let Some(plan) = self.plan.filter(|_| together) {
            for &layer in plan.pressed() {
                let (held, pages) =
                    (self.held[layer], self.held.iter().map(|&s| self.shape.page_bytes(s)).sum::<usize>());
                self.held[layer] = self.after(plan, layer, held, (seen, moment));
                self.peak = self.peak.max(pages + self.copies(layer, held, self.held[layer]));
            }
        }
    }

    /// Bytes of pages that a press takes for a moment when it shortens a layer from `held` to `kept`: some score copies
    /// of a part of the slots.
    fn copies(&self, layer: usize, held: usize, kept: usize) -> usize {
        let Some(plan) = self.plan.filter(|plan| kept < held && !plan.is_skipped(layer)) else { return 0 };
        let press = &plan.policy.press;
        let slots = match press {
            PressSpec::Compactor(_) => {
                let ends = plan.press().protects(kept);
                held.saturating_sub(ends.sinks + ends.recents)
            }
            _ if copies_slots(press) => held,
            _ => 0,
        };
        self.shape.page_bytes(slots)
    }

    /// Pages that a press takes while it reads the text again: a fork grows by the longest reading (and copies the pages
    /// that it shares in part), and the slots of one layer are copied to be looked at.
    fn replay(&mut self, plan: &Plan) {
        let ids = vec![0; self.seen];
        let text = Text { ids: &ids, room: self.shape.context.saturating_sub(self.seen) };
        let readings = plan.press().readings(&text).unwrap_or_default();
        let longest = readings.iter().map(|r| r.ids.len()).max().unwrap_or(0);
        let more = longest + self.shape.page_tokens;
        let grown: usize = self.held.iter().map(|held| self.shape.page_bytes(held + more)).sum();
        let copied = self.held.iter().max().map_or(0, |held| self.shape.page_bytes(held + more));
        self.peak = self.peak.max(grown + copied);
    }

    /// Slots that a head of the layer keeps of `held`.
    fn after(&self, plan: &Plan, layer: usize, held: usize, (seen, moment): (usize, Moment)) -> usize {
        let policy = &plan.policy;
        let target = plan.layer_target(layer, seen);
        let due = plan.due(layer, held, (moment, seen));
        let grows = policy.skip_overflow == SkipOverflow::Grow || policy.rounding == Rounding::Kvpress;
        if !due || self.shape.windows[layer].is_some() || (plan.is_skipped(layer) && grows) {
            return held;
        }
        let forced = if plan.is_skipped(layer) {
            policy.sinks + 1
        } else {
            let protect = policy.protect().and(plan.press().protects(target));
            protect.sinks + protect.recents
        };
        held.min(target.max(forced))
    }

    fn total(self) -> Forecast {
        let (heads, shape) = (self.shape.heads, self.shape);
        let slots: usize = self.held.iter().sum::<usize>() * heads;
        let mut page_bytes: usize = self.held.iter().map(|&held| shape.page_bytes(held)).sum();
        let mut metadata_bytes = slots * SLOT_METADATA;
        if let Some(plan) = self.plan {
            let full = |(_, window): &(&usize, &Option<usize>)| window.is_none();
            let slots: usize = self.held.iter().zip(&shape.windows).filter(full).map(|(held, _)| held * heads).sum();
            if plan.acts_later() {
                metadata_bytes += slots * plan.policy.press.columns() * size_of::<f32>();
            }
            if !is_exact(&plan.policy.press) {
                // every head may have a page of which one slot is used
                let ragged = self.held.iter().zip(&shape.windows).filter(full).count() * heads;
                let even: usize =
                    self.held.iter().zip(&shape.windows).filter(full).map(|(held, _)| shape.page_bytes(*held)).sum();
                let most = slots.saturating_sub(ragged) / shape.page_tokens + ragged;
                page_bytes = page_bytes - even + (most * shape.page_bytes).max(even);
            }
        }
        let dense = |(held, window): (&usize, &Option<usize>)| {
            let slots = if window.is_some() { *held } else { self.seen };
            shape.page_bytes(slots) + slots * heads * SLOT_METADATA
        };
        let dense_bytes: usize = self.held.iter().zip(&shape.windows).map(dense).sum();
        let kv_bytes = (page_bytes + metadata_bytes) as u64;
        Forecast {
            seen: self.seen,
            kept_tokens_mean: slots as f64 / (heads * self.held.len()).max(1) as f64,
            kv_bytes,
            page_bytes: page_bytes as u64,
            metadata_bytes: metadata_bytes as u64,
            dense_bytes: dense_bytes as u64,
            peak_page_bytes: self.peak.max(page_bytes) as u64,
            effective_ratio: if dense_bytes == 0 { 0.0 } else { 1.0 - kv_bytes as f64 / dense_bytes as f64 },
            exact: true,
            notes: Vec::new(),
            kept: self.held,
        }
    }
}

/// Whether a press, or one inside it, scores copies of slots.
fn copies_slots(press: &PressSpec) -> bool {
    matches!(press, PressSpec::Compactor(_) | PressSpec::Chunk(_) | PressSpec::Block(_))
        || press.inner().is_some_and(copies_slots)
}

/// Whether a press keeps counts that do not depend on the text.
fn is_exact(press: &PressSpec) -> bool {
    let chunks = matches!(press, PressSpec::Chunk(_) | PressSpec::Chunkkv(_) | PressSpec::Block(_));
    let even = matches!(press.info().adaptivity, Adaptivity::Uniform | Adaptivity::Layers);
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
