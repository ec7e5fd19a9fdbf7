//! Which latents tell the groups apart, on which side, and where they are to be moved.

use meden_stats::Rng;
use serde::{Deserialize, Serialize};

use super::chance::{benjamini_hochberg, shuffled, tail};
use super::information::{BINS, Estimator, bins, neighbours_with_jitter, of_sparse, of_sparse_raw, permuted_largest};
use crate::sae::Codes;

/// Neighbours that are counted, as in scikit-learn.
const NEIGHBOURS: usize = 3;

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
    /// Those that say more than they would by chance at this false discovery rate (Benjamini and Hochberg), at most
    /// `most` of them. Labels are shuffled within each kind of prompt.
    Rate {
        /// Expected share of wrong ones among those that are chosen.
        rate: f64,
        /// Draws.
        draws: usize,
        /// Most latents.
        most: usize,
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
    /// How information is estimated.
    pub estimator: Estimator,
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
    /// Information, mean in each group, for every latent that fires; those that say most first.
    pub fn rank(&self) -> Vec<Chosen> {
        let mut ranked: Vec<Chosen> = self.latents().iter().map(|l| self.weigh(l)).collect();
        sort(&mut ranked);
        ranked
    }

    /// Chooses by a rule. Latents whose means are equal are on no side and never chosen; they do not count towards a
    /// number either, as in the released code.
    pub fn choose(&self, rule: Rule) -> Selected {
        let latents = self.latents();
        let (judged, threshold) = self.judge(&latents, rule);
        let total = judged.iter().map(|(c, _)| c.information).sum();
        let live = judged.len();
        Selected { chosen: pick(judged, rule, threshold), live, total, threshold }
    }

    /// Information that the best latent has by chance in all but `level` of the draws.
    pub fn by_chance(&self, level: f64, draws: usize) -> f64 {
        self.largest_by_chance(&self.latents(), (level, draws))
    }

    /// How often the rule chooses a latent that tells the sources apart, at the number of rows that there are: the share
    /// of `times` planted latents that it takes. A planted one fires on `shares[0]` of the rows that follow the context
    /// and on `shares[1]` of the others, within every kind of prompt, with values that say nothing. Below 0.8 the rule is
    /// too strict for so few rows.
    pub fn power(&self, rule: Rule, shares: [f64; 2], times: usize) -> f64 {
        let latents = self.latents();
        let (judged, threshold) = self.judge(&latents, rule);
        let found = |time: &usize| {
            let mut rng = Rng::new(self.seed ^ 0x9_1a47, *time as u64);
            let mut planted = Latent { number: self.codes.width() as u32, ..Latent::default() };
            for (row, &label) in self.labels.iter().enumerate() {
                if rng.uniform() < shares[usize::from(!label)] {
                    planted.rows.push(row as u32);
                    planted.values.push(0.5 + rng.uniform() as f32);
                }
            }
            if planted.rows.is_empty() {
                return false;
            }
            planted.bins = planted.binned();
            let mut with = judged.clone();
            // what the best latent has by chance is hardly moved by one more among thousands
            let p = if let Rule::Rate { draws, .. } = rule { self.tails(&[&planted], draws)[0] } else { f64::NAN };
            with.push((self.weigh(&planted), p));
            pick(with, rule, threshold).iter().any(|c| c.latent == planted.number)
        };
        (0..times).filter(found).count() as f64 / times.max(1) as f64
    }

    /// Every latent that fires with what the rule asks about it: its probability by chance ([`Rule::Rate`] alone), and
    /// what all have to beat ([`Rule::Null`] alone).
    fn judge(&self, latents: &[Latent], rule: Rule) -> (Vec<(Chosen, f64)>, Option<f64>) {
        let p = match rule {
            Rule::Rate { draws, .. } => self.tails(&latents.iter().collect::<Vec<_>>(), draws),
            _ => vec![f64::NAN; latents.len()],
        };
        let threshold = match rule {
            Rule::Null { level, draws, .. } => Some(self.largest_by_chance(latents, (level, draws))),
            _ => None,
        };
        (latents.iter().map(|l| self.weigh(l)).zip(p).collect(), threshold)
    }

    /// Probability that a latent says as much by chance, by the binned information whatever latents are ranked by.
    fn tails(&self, latents: &[&Latent], draws: usize) -> Vec<f64> {
        let draws = draws.max(2);
        let mut permuted = vec![Vec::with_capacity(draws); latents.len()];
        for draw in 0..draws {
            let labels = shuffled(self.labels, self.strata, &mut Rng::new(self.seed, draw as u64));
            permuted.iter_mut().zip(latents).for_each(|(all, l)| all.push(of_sparse_raw(&l.bins, &labels)));
        }
        latents.iter().zip(&permuted).map(|(l, all)| tail(of_sparse_raw(&l.bins, self.labels), all)).collect()
    }

    fn largest_by_chance(&self, latents: &[Latent], (level, draws): (f64, usize)) -> f64 {
        let mut largest: Vec<f64> = match self.estimator {
            Estimator::Binned => {
                let bins: Vec<Vec<(u32, u8)>> = latents.iter().map(|l| l.bins.clone()).collect();
                permuted_largest(&bins, (self.labels, self.strata), draws.max(1), self.seed)
            }
            Estimator::Neighbour => {
                let draw = |draw: usize| {
                    let labels = shuffled(self.labels, self.strata, &mut Rng::new(self.seed, draw as u64));
                    latents.iter().map(|l| self.information(l, &labels)).fold(0.0, f64::max)
                };
                (0..draws.max(1)).map(draw).collect()
            }
        };
        largest.sort_by(f64::total_cmp);
        let at = ((1.0 - level) * largest.len() as f64).ceil() as usize;
        largest[at.clamp(1, largest.len()) - 1]
    }

    fn information(&self, latent: &Latent, labels: &[bool]) -> f64 {
        match self.estimator {
            Estimator::Binned => of_sparse(&latent.bins, labels),
            Estimator::Neighbour => {
                let mut all = vec![0f32; labels.len()];
                latent.rows.iter().zip(&latent.values).for_each(|(&row, &value)| all[row as usize] = value);
                let mut rng = Rng::new(self.seed ^ 0x4a17, u64::from(latent.number));
                neighbours_with_jitter(&all, labels, NEIGHBOURS, &mut rng)
            }
        }
    }

    fn weigh(&self, latent: &Latent) -> Chosen {
        let count = |label: bool| self.labels.iter().filter(|y| **y == label).count().max(1) as f64;
        let mut sums = [0f64; 2];
        for (&row, &value) in latent.rows.iter().zip(&latent.values) {
            sums[usize::from(self.labels[row as usize])] += f64::from(value);
        }
        let means = [sums[0] / count(false), sums[1] / count(true)];
        let difference = means[1] - means[0];
        Chosen {
            latent: latent.number,
            information: self.information(latent, self.labels),
            difference,
            target: if difference > 0.0 { means[1] } else { means[0] },
        }
    }

    /// Every latent that fires.
    fn latents(&self) -> Vec<Latent> {
        let mut all: Vec<Latent> =
            (0..self.codes.width() as u32).map(|number| Latent { number, ..Latent::default() }).collect();
        for row in 0..self.codes.len() {
            let (latents, values) = self.codes.row(row);
            for (&latent, &value) in latents.iter().zip(values) {
                all[latent as usize].rows.push(row as u32);
                all[latent as usize].values.push(value);
            }
        }
        all.retain(|l| !l.rows.is_empty());
        all.iter_mut().for_each(|l| l.bins = l.binned());
        all
    }
}

/// The rows that a latent is active in, ascending, with its value and its bin there.
#[derive(Clone, Default)]
struct Latent {
    number: u32,
    rows: Vec<u32>,
    values: Vec<f32>,
    bins: Vec<(u32, u8)>,
}

impl Latent {
    fn binned(&self) -> Vec<(u32, u8)> {
        self.rows.iter().copied().zip(bins(&self.values, BINS)).collect()
    }
}

fn sort(ranked: &mut [Chosen]) {
    ranked.sort_by(|a, b| b.information.total_cmp(&a.information).then(a.latent.cmp(&b.latent)));
}

/// What a rule takes of latents, each with its probability by chance.
fn pick(judged: Vec<(Chosen, f64)>, rule: Rule, threshold: Option<f64>) -> Vec<Chosen> {
    let passed = match rule {
        Rule::Rate { rate, .. } => benjamini_hochberg(&judged.iter().map(|j| j.1).collect::<Vec<f64>>(), rate),
        _ => vec![true; judged.len()],
    };
    let mut ranked: Vec<Chosen> = judged.iter().zip(passed).filter(|(_, passed)| *passed).map(|(j, _)| j.0).collect();
    sort(&mut ranked);
    let (count, least) = match rule {
        Rule::Top { count } => (count, None),
        Rule::Share { of } => {
            // in the same order as below, so that all together are not more than all
            let total: f64 = ranked.iter().map(|c| c.information).sum();
            let mut sum = 0.0;
            let reached = ranked.iter().position(|c| {
                sum += c.information;
                sum > of * total
            });
            (reached.map_or(ranked.len(), |at| at + 1), None)
        }
        Rule::Null { most, .. } => (most, threshold),
        Rule::Rate { most, .. } => (most, None),
    };
    let beats = |c: &Chosen| c.difference != 0.0 && least.is_none_or(|least| c.information > least);
    ranked.into_iter().filter(beats).take(count).collect()
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
        let selection =
            Selection { codes: &codes, labels: &labels, strata: &strata, estimator: Estimator::Binned, seed: 9 };
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
        let selection =
            Selection { codes: &codes, labels: &labels, strata: &strata, estimator: Estimator::Binned, seed: 0 };
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

    #[test]
    fn a_false_discovery_rate_finds_the_planted_latents_and_power_falls_with_the_effect() {
        let (codes, labels) = planted(400);
        let strata: Vec<u32> = (0..400).map(|i| i / 2 % 3).collect();
        let selection =
            Selection { codes: &codes, labels: &labels, strata: &strata, estimator: Estimator::Binned, seed: 9 };
        let rate = Rule::Rate { rate: 0.01, draws: 200, most: 32 };
        let found: Vec<u32> = selection.choose(rate).chosen.iter().map(|c| c.latent).collect();
        assert!(found.contains(&3) && found.contains(&5) && found.len() <= 3, "{found:?}");
        // labels that mean nothing: any call is wrong, and about one set of labels in twenty may have one
        let wrong = (0..60).filter(|&seed| {
            let mut rng = Rng::new(seed, 5);
            let noise: Vec<bool> = (0..400).map(|_| rng.uniform() < 0.5).collect();
            let nothing = Selection { labels: &noise, ..selection.clone() };
            !nothing.choose(Rule::Rate { rate: 0.05, draws: 60, most: 32 }).chosen.is_empty()
        });
        assert!(wrong.count() <= 9);
        for rule in [rate, Rule::Null { level: 0.05, draws: 100, most: 32 }] {
            assert_eq!(selection.power(rule, [0.7, 0.3], 20), 1.0, "{rule:?}");
            assert!(selection.power(rule, [0.4, 0.4], 20) <= 0.1, "{rule:?}");
        }
        assert_eq!(selection.power(Rule::Top { count: 1 }, [0.6, 0.4], 20), 0.0, "two others say more");
    }

    #[test]
    fn both_estimators_put_the_planted_latents_first() {
        let (codes, labels) = planted(400);
        let strata = vec![0; 400];
        for estimator in [Estimator::Binned, Estimator::Neighbour] {
            let selection = Selection { codes: &codes, labels: &labels, strata: &strata, estimator, seed: 2 };
            let mut first: Vec<u32> = selection.rank().iter().take(2).map(|c| c.latent).collect();
            first.sort_unstable();
            assert_eq!(first, [3, 5], "{estimator:?}");
            let null = selection.choose(Rule::Null { level: 0.05, draws: 40, most: 2 });
            assert_eq!(null.chosen.len(), 2, "{estimator:?}");
        }
    }
}
