//! How well scores put one class above the other: areas under curves, with ties, weights and strata.
//!
//! - AUROC is the chance that a positive row scores above a negative one, ties counting half (Mann and Whitney's U over
//!   the number of pairs).
//! - `average_precision` is the sum of precisions weighted by the steps of recall; `auprc_trapezoid` joins the same
//!   points by straight lines, from (recall 0, precision 1) on. The two differ, and the second is too kind where points
//!   are few (Davis and Goadrich, 2006); both carry their full name so that nobody compares one with the other.

/// Scores sorted once, so that many labellings or weightings of the same rows cost one pass each.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// Rows, by stratum and then from the highest score to the lowest.
    order: Vec<u32>,
    /// Ends (in `order`) of the runs of equal scores within a stratum; `true` where the stratum ends too.
    runs: Vec<(u32, bool)>,
}

/// The weight of a row as a positive and as a negative one: (1, 0) for a plain positive.
pub type Weights = (f64, f64);

impl Ranking {
    /// Sorts `scores`, all rows in one stratum. `None` where a score is not a number.
    pub fn new(scores: &[f64]) -> Option<Ranking> {
        Ranking::within(scores, &vec![0; scores.len()])
    }

    /// Sorts `scores` within strata: only rows of one stratum are compared with each other. `None` where the lengths
    /// differ or a score is not a number.
    pub fn within(scores: &[f64], strata: &[u32]) -> Option<Ranking> {
        if scores.len() != strata.len() || scores.iter().any(|s| s.is_nan()) || u32::try_from(scores.len()).is_err() {
            return None;
        }
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        // 0.0 and -0.0 are equal scores, so they are compared as numbers; rows of equal scores may stand in any order
        order.sort_by(|&a, &b| {
            let (a, b) = (a as usize, b as usize);
            strata[a]
                .cmp(&strata[b])
                .then(scores[b].partial_cmp(&scores[a]).unwrap_or(std::cmp::Ordering::Equal))
                .then(a.cmp(&b))
        });
        let mut runs = Vec::new();
        for end in 1..=order.len() {
            let here = order[end - 1] as usize;
            let Some(&next) = order.get(end) else {
                runs.push((end as u32, true));
                break;
            };
            let next = next as usize;
            let stratum_ends = strata[here] != strata[next];
            if stratum_ends || scores[here] != scores[next] {
                runs.push((end as u32, stratum_ends));
            }
        }
        Some(Ranking { order, runs })
    }

    /// Weights of the positives and negatives in each run of equal scores, from the highest.
    fn tally(&self, weights: impl Fn(usize) -> Weights) -> impl Iterator<Item = (f64, f64, bool)> {
        let mut start = 0;
        self.runs.iter().map(move |&(end, stratum_ends)| {
            let (mut positive, mut negative) = (0.0, 0.0);
            for &row in &self.order[start..end as usize] {
                let (p, n) = weights(row as usize);
                positive += p;
                negative += n;
            }
            start = end as usize;
            (positive, negative, stratum_ends)
        })
    }

    /// AUROC with the weight of each row as a positive and as a negative. Over strata it is the share of all pairs
    /// within strata that stand in the right order. `None` where there is no pair.
    pub fn auroc_weighted(&self, weights: impl Fn(usize) -> Weights) -> Option<f64> {
        let (mut right, mut pairs) = (0.0, 0.0);
        let (mut above, mut below) = (0.0, 0.0);
        for (positive, negative, stratum_ends) in self.tally(weights) {
            right += negative * (above + 0.5 * positive);
            above += positive;
            below += negative;
            if stratum_ends {
                pairs += above * below;
                (above, below) = (0.0, 0.0);
            }
        }
        (pairs > 0.0).then(|| right / pairs)
    }

    /// AUROC of `labels`, one a row. `None` where there is no pair.
    pub fn auroc(&self, labels: &[bool]) -> Option<f64> {
        (labels.len() == self.order.len()).then(|| self.auroc_weighted(|row| plain(labels[row])))?
    }

    /// Average precision, whatever the strata: sum over distinct scores of (recall gained) * precision. `None` without
    /// positives.
    pub fn average_precision(&self, weights: impl Fn(usize) -> Weights) -> Option<f64> {
        let (mut area, mut last) = (0.0, 0.0);
        self.precision_recall(weights, |precision, recall| {
            area += (recall - last) * precision;
            last = recall;
        })?;
        Some(area)
    }

    /// Area under the precision-recall points joined by straight lines, from (recall 0, precision 1). `None` without
    /// positives.
    pub fn auprc_trapezoid(&self, weights: impl Fn(usize) -> Weights) -> Option<f64> {
        let (mut area, mut last) = (0.0, (1.0, 0.0));
        self.precision_recall(weights, |precision, recall| {
            area += (recall - last.1) * 0.5 * (precision + last.0);
            last = (precision, recall);
        })?;
        Some(area)
    }

    fn precision_recall(&self, weights: impl Fn(usize) -> Weights, mut point: impl FnMut(f64, f64)) -> Option<()> {
        let runs: Vec<_> = self.tally(weights).collect();
        let positives: f64 = runs.iter().map(|r| r.0).sum();
        if positives <= 0.0 {
            return None;
        }
        let (mut found, mut wrong) = (0.0, 0.0);
        for (positive, negative, _) in runs {
            found += positive;
            wrong += negative;
            if found + wrong > 0.0 {
                point(found / (found + wrong), found / positives);
            }
        }
        Some(())
    }
}

/// The weights of a row that counts once.
pub fn plain(label: bool) -> Weights {
    if label { (1.0, 0.0) } else { (0.0, 1.0) }
}

/// AUROC of `scores` for `labels` (true is the class that should score higher), ties counting half. `None` where a class
/// is missing, the lengths differ, or a score is not a number.
pub fn auroc(labels: &[bool], scores: &[f64]) -> Option<f64> {
    Ranking::new(scores)?.auroc(labels)
}

/// AUROC over pairs of the same stratum only, so that what tells the strata apart counts for nothing.
pub fn auroc_within(labels: &[bool], scores: &[f64], strata: &[u32]) -> Option<f64> {
    Ranking::within(scores, strata)?.auroc(labels)
}

/// Average precision (see the module). `None` as for [`auroc`], but for missing negatives.
pub fn average_precision(labels: &[bool], scores: &[f64]) -> Option<f64> {
    let ranking = Ranking::new(scores).filter(|_| labels.len() == scores.len())?;
    ranking.average_precision(|row| plain(labels[row]))
}

/// Area under the precision-recall curve by the trapezoid rule (see the module). `None` as for [`average_precision`].
pub fn auprc_trapezoid(labels: &[bool], scores: &[f64]) -> Option<f64> {
    let ranking = Ranking::new(scores).filter(|_| labels.len() == scores.len())?;
    ranking.auprc_trapezoid(|row| plain(labels[row]))
}

/// Precision among the `k` highest scores, equal scores at the boundary counted by their mean, so that their order
/// cannot matter. `None` for `k` of 0 or beyond the rows, different lengths, or a score that is not a number.
pub fn precision_at(labels: &[bool], scores: &[f64], k: usize) -> Option<f64> {
    let ranking = Ranking::new(scores).filter(|_| labels.len() == scores.len())?;
    if k == 0 || k > labels.len() {
        return None;
    }
    let (mut found, mut left) = (0.0, k as f64);
    for (positive, negative, _) in ranking.tally(|row| plain(labels[row])) {
        let run = positive + negative;
        found += positive * (left / run).min(1.0);
        left -= run;
        if left <= 0.0 {
            break;
        }
    }
    Some(found / k as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    fn sample(seed: u64, n: usize) -> (Vec<bool>, Vec<f64>, Vec<u32>) {
        let mut rng = Rng::new(seed, 0);
        let labels: Vec<bool> = (0..n).map(|_| rng.uniform() < 0.4).collect();
        // few distinct values, so that there are ties
        let scores = labels.iter().map(|&l| (3.0 * rng.normal() + f64::from(u8::from(l))).round()).collect();
        (labels, scores, (0..n).map(|_| rng.below(4) as u32).collect())
    }

    /// Every pair, one by one.
    fn by_pairs(labels: &[bool], scores: &[f64], strata: &[u32]) -> f64 {
        let (mut right, mut pairs) = (0.0, 0.0);
        for i in (0..labels.len()).filter(|&i| labels[i]) {
            for j in (0..labels.len()).filter(|&j| !labels[j] && strata[i] == strata[j]) {
                pairs += 1.0;
                right += if scores[i] > scores[j] { 1.0 } else { 0.5 * f64::from(u8::from(scores[i] == scores[j])) };
            }
        }
        right / pairs
    }

    #[test]
    fn auroc_counts_pairs_and_ties_half_also_within_strata() {
        for seed in 0..20 {
            let (labels, scores, strata) = sample(seed, 90);
            let all = vec![0; labels.len()];
            assert!((auroc(&labels, &scores).unwrap() - by_pairs(&labels, &scores, &all)).abs() < 1e-12);
            let within = auroc_within(&labels, &scores, &strata).unwrap();
            assert!((within - by_pairs(&labels, &scores, &strata)).abs() < 1e-12);
        }
    }

    #[test]
    fn what_tells_strata_apart_counts_for_nothing_within_them() {
        let strata: Vec<u32> = (0..100).map(|i| i / 50).collect();
        let scores: Vec<f64> = strata.iter().map(|&s| f64::from(s)).collect();
        let labels: Vec<bool> = (0..100).map(|i| if i < 50 { i % 10 == 0 } else { i % 10 != 0 }).collect();
        assert!(auroc(&labels, &scores).unwrap() > 0.85);
        assert_eq!(auroc_within(&labels, &scores, &strata), Some(0.5));
    }

    #[test]
    fn auroc_depends_on_order_alone_and_turns_with_the_sign() {
        let (labels, scores, _) = sample(3, 200);
        let area = auroc(&labels, &scores).unwrap();
        let bent: Vec<f64> = scores.iter().map(|s| (0.3 * s).exp() - 7.0).collect();
        let turned: Vec<f64> = scores.iter().map(|s| -s).collect();
        assert_eq!(auroc(&labels, &bent), Some(area));
        assert!((auroc(&labels, &turned).unwrap() - (1.0 - area)).abs() < 1e-12);
    }

    #[test]
    fn a_weight_of_two_is_a_row_that_stands_there_twice() {
        let (labels, scores, _) = sample(4, 60);
        let weight = |row: usize| (row % 3) as f64;
        let ranking = Ranking::new(&scores).unwrap();
        let weighted = |row: usize| if labels[row] { (weight(row), 0.0) } else { (0.0, weight(row)) };
        let rows: Vec<usize> = (0..60).flat_map(|r| std::iter::repeat_n(r, r % 3)).collect();
        let (l, s): (Vec<bool>, Vec<f64>) = rows.iter().map(|&r| (labels[r], scores[r])).unzip();
        let near = |a: Option<f64>, b: Option<f64>| (a.unwrap() - b.unwrap()).abs() < 1e-12;
        assert!(near(ranking.auroc_weighted(weighted), auroc(&l, &s)));
        assert!(near(ranking.average_precision(weighted), average_precision(&l, &s)));
        assert!(near(ranking.auprc_trapezoid(weighted), auprc_trapezoid(&l, &s)));
    }

    #[test]
    fn precision_recall_areas_match_a_case_done_by_hand() {
        // thresholds 4, 3, 2, 1: precision 1, 1/2, 2/3, 1/2 at recall 1/2, 1/2, 1, 1
        let (labels, scores) = ([true, false, true, false], [4.0, 3.0, 2.0, 1.0]);
        assert!((average_precision(&labels, &scores).unwrap() - (0.5 + 0.5 * 2.0 / 3.0)).abs() < 1e-12);
        // lines from (0, 1) to (1/2, 1), down to (1/2, 1/2), to (1, 2/3), down to (1, 1/2)
        let trapezoid = 0.5 + 0.5 * 0.5 * (0.5 + 2.0 / 3.0);
        assert!((auprc_trapezoid(&labels, &scores).unwrap() - trapezoid).abs() < 1e-12);
        assert_eq!(auprc_trapezoid(&[true, true], &[1.0, 2.0]), Some(1.0));
    }

    #[test]
    fn precision_at_a_budget_shares_ties() {
        let (labels, scores) = ([true, false, true, false], [4.0, 3.0, 3.0, 1.0]);
        assert_eq!(precision_at(&labels, &scores, 1), Some(1.0));
        assert_eq!(precision_at(&labels, &scores, 2), Some(0.75));
        assert_eq!(precision_at(&labels, &scores, 4), Some(0.5));
        assert_eq!(precision_at(&labels, &scores, 5), None);
    }

    #[test]
    fn without_both_classes_or_numbers_there_is_no_area() {
        assert_eq!(auroc(&[true, true], &[1.0, 2.0]), None);
        assert_eq!(auroc(&[true, false], &[1.0, f64::NAN]), None);
        assert_eq!(auroc(&[true], &[1.0, 2.0]), None);
        assert_eq!(auroc(&[], &[]), None);
        assert_eq!(average_precision(&[false, false], &[1.0, 2.0]), None);
        assert_eq!(auroc_within(&[true, false], &[1.0, 2.0], &[0, 1]), None);
    }
}
