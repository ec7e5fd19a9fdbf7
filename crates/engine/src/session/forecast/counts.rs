//! The counts of a session, layer by layer, while tokens are read and a plan acts.

use meden_kernels::attention::PageLayout;

use super::{Forecast, is_exact};
use crate::cache::narrow::narrow_layout;
use crate::model::config::Config;
use crate::press::budget::SkipOverflow;
use crate::press::plan::{At, Moment, Plan};
use crate::press::policy::Rounding;
use crate::press::replay::Text;
use crate::press::{PressSpec, Scope};
use crate::read::ReadPolicy;
use crate::session::SessionOptions;

/// Bytes that travel beside each slot: its position and its key norm.
const SLOT_METADATA: usize = size_of::<u32>() + size_of::<f32>();

/// What of a model and its options decides the bytes of a cache.
pub(super) struct Shape {
    layout: PageLayout,
    /// Pages of keys that lose channels.
    narrow: Option<PageLayout>,
    heads: usize,
    windows: Vec<Option<usize>>,
    context: usize,
    /// Pages of a head from which on a decoded token bounds them, by layer; none where a layer is read whole.
    bounded_from: Vec<Option<usize>>,
    bound_bytes: usize,
}

impl Shape {
    pub(super) fn new(config: &Config, options: &SessionOptions, plan: Option<&Plan>) -> Shape {
        let kv = options.kv_type;
        let layout = PageLayout::new(config.head_dim, config.head_dim, kv.key, kv.value);
        let windows: Vec<Option<usize>> = config.attention.iter().map(|a| a.window.map(|w| w as usize)).collect();
        // attention mass is about every slot, so a press that goes on counting it has whole layers read
        let counts_mass = plan.is_some_and(|plan| plan.acts_later() && plan.press().needs().attention_mass);
        let from = |layer: usize| match &options.read {
            Some(ReadPolicy::Quest(quest)) if !counts_mass && windows[layer].is_none() => {
                (!quest.skip_layers.contains(&layer)).then(|| quest.pages(layout.tokens()))
            }
            _ => None,
        };
        Shape {
            layout,
            narrow: plan.and_then(Plan::narrows_to).map(|channels| narrow_layout(layout, channels)),
            heads: config.kv_heads,
            context: config.context,
            bounded_from: (0..config.layers).map(from).collect(),
            bound_bytes: crate::read::quest::bound_bytes(config.head_dim),
            windows,
        }
    }

    /// Bytes of data pages of one layer whose heads hold `slots` each.
    fn page_bytes(&self, slots: usize) -> usize {
        self.layout.pages_for(slots) * self.layout.page_bytes() * self.heads
    }

    /// The same of keys that lost channels.
    fn narrow_bytes(&self, slots: usize) -> usize {
        self.narrow.map_or(0, |layout| layout.pages_for(slots) * layout.page_bytes() * self.heads)
    }
}

/// What a head of a layer holds.
#[derive(Clone, Copy, Default)]
struct Held {
    /// Slots with whole keys.
    whole: usize,
    /// Older slots whose keys lost channels.
    narrow: usize,
    /// Whether a list of channels is kept.
    listed: bool,
    /// Pages that have bounds, and whether an eviction has cleared some of them since.
    bounds: (usize, bool),
}

impl Held {
    fn slots(&self) -> usize {
        self.whole + self.narrow
    }
}

/// Bytes of pages: of whole keys, and of narrow ones.
type Pages = (usize, usize);

/// Slots of each layer's heads while tokens are read.
pub(super) struct Counts<'a> {
    held: Vec<Held>,
    seen: usize,
    peak: Pages,
    chunk: usize,
    shape: &'a Shape,
    plan: Option<&'a Plan>,
}

impl<'a> Counts<'a> {
    pub(super) fn new(shape: &'a Shape, chunk: usize, plan: Option<&'a Plan>) -> Counts<'a> {
        Counts { held: vec![Held::default(); shape.windows.len()], seen: 0, peak: (0, 0), chunk, shape, plan }
    }

    /// Read tokens in one call; `first` for the first prefill.
    pub(super) fn read(&mut self, tokens: usize, first: bool) {
        let until = self.seen + tokens;
        while self.seen < until {
            let moment = if first { Moment::PrefillChunk } else { Moment::Decode };
            let mut at = At { moment, seen: self.seen, until };
            let mut count = (until - self.seen).min(self.chunk);
            if let Some(plan) = self.plan {
                count = count.min(plan.piece(at, |layer| self.held[layer].whole));
            }
            at.seen += count;
            if first && at.seen == until {
                at.moment = Moment::PrefillEnd;
            }
            self.piece(count, at, !first && tokens == 1);
        }
    }

    fn piece(&mut self, count: usize, at: At, decodes: bool) {
        let together = self.plan.is_some_and(|plan| plan.press().scope() == Scope::Cache || plan.press().renumbers());
        for layer in 0..self.held.len() {
            self.held[layer].whole += count;
            self.note(0);
            if decodes {
                self.bound(layer);
            }
            if let Some(plan) = self.plan.filter(|plan| !(together && plan.pressed().contains(&layer))) {
                self.act(plan, layer, at);
            }
        }
        self.seen = at.seen;
        for (held, window) in self.held.iter_mut().zip(&self.shape.windows) {
            let Some(window) = window else { continue };
            // whole pages whose positions no later query can see go back
            let tokens = self.shape.layout.tokens();
            let gone = (at.seen + 1).saturating_sub(*window) / tokens * tokens;
            held.whole = at.seen - gone.min(at.seen);
        }
        if let Some(plan) = self.plan.filter(|plan| at.moment == Moment::PrefillEnd && plan.replays(at.seen)) {
            self.replay(plan);
        }
        if let Some(plan) = self.plan.filter(|_| together) {
            for &layer in plan.pressed() {
                self.act(plan, layer, at);
            }
        }
    }

    /// What the plan does to a layer that has just read a piece.
    fn act(&mut self, plan: &Plan, layer: usize, at: At) {
        let held = self.held[layer].whole;
        let Some(kept) = self.after(plan, layer, at) else { return };
        if kept < held {
            self.note(self.copies(plan, layer, (held, kept)));
            let (bounds, _) = self.held[layer].bounds;
            self.held[layer].bounds = (bounds.min(self.shape.layout.pages_for(kept)), bounds > 0);
        }
        self.held[layer].whole = kept;
        if self.shape.narrow.is_some() && plan.pressed().contains(&layer) {
            self.narrow(layer, kept.saturating_sub(plan.policy.protect().recents));
        }
    }

    /// All but the newest slots lose channels, one head after the other: each is copied before its old pages go.
    fn narrow(&mut self, layer: usize, moved: usize) {
        let (heads, before) = (self.shape.heads, self.held[layer]);
        let after = Held { whole: before.whole - moved, narrow: before.narrow + moved, listed: true, ..before };
        let pages = self.pages();
        let one =
            |held: &Held| (self.shape.page_bytes(held.whole) / heads, self.shape.narrow_bytes(held.narrow) / heads);
        let (old, new) = (one(&before), one(&after));
        for done in 0..heads {
            let whole = pages.0 - done * (old.0 - new.0);
            let narrow = pages.1 + (done + 1) * (new.1 - old.1);
            self.at_most((whole, narrow));
        }
        self.held[layer] = after;
    }

    /// A decoded token bounds every page but the newest of a layer that it does not read whole.
    fn bound(&mut self, layer: usize) {
        let pages = self.shape.layout.pages_for(self.held[layer].whole);
        if self.shape.bounded_from[layer].is_some_and(|from| pages > from) {
            self.held[layer].bounds = (pages - 1, false);
        }
    }

    /// Pages now, with `copies` bytes beside them, as the most so far.
    fn note(&mut self, copies: usize) {
        let (whole, narrow) = self.pages();
        self.at_most((whole + copies, narrow));
    }

    fn pages(&self) -> Pages {
        let whole = self.held.iter().map(|held| self.shape.page_bytes(held.whole)).sum();
        (whole, self.held.iter().map(|held| self.shape.narrow_bytes(held.narrow)).sum())
    }

    /// Pages of one size come from one store, whatever they hold.
    fn at_most(&mut self, (whole, narrow): Pages) {
        if self.shape.narrow.is_some_and(|layout| layout.page_bytes() != self.shape.layout.page_bytes()) {
            self.peak = (self.peak.0.max(whole), self.peak.1.max(narrow));
        } else {
            self.peak.0 = self.peak.0.max(whole + narrow);
        }
    }

    /// Bytes of pages that a press takes for a moment when it shortens a layer: some score copies of a part of the
    /// slots.
    fn copies(&self, plan: &Plan, layer: usize, (held, kept): (usize, usize)) -> usize {
        if plan.is_skipped(layer) {
            return 0;
        }
        let slots = match &plan.policy.press {
            PressSpec::Compactor(_) => {
                let ends = plan.press().protects(kept);
                held.saturating_sub(ends.sinks + ends.recents)
            }
            PressSpec::Composed(composed) => composed.copied(held, kept) + copied_by_parts(&plan.policy.press, held),
            press if copies_slots(press) => held,
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
        let more = longest + self.shape.layout.tokens();
        let grown: usize = self.held.iter().map(|held| self.shape.page_bytes(held.whole + more)).sum();
        let longest_layer = self.held.iter().map(|held| held.whole).max();
        let copied = longest_layer.map_or(0, |held| self.shape.page_bytes(held + more));
        self.at_most((grown + copied, 0));
    }

    /// Slots that a head of the layer keeps, if it is the plan's turn.
    fn after(&self, plan: &Plan, layer: usize, at: At) -> Option<usize> {
        let (policy, held) = (&plan.policy, self.held[layer].whole);
        let grows = policy.skip_overflow == SkipOverflow::Grow || policy.rounding == Rounding::Kvpress;
        let left_alone = self.shape.windows[layer].is_some() || (plan.is_skipped(layer) && grows);
        if left_alone || !plan.due(layer, held, at) {
            return None;
        }
        let target = plan.layer_target(layer, at);
        let forced = if plan.is_skipped(layer) {
            policy.sinks + 1
        } else {
            let protect = policy.protect().and(plan.press().protects(target));
            protect.sinks + protect.recents
        };
        Some(held.min(target.max(forced)))
    }

    /// What all of it comes to.
    pub(super) fn total(self) -> Forecast {
        let (heads, shape) = (self.shape.heads, self.shape);
        let slots: usize = self.held.iter().map(Held::slots).sum::<usize>() * heads;
        let (whole, narrow) = self.pages();
        let mut page_bytes = whole + narrow;
        let lists = self.held.iter().filter(|held| held.listed).count() * heads;
        let channels = shape.narrow.map_or(0, |layout| layout.key_dim());
        let bounds: usize = self.held.iter().map(|held| held.bounds.0 * heads * shape.bound_bytes).sum();
        let mut metadata_bytes = slots * SLOT_METADATA + lists * channels * size_of::<u32>() + bounds;
        let mut exact = self.held.iter().all(|held| !held.bounds.1);
        if let Some(plan) = self.plan {
            exact &= is_exact(&plan.policy.press);
            let full = || self.held.iter().zip(&shape.windows).filter(|(_, w)| w.is_none()).map(|(held, _)| held.whole);
            let slots: usize = full().map(|held| held * heads).sum();
            if plan.acts_later() {
                metadata_bytes += slots * plan.policy.press.columns() * size_of::<f32>();
            }
            if !is_exact(&plan.policy.press) {
                // every head may have a page of which one slot is used
                let ragged = full().count() * heads;
                let even: usize = full().map(|held| shape.page_bytes(held)).sum();
                let most = slots.saturating_sub(ragged) / shape.layout.tokens() + ragged;
                page_bytes = page_bytes - even + (most * shape.layout.page_bytes()).max(even);
                if shape.bounded_from.iter().any(Option::is_some) {
                    metadata_bytes += (most * shape.bound_bytes).saturating_sub(bounds);
                }
            }
        }
        let dense = |(held, window): (&Held, &Option<usize>)| {
            let slots = if window.is_some() { held.whole } else { self.seen };
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
            peak_page_bytes: (self.peak.0 + self.peak.1).max(page_bytes) as u64,
            effective_ratio: if dense_bytes == 0 { 0.0 } else { 1.0 - kv_bytes as f64 / dense_bytes as f64 },
            exact,
            notes: Vec::new(),
            kept: self.held.iter().map(Held::slots).collect(),
        }
    }
}

/// Slots that the parts of a press copy, at most.
fn copied_by_parts(press: &PressSpec, held: usize) -> usize {
    if press.parts().iter().any(copies_slots) { held } else { 0 }
}

/// Whether a press, or one inside it, scores copies of slots.
fn copies_slots(press: &PressSpec) -> bool {
    matches!(press, PressSpec::Compactor(_) | PressSpec::Chunk(_) | PressSpec::Block(_))
        || press.inner().is_some_and(copies_slots)
}
