//! A policy made ready for one model: which layers it acts on, and what a layer may hold when.

use super::budget::{Budget, SkipOverflow, keep_of, keep_of_kvpress};
use super::policy::{Policy, PrefillSchedule, Rounding};
use super::select::{Protect, not_a_number, select};
use super::{Press, PressPoint};
use crate::cache::{KvCache, LayerCache};
use crate::error::EngineError;
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

/// A compiled policy.
pub(crate) struct Plan {
    pub policy: Policy,
    press: Box<dyn Press>,
    skipped: Vec<bool>,
    sliding: Vec<bool>,
    full: usize,
    byte_tokens: Option<usize>,
    scores: Vec<f32>,
    keep: Vec<u32>,
    /// Times a layer was compressed.
    pub runs: u64,
    /// Slots evicted.
    pub evicted: u64,
    /// Tokens seen at the last eviction.
    pub last_eviction: Option<usize>,
    /// Set when protection held more than the budget asked for.
    pub held_by_protection: bool,
}

impl Plan {
    /// Check a policy against a model. A budget that cannot be met is refused with the smallest that can.
    pub fn compile(policy: &Policy, config: &Config, cache: &KvCache) -> Result<Plan, EngineError> {
        let press = policy.press.build();
        let refuse = |why: String| EngineError::Press { press: press.name().to_string(), why };
        let sliding: Vec<bool> = config.attention.iter().map(|a| a.window.is_some()).collect();
        let full = sliding.iter().filter(|s| !**s).count();
        if full == 0 {
            return Err(refuse(
                "every layer of this model attends within a sliding window, which bounds its cache already".into(),
            ));
        }
        let mut skipped = vec![false; config.layers];
        for layer in policy.skipped() {
            // the press's own default skips what a small model may not have
            match skipped.get_mut(layer) {
                Some(skip) => *skip = true,
                None if policy.skip_layers.is_none() => {}
                None => {
                    return Err(refuse(format!(
                        "skip layer {layer} does not exist: the model has layers 0 to {}",
                        config.layers - 1
                    )));
                }
            }
        }
        let pressed = (0..config.layers).filter(|&l| !sliding[l] && !skipped[l]).count();
        if pressed == 0 {
            return Err(refuse("every full-attention layer is skipped: nothing is left to press".into()));
        }
        let protect = policy.protect();
        let floor = (protect.sinks + protect.recents).max(1);
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
                let tokens = tokens_of_bytes(bytes, cache);
                if tokens < floor {
                    return Err(refuse(format!(
                        "{} cannot hold {} sinks and {} recents in pages of every head; the smallest budget is {}",
                        policy.budget,
                        protect.sinks,
                        protect.recents,
                        Budget::Bytes(bytes_of_tokens(floor, cache).next_multiple_of(1024))
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
            skipped,
            sliding,
            full,
            byte_tokens,
            scores: Vec::new(),
            keep: Vec::new(),
            runs: 0,
            evicted: 0,
            last_eviction: None,
            held_by_protection: false,
        })
    }

    /// Take over the counters of the session this one was forked from.
    pub fn inherit(&mut self, other: &Plan) {
        self.runs = other.runs;
        self.evicted = other.evicted;
        self.last_eviction = other.last_eviction;
        self.held_by_protection = other.held_by_protection;
    }

    /// Does the press leave this layer alone?
    pub fn is_skipped(&self, layer: usize) -> bool {
        self.skipped[layer]
    }

    /// Does the cache grow without bound because skipped layers do?
    pub fn unbounded(&self) -> bool {
        self.policy.skip_overflow == SkipOverflow::Grow
            && (0..self.skipped.len()).any(|l| self.skipped[l] && !self.sliding[l])
    }

    /// Slots each pressed head may hold after `seen` tokens.
    pub fn target(&self, seen: usize) -> usize {
        let target = match (self.policy.budget, self.policy.rounding) {
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

    /// How many of `left` tokens may be read in one go when a layer holds `held` slots after `seen` tokens.
    pub fn piece(&self, moment: Moment, left: usize, seen: usize, held: usize) -> usize {
        let most = match (moment, self.policy.schedule.prefill, self.policy.schedule.decode_every) {
            (Moment::PrefillChunk | Moment::PrefillEnd, PrefillSchedule::Chunk(chunk), _) => chunk,
            (Moment::PrefillChunk | Moment::PrefillEnd, PrefillSchedule::End, _) => left,
            // the length stays below budget + n at every moment, whole question batches included
            (_, _, Some(every)) => (self.target(seen) + every).saturating_sub(held).clamp(1, every),
            (Moment::Decode, PrefillSchedule::Chunk(chunk), None) => chunk,
            _ => left,
        };
        most.min(left).max(1)
    }

    /// Act on a layer whose cache has just been read for this piece. Returns the slots evicted.
    pub fn act(
        &mut self,
        layer: usize,
        cache: &mut LayerCache,
        seen: usize,
        moment: Moment,
    ) -> Result<usize, EngineError> {
        if self.sliding[layer] {
            return Ok(0);
        }
        let target = self.target(seen);
        let held = cache.max_len();
        let schedule = self.policy.schedule;
        let due = match (moment, schedule.prefill, schedule.decode_every) {
            (Moment::PrefillChunk | Moment::PrefillEnd, PrefillSchedule::Chunk(_), _) => held > target,
            (Moment::PrefillEnd, PrefillSchedule::End, _) => held > target,
            (Moment::PrefillChunk, PrefillSchedule::End, _) => false,
            (_, _, Some(every)) => held >= target + every,
            // later batches of a chunked prefill (a second document, a long question) are chunked as the first was
            (Moment::Decode, PrefillSchedule::Chunk(chunk), None) => held >= target + chunk,
            _ => false,
        };
        if !due || (self.skipped[layer] && self.policy.skip_overflow == SkipOverflow::Grow) {
            return Ok(0);
        }
        if self.skipped[layer] && self.policy.rounding == Rounding::Kvpress {
            return Ok(0);
        }
        if let (Budget::Ratio(share), Rounding::Meden) = (self.policy.budget, self.policy.rounding) {
            self.held_by_protection |= target > keep_of(seen, 1.0 - share);
        }
        let evicted = self.compress(layer, cache, seen, target)?;
        if evicted > 0 {
            self.runs += 1;
            self.evicted += evicted as u64;
            self.last_eviction = Some(seen);
        }
        Ok(evicted)
    }

    fn compress(
        &mut self,
        layer: usize,
        cache: &mut LayerCache,
        seen: usize,
        target: usize,
    ) -> Result<usize, EngineError> {
        let mut evicted = 0;
        for (number, head) in cache.heads_mut().iter_mut().enumerate() {
            let slots = head.len();
            if slots <= target {
                continue;
            }
            self.scores.clear();
            self.scores.resize(slots, 0.0);
            let mut protect = self.policy.protect();
            if self.skipped[layer] {
                // spared until it overflows: then its first and its newest tokens stay
                protect = Protect { sinks: self.policy.sinks, recents: 1 };
                self.scores.iter_mut().enumerate().for_each(|(slot, s)| *s = slot as f32);
            } else {
                let at = PressPoint { layer, head: number, seen };
                self.press.score(at, head, &mut self.scores)?;
            }
            select(&self.scores, head.positions(), target, protect, &mut self.keep)
                .map_err(|slot| not_a_number(layer, number, head.positions()[slot]))?;
            head.retain(&self.keep);
            evicted += slots - head.len();
        }
        Ok(evicted)
    }

    /// Scores of every slot of a head, as the press sees them now.
    pub fn scores(&self, at: PressPoint, layer: &LayerCache) -> Result<Vec<f32>, EngineError> {
        let head = &layer.heads()[at.head];
        let mut out = vec![0.0; head.len()];
        self.press.score(at, head, &mut out)?;
        Ok(out)
    }
}

/// Most bytes the cache takes when every full-attention head holds `tokens` slots and every sliding layer its window.
fn bytes_of_tokens(tokens: usize, cache: &KvCache) -> u64 {
    let mut bytes = 0u64;
    for layer in cache.layers() {
        for head in layer.heads() {
            let layout = head.layout();
            // a window's pages go back whole, so up to one page more than the window is held
            let slots = layer.window().map_or(tokens, |w| w as usize + layout.tokens());
            let pages = slots.div_ceil(layout.tokens()) * layout.page_bytes();
            bytes += (pages + slots * (size_of::<u32>() + size_of::<f32>())) as u64;
        }
    }
    bytes
}

/// Most tokens a full-attention head may hold so that the whole cache stays within `bytes`.
fn tokens_of_bytes(bytes: u64, cache: &KvCache) -> usize {
    let (mut low, mut high) = (0usize, 1usize);
    while bytes_of_tokens(high, cache) <= bytes {
        low = high;
        high *= 2;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if bytes_of_tokens(middle, cache) <= bytes { low = middle } else { high = middle }
    }
    low
}
