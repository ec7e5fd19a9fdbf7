//! A policy made ready for one model: which layers it acts on, and what a layer may hold when.
//!
//! [`check`] refuses what cannot be, [`bytes`] turns bytes into tokens, [`when`] and [`act`] are the two halves of what
//! a pass asks.

mod act;
mod bytes;
mod check;
mod when;

use std::sync::Arc;

use super::budget::{Budget, SkipOverflow, keep_of, keep_of_kvpress};
use super::policy::{Policy, PrefillSchedule, Rounding};
use super::select::Protect;
use super::view::{LayerView, Scores};
use super::watch::LayerState;
use super::{LayerShare, Press};
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
        let refuse = |why: String| EngineError::Press { press: press.name().to_string(), why };
        let sliding: Vec<bool> = config.attention.iter().map(|a| a.window.is_some()).collect();
        let full = sliding.iter().filter(|s| !**s).count();
        if full == 0 {
            return Err(refuse(
                "every layer of this model attends within a sliding window, which bounds its cache already".into(),
            ));
        }
        let skipped = check::skipped_layers(policy, config).map_err(&refuse)?;
        let pressed: Vec<usize> = (0..config.layers).filter(|&l| !sliding[l] && !skipped[l]).collect();
        if pressed.is_empty() {
            return Err(refuse("every full-attention layer is skipped: nothing is left to press".into()));
        }
        check::character(policy, press.as_ref(), pressed.len(), config).map_err(&refuse)?;
        press.check(config)?;
        if press.narrows() && cache.rotation().is_some() {
            return Err(refuse(
                "it drops channels, which a cache that turns its keys mixes: use a cache without rotation".into(),
            ));
        }
        let byte_tokens = check::budget(policy, press.as_ref(), (full, pressed.len()), cache).map_err(&refuse)?;
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

    /// Layers that are pressed: full attention, not skipped.
    pub fn pressed(&self) -> &[usize] {
        &self.pressed
    }

    /// Will the press act again after the first prefill?
    pub fn acts_later(&self) -> bool {
        let schedule = self.policy.schedule;
        schedule.decode_every.is_some() || matches!(schedule.prefill, PrefillSchedule::Chunk(_))
    }

    /// Does the cache grow without bound because skipped layers do?
    pub fn unbounded(&self) -> bool {
        self.policy.skip_overflow == SkipOverflow::Grow && self.pressed.len() < self.full
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
                    let skipped = self.full - self.pressed.len();
                    (mean * self.full).saturating_sub(skipped * seen) / self.pressed.len()
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

/// Slots that the heads of a layer hold together.
fn slots(cache: &LayerCache) -> usize {
    cache.heads().iter().map(|h| h.len()).sum()
}

/// Slots a head of the layer holds on average, rounded up.
pub(crate) fn held(cache: &LayerCache) -> usize {
    slots(cache).div_ceil(cache.heads().len().max(1))
}
