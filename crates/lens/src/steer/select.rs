//! Which latents tell the groups apart, on which side, and where they are to be moved.

use serde::{Deserialize, Serialize};

use super::information::{BINS, bins, of_sparse, permuted_largest};
use crate::sae::Codes;

/// How many latents are taken, of those that say most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Rule {
    /// Those that beat what the best latent has by chance: the largest information under labels shuffled within each
    /// kind of prompt, in all but `level` of the draws. At most `most` of them.
    Null {
        /// Share of draws that a latent may fail to beat.
        level: f64,
        /// Draws.
        draws: usize,
        /// Most latents.
        most: usize,
    },
    /// The paper's: the fewest whose information is more than this share of all latents' information together.
    Share {
        /// The share (K of the paper).
        of: f64,
    },
    /// So many.
    Top {
        /// How many.
        count: usize,
    },
}

/// Rows of two groups, encoded.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    /// Latents of each row.
    pub codes: &'a Codes,
    /// Whether the row follows the context.
    pub labels: &'a [bool],
    /// Kind of prompt of each row: labels are shuffled within these.
    pub strata: &'a [u32],
    /// Seed of the shuffling.
    pub seed: u64,
}

/// One latent that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// Its number.
    pub latent: u32,
    /// Information about the label in nats.
    pub information: f64,
    /// Mean over rows that follow the context, less that over rows that follow memory.
    pub difference: f64,
    /// Mean over the rows of its own side: where it is moved to.
    pub target: f64,
}

impl Chosen {
    /// Whether it belongs to following the context.
    pub fn is_context(&self) -> bool {
        self.difference > 0.0
    }
}

/// What was chosen, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selected {
    /// Latents, those that say most first.
    pub chosen: Vec<Chosen>,
    /// Latents that fire at all.
    pub live: usize,
    /// Information of all latents together.
    pub total: f64,
    /// What the rule asked of a latent, for [`Rule::Null`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
}

impl Selection<'_> {
    /// Information, mean in each group, for every latent that fires.
    pub fn rank(&self) -> Vec<Chosen> {
        let by_latent = self.by_latent();
        let count = |label: bool| self.labels.iter().filter(|y| **y == label).count().max(1) as f64;
        let (context, memory) = (count(true), count(false));
        let mut ranked = Vec::new();
        for (latent, (rows, values)) in by_latent.iter().enumerate().filter(|(_, (rows, _))| !rows.is_empty()) {
            let (mut sums, mut all) = ([0f64; 2], vec![0f32; self.labels.len()]);
            for (&row, &value) in rows.iter().zip(values) {
                sums[usize::from(self.labels[row as usize])] += f64::from(value);
                all[row as usize] = value;
            }
            let means = [sums[0] / memory, sums[1] / context];
            let difference = means[1] - means[0];
            let binned = binned(rows, &all);
            ranked.push(Chosen {
                latent: latent as u32,
                information: of_sparse(&binned, self.labels),
                difference,
                target: if difference > 0.0 { means[1] } else { means[0] },
            });
        }
        ranked.sort_by(|a, b| b.information.total_cmp(&a.information).then(a.latent.cmp(&b.latent)));
        ranked
    }

    /// Chooses by a rule. Latents whose means are equal are on no side and never chosen; they do not count towards a
    /// number either, as in the released code.
    pub fn choose(&self, rule: Rule) -> Selected {
        let ranked = self.rank();
        let total: f64 = ranked.iter().map(|c| c.information).sum();
        let (live, mut threshold) = (ranked.len(), None);
        let sided = |c: &&Chosen| c.difference != 0.0;
        let chosen: Vec<Chosen> = match rule {
            Rule::Top { count } => ranked.iter().filter(sided).take(count).copied().collect(),
            Rule::Share { of } => {
                let mut sum = 0.0;
                let reached = ranked.iter().position(|c| {
                    sum += c.information;
                    sum > of * total
                });
                let count = reached.map_or(ranked.len(), |at| at + 1);
                ranked.iter().filter(sided).take(count).copied().collect()
            }
            Rule::Null { level, draws, most } => {
                let least = self.by_chance(level, draws);
                threshold = Some(least);
                ranked.iter().filter(sided).filter(|c| c.information > least).take(most).copied().collect()
            }
        };
        Selected { chosen, live, total, threshold }
    }

    /// Information that the best latent has by chance in all but `level` of the draws.
    pub fn by_chance(&self, level: f64, draws: usize) -> f64 {
        let mut all = vec![0f32; self.labels.len()];
        let mut latents = Vec::new();
        for (rows, values) in self.by_latent().iter().filter(|(rows, _)| !rows.is_empty()) {
            rows.iter().zip(values).for_each(|(&row, &value)| all[row as usize] = value);
            latents.push(binned(rows, &all));
            rows.iter().for_each(|&row| all[row as usize] = 0.0);
        }
        let mut largest = permuted_largest(&latents, (self.labels, self.strata), draws.max(1), self.seed);
        largest.sort_by(f64::total_cmp);
        let at = ((1.0 - level) * largest.len() as f64).ceil() as usize;
        largest[at.clamp(1, largest.len()) - 1]
    }

    /// For each latent the rows that it is active in, ascending, and its values there.
    fn by_latent(&self) -> Vec<(Vec<u32>, Vec<f32>)> {
        let mut all = vec![(Vec::new(), Vec::new()); self.codes.width()];
        for row in 0..self.codes.len() {
            let (latents, values) = self.codes.row(row);
            for (&latent, &value) in latents.iter().zip(values) {
                all[latent as usize].0.push(row as u32);
                all[latent as usize].1.push(value);
            }
        }
        all
    }
}

/// The bin of each active row.
fn binned(rows: &[u32], all: &[f32]) -> Vec<(u32, u8)> {
    let active: Vec<f32> = rows.iter().map(|&r| all[r as usize]).collect();
    rows.iter().copied().zip(bins(&active, BINS)).collect()
}

/// Jaccard index of two chosen sets: 1 where they are the same, 0 where they share nothing (or are both empty).
pub fn overlap(a: &Selected, b: &Selected) -> f64 {
    let set = |s: &Selected| s.chosen.iter().map(|c| c.latent).collect::<std::collections::HashSet<u32>>();
    let (a, b) = (set(a), set(b));
    let both = a.intersection(&b).count() as f64;
    let any = a.union(&b).count() as f64;
    if any > 0.0 { both / any } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meden_stats::Rng;

    /// Latent 3 follows the label, 5 goes against it, 7 fires on every row alike, the others at random.
    fn planted(n: usize) -> (Codes, Vec<bool>) {
        let mut rng = Rng::new(1, 0);
        let mut codes = Codes::new(40);
        let labels: Vec<bool> = (0..n).map(|i| i % 2 == 0).collect();
        for &label in &labels {
            let mut row: Vec<(u32, f32)> = vec![(7, 1.0)];
            for latent in 10..40 {
                if rng.uniform() < 0.2 {
                    row.push((latent, rng.uniform() as f32 + 0.1));
                }
            }
            if rng.uniform() < if label { 0.7 } else { 0.2 } {
                row.push((3, 2.0 + rng.uniform() as f32));
            }
            if rng.uniform() < if label { 0.1 } else { 0.6 } {
                row.push((5, 1.0 + rng.uniform() as f32));
            }
            row.sort_by_key(|p| p.0);
            let (latents, values): (Vec<u32>, Vec<f32>) = row.into_iter().unzip();
            codes.push(&latents, &values, None);
        }
        (codes, labels)
    }

    #[test]
    fn planted_latents_beat_chance_and_no_others_do() {
        let (codes, labels) = planted(400);
        let strata = vec![0; 400];
        let selection = Selection { codes: &codes, labels: &labels, strata: &strata, seed: 9 };
        // At 5% one seed in twenty lets a latent in by chance.
        let null = selection.choose(Rule::Null { level: 0.01, draws: 400, most: 32 });
        let mut found: Vec<u32> = null.chosen.iter().map(|c| c.latent).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 5], "{null:?}");
        let side = |latent: u32| null.chosen.iter().find(|c| c.latent == latent).unwrap();
        assert!(side(3).is_context() && !side(5).is_context());
        assert!(side(3).target > 1.0 && side(5).target > 0.5);
        assert_eq!(overlap(&null, &null), 1.0);
        // labels without anything behind them: nothing
        let mut rng = Rng::new(77, 0);
        let noise: Vec<bool> = (0..400).map(|_| rng.uniform() < 0.5).collect();
        let nothing = Selection { labels: &noise, ..selection };
        assert!(nothing.choose(Rule::Null { level: 0.05, draws: 200, most: 32 }).chosen.len() <= 1);
    }

    #[test]
    fn the_share_of_the_paper_takes_at_least_one_and_at_most_all_that_have_a_side() {
        let (codes, labels) = planted(200);
        let strata = vec![0; 200];
        let selection = Selection { codes: &codes, labels: &labels, strata: &strata, seed: 0 };
        assert_eq!(selection.choose(Rule::Share { of: 0.0 }).chosen.len(), 1);
        let ranked = selection.rank();
        assert_eq!(ranked.iter().filter(|c| c.difference == 0.0).map(|c| c.latent).collect::<Vec<_>>(), [7]);
        let all = selection.choose(Rule::Share { of: 1.0 });
        assert_eq!(all.chosen.len(), ranked.len() - 1);
        let some = selection.choose(Rule::Share { of: 0.5 });
        let sum = |c: &[Chosen]| c.iter().map(|c| c.information).sum::<f64>();
        assert!(sum(&some.chosen) > 0.5 * some.total);
        assert!(sum(&some.chosen[..some.chosen.len() - 1]) <= 0.5 * some.total);
        assert_eq!(selection.choose(Rule::Top { count: 5 }).chosen.len(), 5);
    }
}
