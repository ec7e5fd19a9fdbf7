//! Which blocks a step trains.

use meden_stats::Rng;

/// How they are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// K draws without replacement, by the softmax of the budgets.
    Sample,
    /// The K highest budgets; ties are broken by a seeded draw each step.
    Topk,
    /// K draws without replacement, all alike.
    Uniform,
    /// The last K: nothing before them is gone back through where embeddings are left alone.
    Suffix,
    /// All.
    All,
}

/// The stream of random numbers that draws come from.
const STREAM: u64 = 0x616c_6173_7400;

/// One flag for each block: exactly `k` of them are set (all, where there are fewer). The draw is a function of seed and
/// step alone, so a resumed run draws the same.
pub fn draw(policy: Layers, budgets: &[f64], k: usize, temperature: f64, (seed, step): (u64, u64)) -> Vec<bool> {
    let mut chosen = vec![false; budgets.len()];
    if policy == Layers::All || k >= budgets.len() {
        chosen.fill(true);
        return chosen;
    }
    if policy == Layers::Suffix {
        let from = chosen.len() - k;
        chosen[from..].fill(true);
        return chosen;
    }
    // Blocks of numbers of their own for each step; no model has so many blocks.
    let rng = Rng::new(seed, STREAM);
    let uniform = |i: usize| rng.uniform_at(step * 4096 + i as u64);
    if policy == Layers::Topk {
        let mut order: Vec<usize> = (0..budgets.len()).collect();
        order.sort_by(|&a, &b| budgets[b].total_cmp(&budgets[a]).then(uniform(a).total_cmp(&uniform(b))));
        order[..k].iter().for_each(|i| chosen[*i] = true);
        return chosen;
    }
    let most = budgets.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weight = |b: &f64| if policy == Layers::Uniform { 1.0 } else { ((b - most) / temperature).exp() };
    let weights: Vec<f64> = budgets.iter().map(weight).collect();
    for number in 0..k {
        let left: Vec<usize> = (0..weights.len()).filter(|i| !chosen[*i]).collect();
        let total: f64 = left.iter().map(|i| weights[*i]).sum();
        let mut at = uniform(number) * total;
        // The last one takes what rounding leaves over.
        let hit = left.iter().find(|i| {
            at -= weights[**i];
            at < 0.0
        });
        if let Some(i) = hit.or(left.last()) {
            chosen[*i] = true;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_k_are_drawn_and_as_often_as_the_softmax_says() {
        let budgets: Vec<f64> = (0..6).map(|i| 0.5 + i as f64 / 10.0).collect();
        let (k, steps) = (1, 10_000);
        let mut counts = [0f64; 6];
        for step in 0..steps {
            let chosen = draw(Layers::Sample, &budgets, k, 1.0, (7, step));
            assert_eq!(chosen.iter().filter(|c| **c).count(), k);
            chosen.iter().zip(&mut counts).for_each(|(c, n)| *n += f64::from(u8::from(*c)));
        }
        let total: f64 = budgets.iter().map(|b| b.exp()).sum();
        let expected = budgets.iter().map(|b| b.exp() / total * steps as f64);
        let chi: f64 = counts.iter().zip(expected).map(|(c, e)| (c - e).powi(2) / e).sum();
        assert!(chi < 20.5, "chi-square {chi} of 5 degrees of freedom is beyond 0.999");
    }

    #[test]
    fn every_policy_trains_k_blocks_and_repeats_itself() {
        let budgets = [0.9, 0.5, 0.9, 1.0, 0.9];
        for policy in [Layers::Sample, Layers::Topk, Layers::Uniform, Layers::Suffix] {
            for k in 0..=5 {
                let chosen = draw(policy, &budgets, k, 1.0, (3, 11));
                assert_eq!(chosen.iter().filter(|c| **c).count(), k, "{policy:?}");
                assert_eq!(chosen, draw(policy, &budgets, k, 1.0, (3, 11)));
            }
        }
        let top = |step| draw(Layers::Topk, &budgets, 2, 1.0, (3, step));
        assert!((0..50).all(|s| top(s)[3] && !top(s)[1]));
        assert!((0..50).any(|s| top(s) != top(0)), "ties are broken anew each step");
        assert_eq!(draw(Layers::All, &budgets, 2, 1.0, (3, 11)), [true; 5]);
    }
}
