//! From scores to kept slots: the best of a head, with sinks and recents forced.

use super::view::{LayerView, Scores};
use crate::error::EngineError;

/// Slots that stay, ascending, one list a head.
pub type Keep = Vec<Vec<u32>>;

/// Slots that stay whatever their score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protect {
    /// Slots at the front whose original position is below this.
    pub sinks: usize,
    /// Newest slots.
    pub recents: usize,
}

impl Protect {
    /// What either protects.
    pub fn and(self, other: Protect) -> Protect {
        Protect { sinks: self.sinks.max(other.sinks), recents: self.recents.max(other.recents) }
    }

    /// Is the slot protected, in a head with these positions?
    pub fn covers(&self, slot: usize, positions: &[u32]) -> bool {
        (positions[slot] as usize) < self.sinks || slot + self.recents >= positions.len()
    }
}

/// The best `counts[h]` slots of each head.
pub fn best(layer: &LayerView<'_>, scores: &Scores, counts: &[usize], protect: Protect) -> Result<Keep, EngineError> {
    let mut keep = Vec::with_capacity(counts.len());
    for (number, ((head, row), &count)) in layer.heads.iter().zip(scores.rows()).zip(counts).enumerate() {
        let mut slots = Vec::new();
        select(row, head.positions(), count, protect, &mut slots)
            .map_err(|slot| not_a_number(layer.layer, number, head.positions()[slot]))?;
        keep.push(slots);
    }
    Ok(keep)
}

/// Choose `kept` slots of `scores` into `out`, ascending. Forced slots count towards `kept`; if they are more than
/// that, they all stay. Equal scores go to the lower position.
///
/// Errors: the slot of a score that is not a number.
pub fn select(
    scores: &[f32],
    positions: &[u32],
    kept: usize,
    protect: Protect,
    out: &mut Vec<u32>,
) -> Result<(), usize> {
    out.clear();
    let slots = scores.len();
    if let Some(bad) = scores.iter().position(|s| s.is_nan()) {
        return Err(bad);
    }
    if kept >= slots {
        out.extend(0..slots as u32);
        return Ok(());
    }
    let sinks = positions.partition_point(|&p| (p as usize) < protect.sinks);
    let recent_from = slots.saturating_sub(protect.recents);
    let forced = |slot: usize| slot < sinks || slot >= recent_from;
    let mut free: Vec<u32> = Vec::with_capacity(slots);
    for slot in 0..slots {
        if forced(slot) { out.push(slot as u32) } else { free.push(slot as u32) }
    }
    let wanted = kept.saturating_sub(out.len()).min(free.len());
    if wanted > 0 && wanted < free.len() {
        free.select_nth_unstable_by(wanted - 1, |&a, &b| {
            scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b))
        });
    }
    out.extend(&free[..wanted]);
    out.sort_unstable();
    Ok(())
}

/// Which of a head's scores is not a number, as an error.
pub(crate) fn not_a_number(layer: usize, head: usize, position: u32) -> EngineError {
    EngineError::NotANumber { what: "the press score".to_string(), layer, head, position }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(scores: &[f32], n: usize, protect: Protect) -> Vec<u32> {
        let positions: Vec<u32> = (0..scores.len() as u32).collect();
        let mut out = Vec::new();
        select(scores, &positions, n, protect, &mut out).unwrap();
        out
    }

    #[test]
    fn the_best_scores_stay_in_order_of_position() {
        assert_eq!(kept(&[0.0, 3.0, 1.0, 2.0], 2, Protect::default()), [1, 3]);
    }

    #[test]
    fn ties_go_to_the_lower_position() {
        assert_eq!(kept(&[1.0; 6], 3, Protect::default()), [0, 1, 2]);
    }

    #[test]
    fn sinks_and_recents_survive_any_score() {
        let protect = Protect { sinks: 2, recents: 2 };
        assert_eq!(
            kept(&[-9.0, f32::NEG_INFINITY, 5.0, 6.0, 7.0, f32::NEG_INFINITY, -9.0], 5, protect),
            [0, 1, 4, 5, 6]
        );
        assert_eq!(kept(&[f32::INFINITY; 7], 4, protect), [0, 1, 5, 6]);
        assert_eq!(kept(&[0.0; 7], 1, protect), [0, 1, 5, 6], "forced slots are never dropped");
    }

    #[test]
    fn sinks_are_positions_not_slots() {
        // positions 0 and 1 were evicted before: nothing is left to protect at the front
        let mut out = Vec::new();
        select(&[0.0, 1.0, 2.0], &[7, 8, 9], 1, Protect { sinks: 2, recents: 1 }, &mut out).unwrap();
        assert_eq!(out, [2]);
    }

    #[test]
    fn a_score_that_is_not_a_number_is_refused() {
        let mut out = Vec::new();
        assert_eq!(select(&[0.0, f32::NAN], &[0, 1], 1, Protect::default(), &mut out), Err(1));
    }

    #[test]
    fn short_heads_keep_all() {
        for n in 0..4 {
            let all: Vec<u32> = (0..n as u32).collect();
            assert_eq!(kept(&vec![0.0; n], 4, Protect { sinks: 4, recents: 64 }), all);
        }
    }
}
