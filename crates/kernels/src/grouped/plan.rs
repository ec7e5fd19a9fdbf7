//! Tokens sorted by how many learners they run.

use super::{DENSE_SHARE, Learners, MOST_LEARNERS};

/// How a call goes through its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Rows sorted by k, each learner on those that ask for it.
    Grouped,
    /// Rows in place, all learners on all of them.
    Dense,
}

/// Tokens in the order of a call. Buffers are kept: nothing is allocated once the largest number of tokens has been seen.
#[derive(Clone, Debug, Default)]
pub struct GroupedPlan {
    pub(super) order: Vec<u32>,
    /// m_n: tokens of k >= n + 1.
    rows: Vec<usize>,
    share: f64,
}

impl GroupedPlan {
    /// No tokens yet.
    pub fn new() -> GroupedPlan {
        GroupedPlan::default()
    }

    /// Sorts tokens by k, descending, those of equal k in their order (a counting sort). Every k is at most the number of
    /// learners, which [`super::grouped_ffn`] checks before.
    pub(super) fn sort(&mut self, k: &[u8], learners: &Learners) {
        let count = learners.count();
        let mut of_k = [0usize; MOST_LEARNERS + 1];
        k.iter().for_each(|k| of_k[usize::from(*k)] += 1);
        self.rows.clear();
        self.rows.resize(count, 0);
        let mut at = [0usize; MOST_LEARNERS + 1];
        let mut sum = 0;
        for n in (0..=count).rev() {
            at[n] = sum;
            sum += of_k[n];
            if n > 0 {
                self.rows[n - 1] = sum;
            }
        }
        self.order.clear();
        self.order.resize(k.len(), 0);
        for (token, k) in k.iter().enumerate() {
            let place = &mut at[usize::from(*k)];
            self.order[*place] = token as u32;
            *place += 1;
        }
        // By cost, for learners may differ in width.
        let macs = |rows: &dyn Fn(usize) -> usize| -> f64 {
            learners.hidden().enumerate().map(|(n, w)| (rows(n) * w) as f64).sum()
        };
        let all = macs(&|_| k.len());
        self.share = if all > 0.0 { macs(&|n| self.rows[n]) / all } else { 0.0 };
    }

    /// Tokens of k >= n for n = 1 .. N.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// Sorted place to token.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// Learner rows that run, as a share (weighted by width) of all.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// How the call goes through its rows: [`Way::Dense`] above [`DENSE_SHARE`].
    pub fn way(&self) -> Way {
        if self.share > DENSE_SHARE { Way::Dense } else { Way::Grouped }
    }
}
