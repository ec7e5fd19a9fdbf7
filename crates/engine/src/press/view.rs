//! What a press sees of a layer when it acts.

use std::collections::BTreeMap;

use crate::cache::head::HeadCache;
use crate::error::EngineError;
use crate::model::Model;
use crate::model::config::Config;

use super::policy::Rounding;
use super::select::{Keep, Protect};
use super::watch::LayerState;

/// One layer at the moment a press acts: every head's slots, and what was gathered for the press.
#[derive(Clone, Copy)]
pub struct LayerView<'a> {
    /// The model (its shape, its rotation, its output projection, its threads).
    pub model: &'a Model,
    /// Layer.
    pub layer: usize,
    /// Position that the next token will have.
    pub next: usize,
    /// Tokens read since a press last acted on this layer (since the start of the text, if none has).
    pub since: usize,
    /// Does the session rotate with the long factors?
    pub long_rope: bool,
    /// Slots each head keeps on average.
    pub target: usize,
    /// Share that is removed, in [0, 1).
    pub removed: f64,
    /// Whether the quirks of kvpress are wanted, for reference values.
    pub rounding: Rounding,
    /// What the policy protects, whatever the press does.
    pub protect: Protect,
    /// The heads. They may hold different slots.
    pub heads: &'a [HeadCache],
    /// What was gathered while the tokens were read.
    pub state: &'a LayerState,
}

impl LayerView<'_> {
    /// The model's shape.
    pub fn config(&self) -> &Config {
        self.model.config()
    }

    /// Query heads that share a kv head.
    pub fn group(&self) -> usize {
        self.config().group()
    }

    /// Is this the reference mode?
    pub fn kvpress(&self) -> bool {
        self.rounding == Rounding::Kvpress
    }

    /// Every head keeps the target.
    pub fn uniform(&self) -> Vec<usize> {
        self.heads.iter().map(|head| self.target.min(head.len())).collect()
    }

    /// The same view of other heads (a part of the slots, say) with another target.
    pub fn with<'b>(&'b self, heads: &'b [HeadCache], target: usize) -> LayerView<'b> {
        LayerView { heads, target, ..*self }
    }

    /// Slots of the longest head.
    pub fn longest(&self) -> usize {
        self.heads.iter().map(HeadCache::len).max().unwrap_or(0)
    }

    /// Something that the press was promised and that is not there.
    pub fn missing(&self, press: &str, what: &str) -> EngineError {
        EngineError::Press {
            press: press.to_string(),
            why: format!(
                "layer {} has no {what}: the text was read by a session that did not gather it (name the press when the session is made)",
                self.layer
            ),
        }
    }
}

/// One row of scores a head.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    rows: Vec<Vec<f32>>,
}

impl Scores {
    /// Zeros, a row as long as each head.
    pub fn of(heads: &[HeadCache]) -> Scores {
        Scores { rows: heads.iter().map(|head| vec![0.0; head.len()]).collect() }
    }

    /// Given rows.
    pub fn from_rows(rows: Vec<Vec<f32>>) -> Scores {
        Scores { rows }
    }

    /// The rows.
    pub fn rows(&self) -> &[Vec<f32>] {
        &self.rows
    }

    /// The rows for writing.
    pub fn rows_mut(&mut self) -> &mut [Vec<f32>] {
        &mut self.rows
    }

    /// Fill each head's row on its own, heads side by side on the model's threads.
    pub fn each(&mut self, layer: &LayerView<'_>, fill: impl Fn(usize, &HeadCache, &mut [f32]) + Sync) {
        layer.model.pool().chunks(&mut self.rows, 1, |head, rows| {
            for row in rows {
                fill(head, &layer.heads[head], row);
            }
        });
    }

    /// Subtract the mean over all heads and slots and divide by the standard deviation (unbiased, at least 1e-6).
    pub fn standardise(&mut self) {
        let count = self.rows.iter().map(Vec::len).sum::<usize>() as f64;
        let all = || self.rows.iter().flatten().map(|&s| f64::from(s));
        let mean = all().sum::<f64>() / count.max(1.0);
        let variance = all().map(|s| (s - mean) * (s - mean)).sum::<f64>() / (count - 1.0).max(1.0);
        let std = variance.sqrt().max(1e-6);
        for score in self.rows.iter_mut().flatten() {
            *score = ((f64::from(*score) - mean) / std) as f32;
        }
    }
}

/// Sums of some rows by position: positions ascending, and their sums. Rows are of heads, which may hold different slots.
pub fn sum_by_position<'a>(rows: impl IntoIterator<Item = (&'a [u32], &'a [f32])>) -> (Vec<u32>, Vec<f64>) {
    let (mut positions, mut sums): (Vec<u32>, Vec<f64>) = (Vec::new(), Vec::new());
    for (held, row) in rows {
        if positions.is_empty() {
            positions = held.to_vec();
            sums = row.iter().map(|&score| f64::from(score)).collect();
        } else if positions == held {
            sums.iter_mut().zip(row).for_each(|(sum, &score)| *sum += f64::from(score));
        } else {
            let mut all: BTreeMap<u32, f64> = positions.into_iter().zip(sums).collect();
            held.iter().zip(row).for_each(|(&p, &score)| *all.entry(p).or_default() += f64::from(score));
            (positions, sums) = all.into_iter().unzip();
        }
    }
    (positions, sums)
}

/// Slots of each head that lie at some positions (ascending).
pub fn slots_at(heads: &[HeadCache], positions: &[u32]) -> Keep {
    let of_head = |head: &HeadCache| {
        let held = head.positions().iter().enumerate();
        held.filter(|(_, p)| positions.binary_search(p).is_ok()).map(|(slot, _)| slot as u32).collect()
    };
    heads.iter().map(of_head).collect()
}

/// Mean over a window of `kernel` slots around each, with zeros beyond both ends counted (stride 1, as in SnapKV).
pub fn average_pool(row: &mut [f32], kernel: usize) {
    let (half, old) = (kernel / 2, row.to_vec());
    for (at, score) in row.iter_mut().enumerate() {
        let window = at.saturating_sub(half)..(at + kernel - half).min(old.len());
        *score = old[window].iter().sum::<f32>() / kernel as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_by_position_are_of_whatever_heads_hold_a_position() {
        let even: [(&[u32], &[f32]); 2] = [(&[0, 2, 5], &[1.0, 2.0, 3.0]), (&[0, 2, 5], &[0.5, 0.0, 1.0])];
        assert_eq!(sum_by_position(even), (vec![0, 2, 5], vec![1.5, 2.0, 4.0]));
        let ragged: [(&[u32], &[f32]); 3] = [(&[0, 2], &[1.0, 2.0]), (&[2, 3], &[4.0, 8.0]), (&[0], &[16.0])];
        assert_eq!(sum_by_position(ragged), (vec![0, 2, 3], vec![17.0, 6.0, 8.0]));
        assert_eq!(sum_by_position([]), (vec![], vec![]));
    }

    #[test]
    fn pooling_counts_the_zeros_beyond_the_ends() {
        let mut row = [3.0, 0.0, 6.0];
        average_pool(&mut row, 3);
        assert_eq!(row, [1.0, 3.0, 2.0]);
    }
}
