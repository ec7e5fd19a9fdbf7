//! What is left out at random while a network is trained: whole branches of images (stochastic depth, Huang et al., 2016)
//! and inputs of low-rank additions (dropout). Every draw is a function of seed, pass, block and place, so the way back
//! draws what the way forward drew, and threads change nothing. Frozen blocks draw like trained ones.

use meden_kernels::Pool;
use meden_stats::Rng;

/// Streams of random numbers.
const PATHS: u64 = 4 << 60;
const INPUTS: u64 = 5 << 60;
/// Values that one task draws.
const RUN: usize = 4096;

/// Which branch of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Branch {
    Attention,
    FeedForward,
}

/// Shares that are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Noise {
    /// Share of images that leave out a branch of the last block; it rises in a line from none at the first block.
    pub drop_path: f64,
    /// Share of the inputs of low-rank additions that are set to zero.
    pub dropout: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Number of the forward pass.
    pub pass: u64,
}

impl Noise {
    /// A factor for each image: 0 where it leaves the branch out, else one over the share that stays. `None` where none
    /// can be left out.
    pub(super) fn paths(&self, layer: usize, layers: usize, branch: Branch, images: usize) -> Option<Vec<f32>> {
        let share = self.drop_path * layer as f64 / layers.saturating_sub(1).max(1) as f64;
        if share <= 0.0 {
            return None;
        }
        let rng = Rng::new(self.seed, PATHS | (2 * layer + usize::from(branch == Branch::FeedForward)) as u64);
        let at = |i: usize| rng.uniform_at(self.pass << 24 | i as u64);
        Some((0..images).map(|i| if at(i) < share { 0.0 } else { (1.0 / (1.0 - share)) as f32 }).collect())
    }

    /// Multiplies values by their dropout factors; `which` tells inputs of one block apart.
    pub(super) fn inputs(&self, pool: &Pool, (layer, which): (usize, usize), values: &mut [f32]) {
        if self.dropout <= 0.0 {
            return;
        }
        let rng = Rng::new(self.seed, INPUTS | (2 * layer + which) as u64);
        let stays = (1.0 / (1.0 - self.dropout)) as f32;
        pool.chunks(values, RUN, |task, run| {
            for (i, value) in run.iter_mut().enumerate() {
                let place = self.pass << 34 | (task * RUN + i) as u64;
                *value *= if rng.uniform_at(place) < self.dropout { 0.0 } else { stays };
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_left_out_and_the_mean_stays() {
        let noise = Noise { drop_path: 0.2, dropout: 0.1, seed: 3, pass: 7 };
        assert_eq!(noise.paths(0, 12, Branch::Attention, 9), None, "the first block leaves out nothing");
        let last = noise.paths(11, 12, Branch::Attention, 20_000).unwrap();
        let mean = last.iter().sum::<f32>() / last.len() as f32;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert!(last.iter().all(|f| *f == 0.0 || (*f - 1.25).abs() < 1e-6));
        assert_ne!(noise.paths(11, 12, Branch::FeedForward, 50), noise.paths(11, 12, Branch::Attention, 50));
        let mut values = vec![1.0; 50_000];
        let mut again = values.clone();
        noise.inputs(&Pool::new(1), (2, 0), &mut values);
        noise.inputs(&Pool::new(2), (2, 0), &mut again);
        assert_eq!(values, again);
        let zeros = values.iter().filter(|v| **v == 0.0).count() as f64 / 5e4;
        assert!((zeros - 0.1).abs() < 0.01, "{zeros}");
    }
}
