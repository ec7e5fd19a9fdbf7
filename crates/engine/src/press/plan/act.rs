//! What a press does to the cache when its moment has come.

use super::{Now, Plan, held, slots};
use crate::cache::{KvCache, LayerCache};
use crate::error::EngineError;
use crate::press::budget::{Budget, SkipOverflow, keep_of};
use crate::press::policy::Rounding;
use crate::press::rotation::Turner;
use crate::press::select::{self, Keep, Protect};
use crate::press::view::Scores;
use crate::press::watch::{LayerState, Watch};
use crate::press::{Edits, Scope};

impl Plan {
    /// Act on a layer that has just read a piece.
    pub fn act(
        &mut self,
        layer: usize,
        cache: &mut LayerCache,
        now: &Now<'_>,
        state: &LayerState,
    ) -> Result<(), EngineError> {
        if self.sliding[layer] || !self.due(layer, held(cache), (now.moment, now.seen)) {
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
        let due = |l: &usize| self.due(*l, held(&cache.layers()[*l]), (now.moment, now.seen));
        let due: Vec<usize> = self.pressed.iter().copied().filter(due).collect();
        if self.press.scope() == Scope::Layer {
            for layer in due {
                self.press_layer(layer, cache.layer_mut(layer), now, &watch.layers()[layer])?;
            }
            return Ok(());
        }
        if due.is_empty() { Ok(()) } else { self.press_cache(cache, now, watch) }
    }

    fn press_cache(&mut self, cache: &mut KvCache, now: &Now<'_>, watch: &Watch) -> Result<(), EngineError> {
        let mut layers = Vec::with_capacity(self.pressed.len());
        for &layer in &self.pressed {
            let view = self.view(layer, &cache.layers()[layer], now, &watch.layers()[layer]);
            let mut scores = Scores::of(view.heads);
            self.press.score(&view, &mut scores)?;
            layers.push((view, scores));
        }
        let mut counts: Vec<Vec<usize>> = layers.iter().map(|(view, _)| view.uniform()).collect();
        self.press.share_out(&layers, &mut counts)?;
        let mut keeps = Vec::with_capacity(self.pressed.len());
        for ((view, scores), counts) in layers.iter().zip(&counts) {
            let protect = self.policy.protect().and(self.press.protects(view.target));
            keeps.push(select::best(view, scores, counts, protect)?);
        }
        drop(layers);
        for (layer, keep) in self.pressed.clone().into_iter().zip(keeps) {
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
        if self.press.scope() == Scope::Cache && self.pressed.iter().any(|&l| over(self, l, cache)) {
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

    /// A skipped layer is spared until it overflows: then its first and its newest tokens stay.
    fn spare(&mut self, layer: usize, cache: &mut LayerCache, now: &Now<'_>) {
        let target = self.target(now.seen);
        let before = slots(cache);
        for head in cache.heads_mut() {
            let ages: Vec<f32> = (0..head.len()).map(|slot| slot as f32).collect();
            let protect = Protect { sinks: self.policy.sinks, recents: 1 };
            let mut keep = Vec::new();
            if select::select(&ages, head.positions(), target, protect, &mut keep).is_ok() {
                head.retain(&keep);
            }
        }
        self.count(layer, before - slots(cache), now.seen);
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
        let before = slots(cache);
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
        self.count(layer, before - slots(cache), now.seen);
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
}
