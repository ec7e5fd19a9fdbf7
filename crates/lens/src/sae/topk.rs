//! The k largest of a row, without sorting it.

use meden_kernels::{Isa, sparse};

/// Finds the largest positive values of rows; keeps its scratch from row to row.
#[derive(Debug, Default)]
pub struct TopK {
    strips: Vec<f32>,
    candidates: Vec<u32>,
}

impl TopK {
    /// Scratch for rows of any length.
    pub fn new() -> TopK {
        TopK::default()
    }

    /// The numbers of the `k` largest positive values, ascending; fewer where fewer are positive. Of equal values the
    /// first are taken. NaN is never taken.
    pub fn of(&mut self, isa: Isa, values: &[f32], k: usize) -> &[u32] {
        self.candidates.clear();
        if k == 0 {
            return &self.candidates;
        }
        let bound = self.bound(isa, values, k).max(f32::MIN_POSITIVE);
        sparse::at_least(isa, values, bound, &mut self.candidates);
        if self.candidates.len() > k {
            let order = |a: &u32, b: &u32| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
            self.candidates.select_nth_unstable_by(k - 1, order);
            self.candidates.truncate(k);
            self.candidates.sort_unstable();
        }
        &self.candidates
    }

    /// A value that at least `k` values reach: the row is cut into strips, and the k-th largest of the strips' maxima is
    /// one. Few more than k values reach it.
    fn bound(&mut self, isa: Isa, values: &[f32], k: usize) -> f32 {
        let strips = (values.len() / 16).max(2 * k);
        if strips >= values.len() {
            return f32::NEG_INFINITY;
        }
        self.strips.clear();
        self.strips.resize(strips, 0.0);
        sparse::strip_max(isa, values, &mut self.strips);
        let (_, bound, _) = self.strips.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        *bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meden_stats::Rng;

    #[test]
    fn it_is_what_sorting_gives_ties_included() {
        let mut topk = TopK::new();
        for seed in 0..200 {
            let mut rng = Rng::new(seed, 0);
            let n = 1 + rng.below(700) as usize;
            // few different values, so that ties are common
            let values: Vec<f32> =
                (0..n).map(|_| rng.below(if seed % 2 == 0 { 9 } else { 9000 }) as f32 - 3.0).collect();
            for k in [0, 1, 2, 7, 32, n / 2, n] {
                let mut order: Vec<u32> = (0..n as u32).filter(|&i| values[i as usize] > 0.0).collect();
                order.sort_by(|a, b| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b)));
                order.truncate(k);
                order.sort_unstable();
                for isa in Isa::available() {
                    assert_eq!(topk.of(isa, &values, k), order, "{n} {k}");
                }
            }
        }
    }
}
