//! Pressing a cache as it stands: on forks of one dense session, or when a caller asks for it.

use serde::Serialize;

use super::control::Control;
use super::replay::Progress;
use super::{Session, SessionOptions};
use crate::error::EngineError;
use crate::model::Model;
use crate::press::Scores;
use crate::press::plan::{Moment, Now, Plan};
use crate::press::policy::Policy;
use crate::press::select::Protect;

/// What a compression did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Compression {
    /// Slots evicted, over all heads.
    pub evicted: u64,
    /// Bytes of pages and metadata before.
    pub before_bytes: u64,
    /// And after.
    pub after_bytes: u64,
}

/// Page bounds are of whole keys.
pub(super) fn no_reader_of_narrow_keys(plan: &Plan, options: &SessionOptions) -> Result<(), EngineError> {
    match (&options.read, plan.press().narrows()) {
        (Some(read), true) => Err(EngineError::Press {
            press: plan.press().name().to_string(),
            why: format!("it narrows keys, and reading by {read} needs them whole: use one of the two"),
        }),
        _ => Ok(()),
    }
}

/// The moment at which a cache is pressed as it stands.
pub(super) fn end_of_prefill(model: &Model, seen: usize, long_rope: Option<bool>) -> Now<'_> {
    Now { model, seen, moment: Moment::PrefillEnd, long_rope: long_rope.unwrap_or(false) }
}

impl Session {
    /// Scores that a policy's press gives the slots of a layer now, one row a head, as [`compress`](Self::compress)
    /// would see them; with the slots that stay whatever their score. A press that reads the text again does so for each
    /// call, unless [`replay`](Self::replay) has prepared it.
    ///
    /// Errors: as `compress`, and a layer that does not exist.
    pub fn press_scores(&self, layer: usize, policy: &Policy) -> Result<(Scores, Protect), EngineError> {
        let plan = self.plan_for(policy)?;
        let cache = self.cache.layers().get(layer).ok_or_else(|| EngineError::Setting {
            field: "layer",
            value: layer.to_string(),
            allowed: format!("0 to {}", self.cache.layers().len() - 1),
        })?;
        if plan.press().needs().replay && !self.has_replayed(plan.press().as_ref()) {
            let readings = self.readings(plan.press().as_ref(), &self.history)?;
            let progress = Progress { done: 0, total: 0 };
            let read = self.read_again(plan.press(), &readings, (progress, &mut Control::default()))?;
            let scores = plan.scores(layer, &read.layers()[layer], &self.now(), &self.watch.layers()[layer])?;
            return Ok((scores, plan.protects(self.seen())));
        }
        let scores = plan.scores(layer, cache, &self.now(), &self.watch.layers()[layer])?;
        Ok((scores, plan.protects(self.seen())))
    }

    /// The plan of a policy that is applied to the cache as it stands.
    fn plan_for(&self, policy: &Policy) -> Result<Plan, EngineError> {
        let mut plan = Plan::compile(policy, self.model.config(), &self.cache)?;
        if let Some(old) = &self.plan {
            plan.inherit(old);
        }
        if self.cache.is_narrowed() {
            return Err(EngineError::Press {
                press: policy.press.to_string(),
                why: "the older keys of this cache have lost channels, which it would not see: apply it before, as in composed(snapkv, think)".into(),
            });
        }
        no_reader_of_narrow_keys(&plan, &self.options)?;
        plan.press().fits(&self.model)?;
        let needs = plan.press().needs();
        if !self.watch.has(&needs) {
            return Err(EngineError::Press {
                press: policy.press.to_string(),
                why: format!(
                    "it needs {}, which this session did not gather while it read: name the press in `watch` when the session is made",
                    needs.words()
                ),
            });
        }
        Ok(plan)
    }

    fn now(&self) -> Now<'_> {
        end_of_prefill(&self.model, self.history.len(), self.long_rope)
    }

    /// Press the cache as it stands, whatever the schedule; the policy goes on from here (its decode schedule, if it
    /// has one). Made for forks of one dense session: read a text once, try every press on it.
    ///
    /// Errors: a policy that this model cannot carry out, a press whose needs were not gathered (name it in
    /// [`SessionOptions::watch`]).
    pub fn compress(&mut self, policy: &Policy) -> Result<Compression, EngineError> {
        self.compress_with(policy, &mut Control::default())
    }

    /// The same, with progress and a way to stop for presses that read the text again.
    ///
    /// Errors: as `compress`; cancellation, which leaves the session as it was.
    pub fn compress_with(&mut self, policy: &Policy, control: &mut Control<'_>) -> Result<Compression, EngineError> {
        let mut plan = self.plan_for(policy)?;
        let (before, evicted) = (self.cache.bytes(), plan.counters.evicted);
        let replays = plan.press().needs().replay;
        if replays && plan.replays(self.seen()) {
            plan.counters.replayed += self.ensure_replayed(plan.press(), control)? as u64;
        }
        let now = end_of_prefill(&self.model, self.history.len(), self.long_rope);
        plan.act_now(&mut self.cache, &now, &self.watch)?;
        if replays {
            self.drop_replay(plan.press().as_ref());
        }
        let after = self.cache.bytes();
        let evicted = plan.counters.evicted - evicted;
        self.plan = Some(plan);
        self.options.policy = Some(policy.clone());
        Ok(Compression { evicted, before_bytes: (before.0 + before.1) as u64, after_bytes: (after.0 + after.1) as u64 })
    }
}
