//! When a press acts, and how much is read in one go until then. Over counts alone, so that a forecast asks the same.

use super::{Moment, Plan};
use crate::press::policy::PrefillSchedule;

impl Plan {
    /// How many of `left` tokens may be read in one go after `seen` tokens, when the heads of layer l hold `held(l)` slots.
    pub fn piece(&self, moment: Moment, left: usize, seen: usize, held: impl Fn(usize) -> usize) -> usize {
        let every = |every: usize| {
            if self.press.own_budget() {
                let acted = self.acted.iter().copied().max().unwrap_or(0);
                return (acted + every).saturating_sub(seen).clamp(1, every);
            }
            // the length stays below budget + n at every moment, whole question batches included
            let room = self.pressed.iter().map(|&l| (self.layer_target(l, seen) + every).saturating_sub(held(l)));
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
            && self.pressed.iter().any(|&l| self.press.own_budget() || over(l))
    }

    /// May the press act on this layer, whose heads hold `held` slots, once `seen` tokens have been read?
    pub fn due(&self, layer: usize, held: usize, (moment, seen): (Moment, usize)) -> bool {
        let target = self.layer_target(layer, seen);
        let over = |slots: usize| match self.press.own_budget() {
            true => seen >= self.acted[layer] + slots.max(1),
            false => held >= target + slots.max(1),
        };
        let schedule = self.policy.schedule;
        match (moment, schedule.prefill, schedule.decode_every) {
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
