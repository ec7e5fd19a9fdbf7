//! A piece that fails or is cancelled half-way: its tokens are taken out, but what a press has evicted is gone.

use serde::{Deserialize, Serialize};

use super::Session;

/// How often a press has acted on a layer, and what it has evicted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pressed {
    runs: u64,
    evicted: u64,
}

/// What interrupted pieces left behind in a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Interrupted {
    /// Pieces that were interrupted after a press had acted for them.
    pieces: u64,
    /// Layers thinned for one of them, at most.
    layers: u64,
    /// Slots evicted for them.
    evicted: u64,
}

impl Interrupted {
    /// What a user should know, if anything happened.
    pub(super) fn note(self, layers: usize) -> Option<String> {
        let Interrupted { pieces, layers: thinned, evicted } = self;
        let what = if pieces == 1 { "an interrupted piece".to_owned() } else { format!("{pieces} interrupted pieces") };
        (evicted > 0).then(|| {
            format!(
                "{what} left {thinned} of {layers} layers evicted: {evicted} slots are gone there that the layers \
                 behind still hold"
            )
        })
    }
}

impl Session {
    pub(super) fn pressed(&self) -> Pressed {
        self.plan
            .as_ref()
            .map_or_else(Pressed::default, |p| Pressed { runs: p.counters.runs, evicted: p.counters.evicted })
    }

    /// Takes out what a panic left half-way, if anything.
    pub(super) fn recover(&mut self) {
        if let Some(before) = self.unfinished.take() {
            self.give_up(before);
        }
    }

    /// Takes an interrupted piece's tokens out again. What its press evicted cannot come back, so it is remembered;
    /// in how many layers that was.
    pub(super) fn give_up(&mut self, before: Pressed) -> usize {
        let (seen, now) = (self.history.len(), self.pressed());
        self.take_out(self.next_position(), seen);
        let layers = now.runs - before.runs;
        if layers == 0 {
            return 0;
        }
        self.interrupted.pieces += 1;
        self.interrupted.layers = self.interrupted.layers.max(layers);
        self.interrupted.evicted += now.evicted - before.evicted;
        if let Some(plan) = &mut self.plan {
            // the piece's own tokens were never seen: going back to where it began is going nowhere
            plan.counters.last_eviction = plan.counters.last_eviction.map(|at| at.min(seen));
        }
        layers as usize
    }
}
