//! What a statistic looks like where labels say nothing: labels are shuffled, the statistic is taken again, many times.
//!
//! How they may be shuffled depends on the design. Rows of one subject are alike, so a shuffle over all rows would give
//! too narrow an interval: [`Permutation::within`] shuffles inside blocks (a subject that was seen under both labels),
//! [`Permutation::between`] lets whole subjects swap their patterns of labels (a subject that was seen under one).

use crate::interval::Interval;
use crate::quantile::quantile_sorted;
use crate::rng::Rng;

/// How often to shuffle, and what to say of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Permutation {
    /// Number of shuffles.
    pub draws: usize,
    /// Level of the interval in (0, 1).
    pub level: f64,
    /// Seed: the same one gives the same interval.
    pub seed: u64,
}

impl Default for Permutation {
    fn default() -> Self {
        Permutation { draws: 1000, level: 0.95, seed: 0 }
    }
}

/// The label of a row after a shuffle; `None` for a row that has none then and is left out.
pub type Shuffled = Option<bool>;

impl Permutation {
    /// The interval of `statistic` over labels that are shuffled inside each block. `None` where the lengths differ or
    /// too few draws gave a number (see [`Permutation::gather`]).
    pub fn within(
        &self,
        labels: &[bool],
        blocks: &[u32],
        statistic: impl Fn(&[Shuffled]) -> Option<f64>,
    ) -> Option<Interval> {
        if labels.len() != blocks.len() {
            return None;
        }
        let members = members(blocks);
        self.gather(|rng| {
            let mut drawn = vec![None; labels.len()];
            for rows in &members {
                let mut shuffled: Vec<bool> = rows.iter().map(|&row| labels[row]).collect();
                rng.shuffle(&mut shuffled);
                rows.iter().zip(shuffled).for_each(|(&row, label)| drawn[row] = Some(label));
            }
            statistic(&drawn)
        })
    }

    /// The interval of `statistic` where subjects swap their patterns. `subjects` and `cells` give each row its subject
    /// and its place in the design, which is the same for all subjects; a row gets the label that another subject has in
    /// the same cell, and none where that subject has none.
    pub fn between(
        &self,
        labels: &[bool],
        (subjects, cells): (&[u32], &[u32]),
        statistic: impl Fn(&[Shuffled]) -> Option<f64>,
    ) -> Option<Interval> {
        if labels.len() != subjects.len() || labels.len() != cells.len() {
            return None;
        }
        let members = members(subjects);
        let width = cells.iter().max().map_or(0, |&c| c as usize + 1);
        let patterns: Vec<Vec<Shuffled>> = members
            .iter()
            .map(|rows| {
                let mut pattern = vec![None; width];
                rows.iter().for_each(|&row| pattern[cells[row] as usize] = Some(labels[row]));
                pattern
            })
            .collect();
        self.gather(|rng| {
            let mut swapped: Vec<usize> = (0..members.len()).collect();
            rng.shuffle(&mut swapped);
            let mut drawn = vec![None; labels.len()];
            for (rows, from) in members.iter().zip(swapped) {
                rows.iter().for_each(|&row| drawn[row] = patterns[from][cells[row] as usize]);
            }
            statistic(&drawn)
        })
    }

    /// The percentile interval of what `draw` gives from random streams. Draws without a number are left out; `None`
    /// where they are more than one in ten, there are no draws, or the level lies outside (0, 1).
    fn gather(&self, draw: impl Fn(&mut Rng) -> Option<f64>) -> Option<Interval> {
        if self.draws == 0 || !(self.level > 0.0 && self.level < 1.0) {
            return None;
        }
        let drawn = (0..self.draws).filter_map(|i| draw(&mut Rng::new(self.seed, i as u64)).filter(|v| !v.is_nan()));
        percentile(drawn.collect(), self.draws, self.level)
    }
}

/// The percentile interval of draws, of which at most one in ten may be missing.
pub(crate) fn percentile(mut drawn: Vec<f64>, wanted: usize, level: f64) -> Option<Interval> {
    if drawn.is_empty() || drawn.len() * 10 < wanted * 9 {
        return None;
    }
    drawn.sort_by(f64::total_cmp);
    let tail = 0.5 - 0.5 * level;
    Some(Interval { low: quantile_sorted(&drawn, tail)?, high: quantile_sorted(&drawn, 1.0 - tail)?, level })
}

/// Rows of each block, blocks in the order in which they are first met.
pub(crate) fn members(blocks: &[u32]) -> Vec<Vec<usize>> {
    let mut place = std::collections::HashMap::new();
    let mut members: Vec<Vec<usize>> = Vec::new();
    for (row, block) in blocks.iter().enumerate() {
        let next = members.len();
        let at = *place.entry(block).or_insert(next);
        if at == next {
            members.push(Vec::new());
        }
        members[at].push(row);
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::{Ranking, plain};

    fn area<'a>(scores: &[f64]) -> impl Fn(&[Shuffled]) -> Option<f64> + use<'a> {
        let ranking = Ranking::new(scores).unwrap();
        move |labels| ranking.auroc_weighted(|row| labels[row].map_or((0.0, 0.0), plain))
    }

    #[test]
    fn shuffled_labels_surround_one_half_and_repeat() {
        let mut rng = Rng::new(1, 1);
        let scores: Vec<f64> = (0..200).map(|_| rng.normal()).collect();
        let labels: Vec<bool> = (0..200).map(|i| i % 2 == 0).collect();
        let blocks: Vec<u32> = (0..200).map(|i| i / 10).collect();
        let interval = Permutation::default().within(&labels, &blocks, area(&scores)).unwrap();
        assert!(interval.contains(0.5) && interval.half_width() < 0.12, "{interval:?}");
        assert_eq!(Permutation::default().within(&labels, &blocks, area(&scores)), Some(interval));
    }

    /// Scores that know the subject, labels that go with the subject: only swapping whole subjects is wide enough.
    #[test]
    fn swapping_subjects_is_wider_where_labels_go_with_the_subject() {
        let mut rng = Rng::new(2, 0);
        let subjects: Vec<u32> = (0..300).map(|i| i / 10).collect();
        let cells: Vec<u32> = (0..300).map(|i| i % 10).collect();
        let (own, kind): (Vec<f64>, Vec<bool>) = (0..30).map(|_| (rng.normal(), rng.uniform() < 0.5)).unzip();
        let scores: Vec<f64> = subjects.iter().map(|&s| own[s as usize] + 0.1 * rng.normal()).collect();
        let labels: Vec<bool> = subjects.iter().map(|&s| kind[s as usize]).collect();
        let between = Permutation::default().between(&labels, (&subjects, &cells), area(&scores)).unwrap();
        let rows = Permutation::default().within(&labels, &[0; 300], area(&scores)).unwrap();
        assert!(between.half_width() > 2.0 * rows.half_width(), "{between:?} {rows:?}");
    }

    #[test]
    fn rows_without_a_partner_are_left_out_and_nonsense_has_no_interval() {
        let p = Permutation { draws: 50, ..Permutation::default() };
        let missing = std::cell::Cell::new(0);
        let count = |labels: &[Shuffled]| {
            missing.set(missing.get() + labels.iter().filter(|l| l.is_none()).count());
            Some(0.0)
        };
        p.between(&[true, false, true], (&[0, 0, 1], &[0, 1, 0]), count).unwrap();
        assert!(missing.get() > 0, "subject 1 has nothing in cell 1");
        assert_eq!(p.within(&[true], &[], |_| Some(0.0)), None);
        assert_eq!(p.within(&[true], &[0], |_| None), None);
        assert_eq!(Permutation { level: 0.0, ..p }.within(&[true], &[0], |_| Some(0.0)), None);
    }
}
