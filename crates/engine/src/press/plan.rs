//! A policy made ready for one model: which layers it acts on, and what a layer may hold when.

use std::sync::Arc;

use super::budget::{Budget, SkipOverflow, keep_of, keep_of_kvpress};
use super::policy::{Policy, PrefillSchedule, Rounding};
use super::registry::Adaptivity;
use super::rotation::Turner;
use super::select::{Keep, Protect};
use super::view::{LayerView, Scores};
use super::watch::{LayerState, Watch};
use super::{Edits, LayerShare, Press, Scope, select};
use crate::cache::{KvCache, LayerCache};
use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;

/// What moment of a session's life this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A chunk of the first prefill, more to come.
    PrefillChunk,
    /// The last chunk of the first prefill.
    PrefillEnd,
    /// Anything later.
    Decode,
}

/// Where a session stands when a press may act.
#[derive(Clone, Copy)]
pub(crate) struct Now<'a> {
    pub model: &'a Model,
    /// Tokens seen, the piece just read included.
    pub seen: usize,
    pub moment: Moment,
    pub long_rope: bool,
}

/// A compiled policy.
pub(crate) struct Plan {
    pub policy: Policy,
    press: Arc<dyn Press>,
    /// The press is not the policy's: a caller brought it.
    foreign: bool,
    skipped: Vec<bool>,
    sliding: Vec<bool>,
    pressed: Vec<usize>,
    full: usize,
    byte_tokens: Option<usize>,
    /// Tokens seen when each layer was last acted on; for presses that decide themselves how much stays.
    acted: Vec<usize>,
    /// What is remembered over forks and saved sessions.
    pub counters: Counters,
}

/// What a plan remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Counters {
    /// Times a layer was compressed.
    pub runs: u64,
    /// Times a press that decides itself how much stays was asked.
    #[serde(default)]
    pub asked: u64,
    /// Slots evicted.
    pub evicted: u64,
    /// Tokens seen at the last eviction.
    pub last_eviction: Option<usize>,
    /// Set when protection held more than the budget asked for.
    pub held_by_protection: bool,
    /// Tokens that a press read again.
    #[serde(default)]
    pub replayed: u64,
    /// How far positions were moved down by a press that renumbers.
    #[serde(default)]
    pub moved_down: usize,
}

impl Plan {
    /// Check a policy against a model. A budget that cannot be met is refused with the smallest that can.
    pub fn compile(policy: &Policy, config: &Config, cache: &KvCache) -> Result<Plan, EngineError> {
        let mut plan = Plan::compile_with(policy, policy.press.build()?, config, cache)?;
        plan.foreign = false;
        Ok(plan)
    }

    /// The same with a press that is not in the registry; the policy's own is not looked at.
    pub fn compile_with(
        policy: &Policy,
        press: Arc<dyn Press>,
        config: &Config,
        cache: &KvCache,
    ) -> Result<Plan, EngineError> {
        let adaptivity = super::registry::find(press.name()).map_or(Adaptivity::LayersAndHeads, |info| info.adaptivity);
        let refuse = |why: String| EngineError::Press { press: press.name().to_string(), why };
        let sliding: Vec<bool> = config.attention.iter().map(|a| a.window.is_some()).collect();
        let full = sliding.iter().filter(|s| !**s).count();
        if full == 0 {
            return Err(refuse(
                "every layer of this model attends within a sliding window, which bounds its cache already".into(),
            ));
        }
        let skipped = skipped_layers(policy, config).map_err(&refuse)?;
        let pressed: Vec<usize> = (0..config.layers).filter(|&l| !sliding[l] && !skipped[l]).collect();
        if pressed.is_empty() {
            return Err(refuse("every full-attention layer is skipped: nothing is left to press".into()));
        }
        check_character(policy, press.as_ref(), pressed.len(), config).map_err(&refuse)?;
        press.check(config)?;
        if press.narrows() && cache.rotation().is_some() {
            return Err(refuse(
                "it drops channels, which a cache that turns its keys mixes: use a cache without rotation".into(),
            ));
        }
        let protect = policy.protect();
        let floor = (protect.sinks + protect.recents).max(1);
        let own = press.name() == policy.press.name();
        let columns = if own { policy.press.columns() } else { usize::from(press.needs().attention_mass) };
        let extra = Extra { columns, ragged: adaptivity != Adaptivity::Uniform };
        let byte_tokens = match policy.budget {
            Budget::Tokens(tokens) if tokens < floor => {
                return Err(refuse(format!(
                    "a budget of {tokens} tokens cannot hold {} sinks and {} recents; the smallest is {floor} (or lower --sinks and --recents)",
                    protect.sinks, protect.recents
                )));
            }
            Budget::Bytes(bytes) => {
                if policy.skip_overflow == SkipOverflow::Grow && skipped.iter().any(|s| *s) {
                    return Err(refuse(
                        "a budget in bytes cannot hold while skipped layers grow: use skip overflow `window`".into(),
                    ));
                }
                let tokens = tokens_of_bytes(bytes, cache, &extra);
                if tokens < floor {
                    return Err(refuse(format!(
                        "{} cannot hold {} sinks and {} recents in pages of every head; the smallest budget is {}",
                        policy.budget,
                        protect.sinks,
                        protect.recents,
                        Budget::Bytes(bytes_of_tokens(floor, cache, &extra).next_multiple_of(1024))
                    )));
                }
                Some(tokens)
            }
            _ => None,
        };
        let skipped_full = (0..config.layers).filter(|&l| !sliding[l] && skipped[l]).count();
        if let (Budget::Ratio(share), SkipOverflow::Grow, Rounding::Meden) =
            (policy.budget, policy.skip_overflow, policy.rounding)
            && share * full as f64 <= skipped_full as f64
        {
            let most = Budget::Ratio(1.0 - skipped_full as f64 / full as f64);
            let least = Budget::Ratio(skipped_full as f64 / full as f64);
            return Err(refuse(format!(
                "{skipped_full} of {full} layers are skipped and grow, so no more than {most} can be removed overall; keep more than {least}, or use skip overflow `window`",
            )));
        }
        Ok(Plan {
            policy: policy.clone(),
            press,
            foreign: true,
            skipped,
            sliding,
            pressed,
            full,
            byte_tokens,
            acted: vec![0; config.layers],
            counters: Counters::default(),
        })
    }

    /// Take over the counters of the session this one was forked from.
    pub fn inherit(&mut self, other: &Plan) {
        self.counters = other.counters.clone();
        self.acted.clone_from(&other.acted);
    }

    /// Did a caller bring the press?
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// A plan for a fork of the session.
    pub fn fork(&self, config: &Config, cache: &KvCache) -> Result<Plan, EngineError> {
        let mut plan = Plan::compile_with(&self.policy, self.press.clone(), config, cache)?;
        plan.foreign = self.foreign;
        plan.inherit(self);
        Ok(plan)
    }

    /// Tokens seen when each layer was last acted on.
    pub fn acted(&self) -> &[usize] {
        &self.acted
    }

    /// Forget actions on tokens that were taken out again.
    pub fn take_back(&mut self, seen: usize) {
        self.acted.iter_mut().for_each(|acted| *acted = (*acted).min(seen));
    }

    /// Put them back from a saved session.
    pub fn restore_acted(&mut self, acted: &[usize]) {
        self.acted.iter_mut().zip(acted).for_each(|(to, from)| *to = *from);
    }

    /// The press.
    pub fn press(&self) -> &Arc<dyn Press> {
        &self.press
    }

    /// Does the press leave this layer alone?
    pub fn is_skipped(&self, layer: usize) -> bool {
        self.skipped[layer]
    }

    /// Will the press act again after the first prefill?
    pub fn acts_later(&self) -> bool {
        let schedule = self.policy.schedule;
        schedule.decode_every.is_some() || matches!(schedule.prefill, PrefillSchedule::Chunk(_))
    }

    /// Does the cache grow without bound because skipped layers do?
    pub fn unbounded(&self) -> bool {
        self.policy.skip_overflow == SkipOverflow::Grow
            && (0..self.skipped.len()).any(|l| self.skipped[l] && !self.sliding[l])
    }

    /// Slots each pressed head may hold after `seen` tokens, on average over layers and heads.
    pub fn target(&self, seen: usize) -> usize {
        let target = match (self.policy.budget, self.policy.rounding) {
            (Budget::Press, _) => return seen,
            (Budget::Tokens(tokens), _) => tokens,
            (Budget::Bytes(_), _) => self.byte_tokens.unwrap_or(1),
            (Budget::Ratio(share), Rounding::Kvpress) => return keep_of_kvpress(seen, 1.0 - share).min(seen),
            (Budget::Ratio(share), Rounding::Meden) => {
                let mean = keep_of(seen, 1.0 - share);
                if self.policy.skip_overflow == SkipOverflow::Grow {
                    // what the skipped layers keep is taken from the others, so that the whole cache meets the share
                    let skipped = (0..self.skipped.len()).filter(|&l| self.skipped[l] && !self.sliding[l]).count();
                    (mean * self.full).saturating_sub(skipped * seen) / (self.full - skipped)
                } else {
                    mean
                }
            }
        };
        target.max((self.policy.sinks + self.policy.recents).max(1))
    }

    /// Slots a head of this layer may hold.
    pub fn layer_target(&self, layer: usize, seen: usize) -> usize {
        let mean = self.target(seen);
        if self.skipped[layer] || self.sliding[layer] {
            return mean;
        }
        let exact = match self.policy.budget {
            Budget::Ratio(share) => seen as f64 * share,
            _ => mean as f64,
        };
        let rounding = self.policy.rounding;
        self.press.layer_target(LayerShare { layer, pressed: &self.pressed, seen, mean, exact, rounding })
    }

    /// How many of `left` tokens may be read in one go after `seen` tokens.
    pub fn piece(&self, moment: Moment, left: usize, seen: usize, cache: &KvCache) -> usize {
        let every = |every: usize| {
            if self.press.own_budget() {
                let acted = self.acted.iter().copied().max().unwrap_or(0);
                return (acted + every).saturating_sub(seen).clamp(1, every);
            }
            // the length stays below budget + n at every moment, whole question batches included
            let pressed = (0..self.skipped.len()).filter(|&l| !self.skipped[l] && !self.sliding[l]);
            let room = pressed.map(|l| (self.layer_target(l, seen) + every).saturating_sub(held(&cache.layers()[l])));
            room.min().unwrap_or(every).clamp(1, every)
        };
        let most = match (moment, self.policy.schedule.prefill, self.policy.schedule.decode_every) {
            (Moment::PrefillChunk | Moment::PrefillEnd, PrefillSchedule::Chunk(chunk), _) => chunk,
            (Moment::PrefillChunk | Moment::PrefillEnd, PrefillSchedule::End, _) => left,
            (_, _, Some(n)) => every(n),
            (Moment::Decode, PrefillSchedule::Chunk(chunk), None) => chunk,
            _ => left,
        };
        most.min(left).max(1)
    }

    /// Will the press read the text again once `seen` tokens are in the cache?
    pub fn replays(&self, seen: usize) -> bool {
        let over = |layer: usize| seen > self.layer_target(layer, seen);
        self.press.needs().replay
            && self.policy.schedule.prefill == PrefillSchedule::End
            && (0..self.skipped.len())
                .any(|l| !self.skipped[l] && !self.sliding[l] && (self.press.own_budget() || over(l)))
    }

    /// May the press act on this layer now?
    fn due(&self, layer: usize, cache: &LayerCache, now: &Now<'_>) -> bool {
        let (held, target) = (held(cache), self.layer_target(layer, now.seen));
        let over = |slots: usize| match self.press.own_budget() {
            true => now.seen >= self.acted[layer] + slots.max(1),
            false => held >= target + slots.max(1),
        };
        let schedule = self.policy.schedule;
        match (now.moment, schedule.prefill, schedule.decode_every) {
            (Moment::PrefillChunk | Moment::PrefillEnd, PrefillSchedule::Chunk(_), _) => over(0),
            (Moment::PrefillEnd, PrefillSchedule::End, _) => over(0),
            (Moment::PrefillChunk, PrefillSchedule::End, _) => false,
            (_, _, Some(every)) => over(every),
            // later batches of a chunked prefill (a second document, a long question) are chunked as the first was
            (Moment::Decode, PrefillSchedule::Chunk(chunk), None) => over(chunk),
            _ => false,
        }
    }

    /// Act on a layer that has just read a piece.
    pub fn act(
        &mut self,
        layer: usize,
        cache: &mut LayerCache,
        now: &Now<'_>,
        state: &LayerState,
    ) -> Result<(), EngineError> {
        if self.sliding[layer] || !self.due(layer, cache, now) {
            return Ok(());
        }
        if self.skipped[layer] {
            if self.policy.skip_overflow == SkipOverflow::Window && self.policy.rounding == Rounding::Meden {
                self.spare(layer, cache, now);
            }
            return Ok(());
        }
        // renumbering waits too: a pass that fails half-way must not leave layers at different positions
        if self.press.scope() == Scope::Cache || self.press.needs().replay || self.press.renumbers() {
            return Ok(());
        }
        self.press_layer(layer, cache, now, state)
    }

    /// Press one layer now, due or not.
    fn press_layer(
        &mut self,
        layer: usize,
        cache: &mut LayerCache,
        now: &Now<'_>,
        state: &LayerState,
    ) -> Result<(), EngineError> {
        let view = self.view(layer, cache, now, state);
        let mut scores = Scores::of(view.heads);
        self.press.score(&view, &mut scores)?;
        let protect = self.policy.protect().and(self.press.protects(view.target));
        let keep = self.press.choose(&view, &scores, protect)?;
        self.finish(layer, cache, (keep, now, state))
    }

    /// Act on all layers together, once a pass is through; for presses whose decision reaches over layers.
    pub fn act_on_cache(&mut self, cache: &mut KvCache, now: &Now<'_>, watch: &Watch) -> Result<(), EngineError> {
        if self.press.needs().replay || (self.press.scope() == Scope::Layer && !self.press.renumbers()) {
            return Ok(());
        }
        let due = |l: &usize| !self.sliding[*l] && !self.skipped[*l] && self.due(*l, &cache.layers()[*l], now);
        let due: Vec<usize> = (0..self.skipped.len()).filter(due).collect();
        if self.press.scope() == Scope::Layer {
            for layer in due {
                self.press_layer(layer, cache.layer_mut(layer), now, &watch.layers()[layer])?;
            }
            return Ok(());
        }
        if due.is_empty() { Ok(()) } else { self.press_cache(cache, now, watch) }
    }

    fn press_cache(&mut self, cache: &mut KvCache, now: &Now<'_>, watch: &Watch) -> Result<(), EngineError> {
        let pressed: Vec<usize> = (0..self.skipped.len()).filter(|&l| !self.skipped[l] && !self.sliding[l]).collect();
        let mut layers = Vec::with_capacity(pressed.len());
        for &layer in &pressed {
            let view = self.view(layer, &cache.layers()[layer], now, &watch.layers()[layer]);
            let mut scores = Scores::of(view.heads);
            self.press.score(&view, &mut scores)?;
            layers.push((view, scores));
        }
        let mut counts: Vec<Vec<usize>> = layers.iter().map(|(view, _)| view.uniform()).collect();
        self.press.share_out(&layers, &mut counts)?;
        let mut keeps = Vec::with_capacity(pressed.len());
        for ((view, scores), counts) in layers.iter().zip(&counts) {
            let protect = self.policy.protect().and(self.press.protects(view.target));
            keeps.push(select::best(view, scores, counts, protect)?);
        }
        drop(layers);
        for (&layer, keep) in pressed.iter().zip(keeps) {
            self.finish(layer, cache.layer_mut(layer), (keep, now, &watch.layers()[layer]))?;
        }
        Ok(())
    }

    /// Press every layer now, whatever the schedule says.
    pub fn act_now(&mut self, cache: &mut KvCache, now: &Now<'_>, watch: &Watch) -> Result<(), EngineError> {
        let over = |plan: &Plan, layer: usize, cache: &KvCache| {
            plan.press.own_budget() || held(&cache.layers()[layer]) > plan.layer_target(layer, now.seen)
        };
        for layer in (0..self.skipped.len()).filter(|&l| !self.sliding[l]).collect::<Vec<_>>() {
            if !over(self, layer, cache) {
                continue;
            }
            if self.skipped[layer] {
                if self.policy.skip_overflow == SkipOverflow::Window && self.policy.rounding == Rounding::Meden {
                    self.spare(layer, cache.layer_mut(layer), now);
                }
            } else if self.press.scope() == Scope::Layer {
                self.press_layer(layer, cache.layer_mut(layer), now, &watch.layers()[layer])?;
            }
        }
        let pressed = (0..self.skipped.len()).filter(|&l| !self.skipped[l] && !self.sliding[l]);
        if self.press.scope() == Scope::Cache && pressed.into_iter().any(|l| over(self, l, cache)) {
            self.press_cache(cache, now, watch)?;
        }
        self.settle(cache, now)
    }

    /// After a pass: positions of a press that renumbers go on from what is left.
    pub fn settle(&mut self, cache: &KvCache, now: &Now<'_>) -> Result<(), EngineError> {
        if !self.press.renumbers() {
            return Ok(());
        }
        let mut lengths = cache.layers().iter().flat_map(|l| l.heads()).map(|h| h.len());
        let first = lengths.next().unwrap_or(0);
        if lengths.any(|l| l != first) {
            return Err(EngineError::Press {
                press: self.press.name().to_string(),
                why: "heads kept different numbers of tokens, so there is no one position to go on from".into(),
            });
        }
        self.counters.moved_down = now.seen - first;
        Ok(())
    }

    fn view<'a>(&self, layer: usize, cache: &'a LayerCache, now: &Now<'a>, state: &'a LayerState) -> LayerView<'a> {
        let target = self.layer_target(layer, now.seen);
        let removed = match self.policy.budget {
            Budget::Ratio(share) => 1.0 - share,
            _ => 1.0 - target as f64 / held(cache).max(target).max(1) as f64,
        };
        LayerView {
            model: now.model,
            layer,
            next: now.seen - self.counters.moved_down,
            since: now.seen.saturating_sub(self.acted[layer]),
            long_rope: now.long_rope,
            target,
            removed,
            rounding: self.policy.rounding,
            protect: self.policy.protect(),
            heads: cache.heads(),
            state,
        }
    }

    /// A skipped layer is spared until it overflows: then its first and its newest tokens stay.
    fn spare(&mut self, layer: usize, cache: &mut LayerCache, now: &Now<'_>) {
        let target = self.target(now.seen);
        let before: usize = cache.heads().iter().map(|h| h.len()).sum();
        for head in cache.heads_mut() {
            let ages: Vec<f32> = (0..head.len()).map(|slot| slot as f32).collect();
            let protect = Protect { sinks: self.policy.sinks, recents: 1 };
            let mut keep = Vec::new();
            if select::select(&ages, head.positions(), target, protect, &mut keep).is_ok() {
                head.retain(&keep);
            }
        }
        self.count(layer, before - cache.heads().iter().map(|h| h.len()).sum::<usize>(), now.seen);
    }

    fn finish(
        &mut self,
        layer: usize,
        cache: &mut LayerCache,
        (keep, now, state): (Keep, &Now<'_>, &LayerState),
    ) -> Result<(), EngineError> {
        if let (Budget::Ratio(share), Rounding::Meden) = (self.policy.budget, self.policy.rounding) {
            self.counters.held_by_protection |= self.target(now.seen) > keep_of(now.seen, 1.0 - share);
        }
        let mut edits = Edits::default();
        let view = self.view(layer, cache, now, state);
        self.press.edit(&view, &keep, &mut edits)?;
        for (head, slot, value) in edits.values {
            cache.heads_mut()[head].set_value(slot as usize, &value);
        }
        let before: usize = cache.heads().iter().map(|h| h.len()).sum();
        for (head, keep) in cache.heads_mut().iter_mut().zip(&keep) {
            if keep.len() < head.len() {
                head.retain(keep);
            }
        }
        if self.press.renumbers() {
            let config = now.model.config();
            let mut turner = Turner::new(&config.ropes[config.attention[layer].rope], now.long_rope);
            for head in cache.heads_mut() {
                head.renumber(|key, from, to| turner.back(key, from, to));
            }
        }
        self.count(layer, before - cache.heads().iter().map(|h| h.len()).sum::<usize>(), now.seen);
        self.narrow(layer, cache, (now, state))
    }

    /// Take channels from the keys of a layer, where the press wants that. Such a step cannot be taken back either.
    fn narrow(
        &mut self,
        layer: usize,
        cache: &mut LayerCache,
        (now, state): (&Now<'_>, &LayerState),
    ) -> Result<(), EngineError> {
        if !self.press.narrows() {
            return Ok(());
        }
        let Some(channels) = self.press.channels(&self.view(layer, cache, now, state))? else { return Ok(()) };
        let moved = cache.narrow_keys(channels, self.policy.protect().recents).ok_or_else(|| EngineError::Press {
            press: self.press.name().to_string(),
            why: "older keys were narrowed to another number of channels before".into(),
        })?;
        if moved > 0 {
            self.counters.runs += 1;
            self.counters.last_eviction = Some(now.seen);
        }
        Ok(())
    }

    fn count(&mut self, layer: usize, evicted: usize, seen: usize) {
        self.acted[layer] = seen;
        self.counters.asked += 1;
        if evicted > 0 {
            self.counters.runs += 1;
            self.counters.evicted += evicted as u64;
            self.counters.last_eviction = Some(seen);
        }
    }

    /// Scores of every slot of a layer, as the press sees them now.
    pub fn scores(
        &self,
        layer: usize,
        cache: &LayerCache,
        now: &Now<'_>,
        state: &LayerState,
    ) -> Result<Scores, EngineError> {
        let view = self.view(layer, cache, now, state);
        let mut scores = Scores::of(view.heads);
        self.press.score(&view, &mut scores)?;
        Ok(scores)
    }

    /// Slots of each head that stay whatever their score.
    pub fn protects(&self, seen: usize) -> Protect {
        self.policy.protect().and(self.press.protects(self.target(seen)))
    }
}

/// Slots a head of the layer holds on average, rounded up.
fn held(cache: &LayerCache) -> usize {
    let heads = cache.heads();
    heads.iter().map(|h| h.len()).sum::<usize>().div_ceil(heads.len().max(1))
}

fn skipped_layers(policy: &Policy, config: &Config) -> Result<Vec<bool>, String> {
    let mut skipped = vec![false; config.layers];
    for layer in policy.skipped() {
        // the press's own default skips what a small model may not have
        match skipped.get_mut(layer) {
            Some(skip) => *skip = true,
            None if policy.skip_layers.is_none() => {}
            None => {
                return Err(format!(
                    "skip layer {layer} does not exist: the model has layers 0 to {}",
                    config.layers - 1
                ));
            }
        }
    }
    Ok(skipped)
}

/// What a press can do, against what is asked of it.
fn check_character(policy: &Policy, press: &dyn Press, pressed: usize, config: &Config) -> Result<(), String> {
    match (press.own_budget(), policy.budget) {
        (true, Budget::Press) | (false, Budget::Ratio(_) | Budget::Tokens(_) | Budget::Bytes(_)) => {}
        (true, other) => {
            return Err(format!(
                "it decides itself how much stays, so a budget of {other} would be ignored: write the budget `press`, and set its own parameters"
            ));
        }
        (false, Budget::Press) => {
            return Err("it needs a budget: a share such as 25%, tokens such as 512, or bytes such as 8MiB".into());
        }
    }
    let once = policy.schedule.prefill == PrefillSchedule::End && policy.schedule.decode_every.is_none();
    if let (Some(why), false) = (press.only_at_prefill_end(), once) {
        return Err(format!("{why}: use the schedule prefill_end (asked for: {})", policy.schedule));
    }
    if press.renumbers() && pressed < config.layers {
        return Err(format!(
            "it numbers positions anew, which all layers have to do alike, but {} of {} layers are skipped or slide; give --skip-layers none, or another press",
            config.layers - pressed,
            config.layers
        ));
    }
    Ok(())
}

/// What a press costs beside the slots themselves.
struct Extra {
    /// Columns that travel with the slots.
    columns: usize,
    /// Heads may keep different numbers, so each may have a page that is not full.
    ragged: bool,
}

/// Most bytes the cache takes when every full-attention head holds `tokens` slots and every sliding layer its window.
fn bytes_of_tokens(tokens: usize, cache: &KvCache, extra: &Extra) -> u64 {
    let mut bytes = 0u64;
    for layer in cache.layers() {
        for head in layer.heads() {
            let layout = head.layout();
            // a window's pages go back whole, so up to one page more than the window is held
            let slots = layer.window().map_or(tokens, |w| w as usize + layout.tokens());
            let pages = slots.div_ceil(layout.tokens()) + usize::from(extra.ragged && layer.window().is_none());
            let a_slot = size_of::<u32>() + size_of::<f32>() * (1 + extra.columns);
            bytes += (pages * layout.page_bytes() + slots * a_slot) as u64;
        }
    }
    bytes
}

/// Most tokens a full-attention head may hold so that the whole cache stays within `bytes`.
fn tokens_of_bytes(bytes: u64, cache: &KvCache, extra: &Extra) -> usize {
    let (mut low, mut high) = (0usize, 1usize);
    while bytes_of_tokens(high, cache, extra) <= bytes {
        low = high;
        high *= 2;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if bytes_of_tokens(middle, cache, extra) <= bytes { low = middle } else { high = middle }
    }
    low
}
