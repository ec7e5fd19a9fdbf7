//! How much a latent says about a label: mutual information in nats, by three estimators, and simpler rivals.
//!
//! The binned one is the default: a latent that never fires has exactly none. The nearest-neighbour one (Ross, PLOS ONE
//! 2014), which scikit-learn and the released code of SpARE use, is there for parity; ties at zero give half of all dead
//! latents a little.

use meden_stats::Rng;
use serde::{Deserialize, Serialize};

use super::chance::shuffled;

/// How information is estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// Bins: a latent that never fires has exactly none.
    #[default]
    Binned,
    /// Three nearest neighbours with scikit-learn's jitter, as the released code has it; much slower where a rule
    /// shuffles labels.
    Neighbour,
}

/// Most bins of positive values.
pub const BINS: usize = 8;

/// The bin of each value: 0 for zero (and below), then up to `most` bins of the positive values with about as many
/// members each, their edges at quantiles (linear interpolation), closed on the right; equal edges are one.
pub fn bins(values: &[f32], most: usize) -> Vec<u8> {
    let mut positive: Vec<f64> = values.iter().filter(|v| **v > 0.0).map(|&v| f64::from(v)).collect();
    positive.sort_by(f64::total_cmp);
    let mut distinct = positive.clone();
    distinct.dedup();
    let count = most.clamp(1, 255).min(distinct.len());
    let mut edges: Vec<f64> = Vec::new();
    for j in 1..count {
        let at = j as f64 / count as f64 * (positive.len() - 1) as f64;
        let (low, part) = (at.floor() as usize, at.fract());
        let next = positive[(low + 1).min(positive.len() - 1)];
        let edge = positive[low] + (next - positive[low]) * part;
        if edges.last() != Some(&edge) {
            edges.push(edge);
        }
    }
    let of = |&v: &f32| if v > 0.0 { 1 + edges.partition_point(|e| *e < f64::from(v)) as u8 } else { 0 };
    values.iter().map(of).collect()
}

/// Plug-in information between bins and a label of two kinds, with Miller and Madow's correction, not below zero.
pub fn of_bins(bins: &[u8], labels: &[bool]) -> f64 {
    let mut counts = [[0u64; 2]; 256];
    bins.iter().zip(labels).for_each(|(&b, &y)| counts[b as usize][usize::from(y)] += 1);
    of_counts(&counts)
}

fn of_counts(counts: &[[u64; 2]]) -> f64 {
    let (sum, used, n) = plug_in(counts);
    if n > 0.0 { (sum - used.saturating_sub(1) as f64 / (2.0 * n)).max(0.0) } else { 0.0 }
}

/// Information without correction, bins that are used, rows; nothing where there is one label only.
fn plug_in(counts: &[[u64; 2]]) -> (f64, usize, f64) {
    let column = |y: usize| counts.iter().map(|c| c[y]).sum::<u64>() as f64;
    let labels = [column(0), column(1)];
    let n = labels[0] + labels[1];
    if labels[0] == 0.0 || labels[1] == 0.0 {
        return (0.0, 0, 0.0);
    }
    let (mut sum, mut used) = (0.0, 0usize);
    for row in counts.iter().filter(|c| c[0] + c[1] > 0) {
        used += 1;
        let total = (row[0] + row[1]) as f64;
        for y in 0..2 {
            let both = row[y] as f64;
            if both > 0.0 {
                sum += both / n * (both * n / (total * labels[y])).ln();
            }
        }
    }
    (sum, used, n)
}

/// Information by `k` nearest neighbours (k = 3 in scikit-learn), without jitter: ties are counted as they are.
pub fn neighbours(values: &[f32], labels: &[bool], k: usize) -> f64 {
    let mut points: Vec<(f64, bool)> = values.iter().zip(labels).map(|(&v, &y)| (f64::from(v), y)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let of = |label: bool| points.iter().filter(|p| p.1 == label).map(|p| p.0).collect::<Vec<f64>>();
    let groups = [of(false), of(true)];
    // a label with one point has no neighbour: scikit-learn leaves the point out
    let kept: Vec<f64> = {
        let used = |y: bool| groups[usize::from(y)].len() > 1;
        points.iter().filter(|p| used(p.1)).map(|p| p.0).collect()
    };
    let n = kept.len();
    if n == 0 {
        return 0.0;
    }
    let (mut by_k, mut by_label, mut by_radius) = (0.0, 0.0, 0.0);
    for group in groups.iter().filter(|g| g.len() > 1) {
        let k = k.clamp(1, group.len() - 1);
        for i in 0..group.len() {
            let radius = below(kth(group, i, k));
            // distances, not ends of an interval: an end would round
            let from = kept.partition_point(|v| group[i] - v > radius);
            let to = kept.partition_point(|v| v - group[i] <= radius);
            by_k += digamma(k as f64);
            by_label += digamma(group.len() as f64);
            by_radius += digamma((to - from).max(1) as f64);
        }
    }
    let n = n as f64;
    (digamma(n) + (by_k - by_label - by_radius) / n).max(0.0)
}

/// The same with scikit-learn's jitter: values are divided by their standard deviation and moved by
/// `1e-10 max(1, mean |x|)` times a normal number. Ties then stand in random order.
pub fn neighbours_with_jitter(values: &[f32], labels: &[bool], k: usize, rng: &mut Rng) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let deviation = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
    let scale = if deviation > 0.0 { 1.0 / deviation } else { 1.0 };
    let size = (values.iter().map(|&v| f64::from(v).abs() * scale).sum::<f64>() / n).max(1.0);
    // ranks are all that counts, and f32 cannot hold such a jitter
    let mut order: Vec<(f64, usize)> =
        values.iter().enumerate().map(|(i, &v)| (f64::from(v) * scale + 1e-10 * size * rng.normal(), i)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    exact(&order, labels, k)
}

/// The estimator on values of f64 in ascending order, each with the number of its label.
fn exact(order: &[(f64, usize)], labels: &[bool], k: usize) -> f64 {
    let all: Vec<f64> = order.iter().map(|p| p.0).collect();
    let mut sum = 0.0;
    for label in [false, true] {
        let group: Vec<f64> = order.iter().filter(|p| labels[p.1] == label).map(|p| p.0).collect();
        if group.len() < 2 {
            continue;
        }
        let k = k.clamp(1, group.len() - 1);
        for i in 0..group.len() {
            let radius = below(kth(&group, i, k));
            let from = all.partition_point(|v| group[i] - v > radius);
            let to = all.partition_point(|v| v - group[i] <= radius);
            sum += digamma(k as f64) - digamma(group.len() as f64) - digamma((to - from).max(1) as f64);
        }
    }
    let n = all.len() as f64;
    (digamma(n) + sum / n).max(0.0)
}

/// Distance to the k-th nearest other point of an ascending list.
fn kth(sorted: &[f64], at: usize, k: usize) -> f64 {
    let (mut left, mut right) = (at, at);
    let mut distance = 0.0;
    for _ in 0..k {
        let down = left.checked_sub(1).map(|l| sorted[at] - sorted[l]);
        let up = sorted.get(right + 1).map(|v| v - sorted[at]);
        match (down, up) {
            (Some(down), Some(up)) if down <= up => (distance, left) = (down, left - 1),
            (Some(down), None) => (distance, left) = (down, left - 1),
            (_, Some(up)) => (distance, right) = (up, right + 1),
            (None, None) => return distance,
        }
    }
    distance
}

/// The next number towards zero.
fn below(x: f64) -> f64 {
    if x > 0.0 { x.next_down() } else { 0.0 }
}

/// The logarithmic derivative of the gamma function, for x > 0.
pub fn digamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 10.0 {
        shift -= 1.0 / x;
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series = square
        * (1.0 / 12.0 - square * (1.0 / 120.0 - square * (1.0 / 252.0 - square * (1.0 / 240.0 - square / 132.0))));
    shift + x.ln() - 0.5 / x - series
}

/// Information of a latent that is taken to be normal within each label: what an estimator without bins would say of a
/// difference in mean and spread. Not below zero.
pub fn gauss(values: &[f32], labels: &[bool]) -> f64 {
    let variance = |of: &dyn Fn(bool) -> bool| {
        let chosen: Vec<f64> = values.iter().zip(labels).filter(|(_, y)| of(**y)).map(|(&v, _)| f64::from(v)).collect();
        let n = chosen.len() as f64;
        let mean = chosen.iter().sum::<f64>() / n.max(1.0);
        (n, chosen.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n.max(1.0))
    };
    let (n, all) = variance(&|_| true);
    let (a, va) = variance(&|y| y);
    let (b, vb) = variance(&|y| !y);
    if a < 2.0 || b < 2.0 || all <= 0.0 {
        return 0.0;
    }
    let floor = all * 1e-12;
    let log = |v: f64| 0.5 * v.max(floor).ln();
    (log(all) - (a * log(va) + b * log(vb)) / n).clamp(0.0, std::f64::consts::LN_2)
}

/// Difference of the means over the pooled standard deviation, or over that of all values together where neither side
/// varies by itself; 0 where nothing varies.
pub fn standardised_difference(values: &[f32], labels: &[bool]) -> f64 {
    let side = |label: bool| {
        let chosen: Vec<f64> =
            values.iter().zip(labels).filter(|(_, y)| **y == label).map(|(&v, _)| f64::from(v)).collect();
        let n = chosen.len().max(1) as f64;
        let mean = chosen.iter().sum::<f64>() / n;
        (mean, chosen.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>(), chosen.len())
    };
    let ((a, sa, na), (b, sb, nb)) = (side(true), side(false));
    let pooled = ((sa + sb) / (na + nb).max(1) as f64).sqrt();
    let shares = (na * nb) as f64 / ((na + nb) * (na + nb)).max(1) as f64;
    let spread = if pooled > 0.0 { pooled } else { shares.sqrt() * (a - b).abs() };
    if spread > 0.0 { (a - b) / spread } else { 0.0 }
}

/// Largest information over many latents under labels that are put in another order within each stratum: what the best
/// of them would have by chance. `latents` holds the rows that each is active in, with their bin. One number a draw.
pub fn permuted_largest(
    latents: &[Vec<(u32, u8)>],
    (labels, strata): (&[bool], &[u32]),
    draws: usize,
    seed: u64,
) -> Vec<f64> {
    let draw = |draw: usize| {
        let labels = shuffled(labels, strata, &mut Rng::new(seed, draw as u64));
        latents.iter().map(|rows| of_sparse(rows, &labels)).fold(0.0, f64::max)
    };
    (0..draws).map(draw).collect()
}

/// Information of a latent from the rows that it is active in.
pub fn of_sparse(rows: &[(u32, u8)], labels: &[bool]) -> f64 {
    of_counts(&table(rows, labels))
}

/// The same without correction and not cut off at zero: what a test of independence compares.
pub fn of_sparse_raw(rows: &[(u32, u8)], labels: &[bool]) -> f64 {
    plug_in(&table(rows, labels)).0
}

/// Rows by bin and label.
fn table(rows: &[(u32, u8)], labels: &[bool]) -> [[u64; 2]; BINS + 1] {
    let mut counts = [[0u64; 2]; BINS + 1];
    for &(row, bin) in rows {
        counts[(bin as usize).min(BINS)][usize::from(labels[row as usize])] += 1;
    }
    let positives = labels.iter().filter(|y| **y).count() as u64;
    let all = [labels.len() as u64 - positives, positives];
    for y in 0..2 {
        counts[0][y] = all[y] - counts[1..].iter().map(|c| c[y]).sum::<u64>();
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latent_that_parts_the_labels_says_all_and_one_that_never_fires_says_nothing() {
        let labels: Vec<bool> = (0..200).map(|i| i % 4 == 0).collect();
        let parting: Vec<f32> = labels.iter().map(|&y| if y { 1.5 } else { 0.0 }).collect();
        let entropy = -(0.25f64 * 0.25f64.ln() + 0.75 * 0.75f64.ln());
        let correction = 1.0 / 400.0;
        assert!((of_bins(&bins(&parting, BINS), &labels) - (entropy - correction)).abs() < 1e-12);
        assert_eq!(of_bins(&bins(&vec![0.0; 200], BINS), &labels), 0.0);
        assert_eq!(of_bins(&bins(&vec![2.0; 200], BINS), &labels), 0.0);
        assert_eq!(gauss(&vec![0.0; 200], &labels), 0.0);
        assert!(standardised_difference(&parting, &labels) > 1.9);
    }

    #[test]
    fn independent_latents_say_nothing_on_average() {
        let n = 400;
        let mut sum = (0.0, 0.0);
        let trials = 400;
        for seed in 0..trials {
            let mut rng = Rng::new(seed, 7);
            let values: Vec<f32> = (0..n).map(|_| (rng.normal() as f32).max(0.0)).collect();
            let labels: Vec<bool> = (0..n).map(|_| rng.uniform() < 0.4).collect();
            let mut counts = [[0u64; 2]; 256];
            bins(&values, BINS).iter().zip(&labels).for_each(|(&b, &y)| counts[b as usize][usize::from(y)] += 1);
            // before it is kept from falling below zero
            let info = of_counts(&counts);
            sum = (sum.0 + info, sum.1 + info * info);
        }
        let mean = sum.0 / trials as f64;
        // clipped at zero, so a little above; far below what the plug-in without correction would say (8 / 800)
        assert!(mean < 0.006, "{mean}");
    }

    #[test]
    fn rows_that_are_active_are_enough() {
        let mut rng = Rng::new(3, 0);
        let values: Vec<f32> = (0..300).map(|_| (rng.normal() as f32 - 0.5).max(0.0)).collect();
        let labels: Vec<bool> = (0..300).map(|i| i % 3 == 0 || values[i] > 1.0).collect();
        let all = bins(&values, BINS);
        let sparse: Vec<(u32, u8)> = (0..300u32).map(|r| (r, all[r as usize])).filter(|(_, b)| *b > 0).collect();
        assert_eq!(of_sparse(&sparse, &labels), of_bins(&all, &labels));
        let null = permuted_largest(std::slice::from_ref(&sparse), (&labels, &vec![0; 300]), 50, 1);
        assert!(null.iter().all(|n| *n < of_sparse(&sparse, &labels)));
        // strata that fix the label leave nothing to shuffle
        let strata: Vec<u32> = labels.iter().map(|y| u32::from(*y)).collect();
        let fixed = permuted_largest(std::slice::from_ref(&sparse), (&labels, &strata), 3, 1);
        assert!(fixed.iter().all(|n| *n == of_sparse(&sparse, &labels)));
    }

    #[test]
    fn digamma_is_right() {
        assert!((digamma(1.0) + 0.577_215_664_901_532_9).abs() < 1e-12);
        assert!((digamma(0.5) + 1.963_510_026_021_423_5).abs() < 1e-12);
        assert!((digamma(100.0) - 4.600_161_852_738_087).abs() < 1e-12);
    }
}
