//! When a press acts, and how much is read in one go until then. Over counts alone, so that a forecast asks the same.

use super::{At, Moment, Plan};
use crate::press::policy::PrefillSchedule;

impl Plan {
    /// How many of the tokens that are left of a call may be read in one go, when the heads of layer l hold `held(l)` slots.
    pub fn piece(&self, at: At, held: impl Fn(usize) -> usize) -> usize {
        let left = at.until - at.seen;
        let every = |every: usize| {
            if self.press.own_budget() {
                let acted = self.acted.iter().copied().max().unwrap_or(0);
                return (acted + every).saturating_sub(at.seen).clamp(1, every);
            }
            // the length stays below budget + n at every moment, whole question batches included
            let room = self.pressed.iter().map(|&l| (self.layer_target(l, at) + every).saturating_sub(held(l)));
            room.min().unwrap_or(every).clamp(1, every)
        };
        let most = match (at.moment, self.policy.schedule.prefill, self.policy.schedule.decode_every) {
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
        let over = |layer: usize| seen > self.layer_target(layer, At::end_of_prefill(seen));
        self.press.needs().replay
            && self.policy.schedule.prefill == PrefillSchedule::End
            && self.pressed.iter().any(|&l| self.press.own_budget() || over(l))
    }

    /// May the press act on this layer now, when its heads hold `held` slots?
    pub fn due(&self, layer: usize, held: usize, at: At) -> bool {
        let target = self.layer_target(layer, at);
        let over = |slots: usize| match self.press.own_budget() {
            true => at.seen >= self.acted[layer] + slots.max(1),
            false => held >= target + slots.max(1),
        };
        let schedule = self.policy.schedule;
        match (at.moment, schedule.prefill, schedule.decode_every) {
            (Moment::PrefillChunk | Moment::PrefillEnd, PrefillSchedule::Chunk(_), _) => over(0),
            (Moment::PrefillEnd, PrefillSchedule::End, _) => over(0),
            (Moment::PrefillChunk, PrefillSchedule::End, _) => false,
            (_, _, Some(every)) => over(every),
            // later batches of a chunked prefill (a second document, a long question) are chunked as the first was
            (Moment::Decode, PrefillSchedule::Chunk(chunk), None) => over(chunk),
            _ => false,
        }
    }
}
