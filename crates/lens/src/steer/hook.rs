//! Steering while a model reads and writes.

use meden_engine::{EngineError, Hook, Session, Site, SiteVisit};
use serde::{Deserialize, Serialize};

use super::edit::Toward;
use super::file::Steering;
use crate::place::Place;

/// Which tokens are edited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Where {
    /// The last token of the prompt, the one that predicts the first of the answer; written tokens are not edited.
    #[default]
    LastPrompt,
    /// The last token of the prompt and every token that is written.
    Generated,
    /// Every token.
    All,
}

/// What an edit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Applied {
    /// Rows that were edited.
    pub rows: u64,
    /// Sum of the lengths of what was added, relative to the rows' lengths.
    pub relative: f64,
    /// Sum of the lengths of what was added.
    pub absolute: f64,
}

/// A steering at work in one session.
pub struct SteerHook<'a> {
    steering: &'a Steering,
    toward: Toward,
    strength: f32,
    whereabouts: Where,
    /// Position of the prompt's last token.
    last: u32,
    applied: Applied,
}

impl<'a> SteerHook<'a> {
    /// For a prompt of `tokens` tokens that `session` is about to read.
    pub fn new(steering: &'a Steering, (toward, strength): (Toward, f32), session: &Session, tokens: usize) -> Self {
        let last = (session.next_position() + tokens).saturating_sub(1) as u32;
        SteerHook { steering, toward, strength, whereabouts: steering.whereabouts, last, applied: Applied::default() }
    }

    /// Edits other tokens than the file says.
    #[must_use]
    pub fn at(mut self, whereabouts: Where) -> Self {
        self.whereabouts = whereabouts;
        self
    }

    /// What it has done so far.
    pub fn applied(&self) -> Applied {
        self.applied
    }
}

impl Hook for SteerHook<'_> {
    fn name(&self) -> &str {
        "steer"
    }

    fn wants(&self, site: Site, layer: usize) -> bool {
        self.steering.edits.contains_key(&Place::new(site, layer))
    }

    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        let Some(edit) = self.steering.edits.get(&Place::new(visit.site, visit.layer)) else { return Ok(()) };
        if self.strength == 0.0 {
            return Ok(());
        }
        let wanted = |position: u32| match self.whereabouts {
            Where::LastPrompt => position == self.last,
            Where::Generated => position >= self.last,
            Where::All => true,
        };
        for (row, &position) in visit.rows.chunks_exact_mut(visit.width).zip(visit.positions) {
            if !wanted(position) {
                continue;
            }
            let before = row.to_vec();
            edit.apply(row, self.toward, self.strength);
            if let Some(at) = row.iter().position(|h| !h.is_finite()) {
                let why = format!("value {at} of position {position} is no number any more; use a smaller strength");
                return Err(EngineError::Hook { hook: "steer".into(), why });
            }
            let change: Vec<f32> = row.iter().zip(&before).map(|(a, b)| a - b).collect();
            let (change, length) = (super::edit::norm(&change), super::edit::norm(&before));
            self.applied.rows += 1;
            self.applied.absolute += f64::from(change);
            self.applied.relative += f64::from(change) / f64::from(length).max(f64::MIN_POSITIVE);
        }
        Ok(())
    }
}
