//! How far logits are from others, and from the tokens that came.

use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// Log-probabilities of one position, `(vocab)`, in f32.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogProbs(Vec<f32>);

impl LogProbs {
    /// The logarithms of softmax(logits), summed in f64.
    pub fn of(logits: &[f32]) -> LogProbs {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
        let shift = f64::from(largest) + total.ln();
        LogProbs(logits.iter().map(|&l| (f64::from(l) - shift) as f32).collect())
    }

    /// KL(self || other) in nats: what it costs to believe `other` where `self` is true. Never below 0.
    pub fn kl(&self, other: &LogProbs) -> f64 {
        let term = |(&p, &q): (&f32, &f32)| {
            let p = f64::from(p);
            // a probability of 0 adds nothing
            if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - f64::from(q)) }
        };
        self.0.iter().zip(&other.0).map(term).sum::<f64>().max(0.0)
    }

    /// The likeliest token, the first of equals.
    pub fn first_choice(&self) -> u32 {
        self.first_choice_but(|_| false)
    }

    /// The likeliest token that `not` does not rule out.
    pub fn first_choice_but(&self, not: impl Fn(u32) -> bool) -> u32 {
        let allowed = (0..self.0.len() as u32).filter(|&id| !not(id));
        // the first of equals: a later one has to be greater
        let better = |best: Option<u32>, id: u32| match best {
            Some(b) if self.0[b as usize] >= self.0[id as usize] => Some(b),
            _ => Some(id),
        };
        allowed.fold(None, better).unwrap_or(0)
    }

    /// Negative log-probability of a token in nats.
    pub fn nll(&self, id: u32) -> f64 {
        -self.0.get(id as usize).map_or(f64::NEG_INFINITY, |&v| f64::from(v))
    }

    /// Entropy in nats.
    pub fn entropy(&self) -> f64 {
        // a probability of 0 adds nothing
        let term = |&p: &f32| if p == f32::NEG_INFINITY { 0.0 } else { -f64::from(p) * f64::from(p).exp() };
        self.0.iter().map(term).sum()
    }

    /// How many tokens are likelier, plus one.
    pub fn rank(&self, id: u32) -> usize {
        let Some(&own) = self.0.get(id as usize) else { return self.0.len() + 1 };
        1 + self.0.iter().filter(|&&v| v > own).count()
    }
}

/// Sums over positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// Positions compared.
    pub tokens: usize,
    /// Mean KL(dense || compressed) in nats.
    pub kl: f64,
    /// Share of positions with the same first choice as the dense cache.
    pub top1: f64,
    /// Mean negative log-probability of the tokens that came.
    pub nll: f64,
    /// Mean rank of the tokens that came; 1 is the first choice.
    pub rank: f64,
}

impl Distance {
    /// Compares position by position. `dense`, `compressed` and `ids` are equally long.
    pub fn between(dense: &[LogProbs], compressed: &[LogProbs], ids: &[u32]) -> Distance {
        let n = ids.len().max(1) as f64;
        let mut sums = Distance { tokens: ids.len(), ..Distance::default() };
        for ((d, c), &id) in dense.iter().zip(compressed).zip(ids) {
            sums.kl += d.kl(c) / n;
            sums.top1 += f64::from(u8::from(d.first_choice() == c.first_choice())) / n;
            sums.nll += c.nll(id) / n;
            sums.rank += c.rank(id) as f64 / n;
        }
        sums
    }

    /// Refuses what is no number, which a damaged model or cache gives.
    ///
    /// # Errors
    /// A distance or a loss that is not finite.
    pub fn check(&self) -> Result<(), EvalError> {
        if self.kl.is_finite() && self.nll.is_finite() {
            return Ok(());
        }
        Err(EvalError::NoProbability { position: 0, logit: f32::NAN })
    }

    /// The mean over several, each weighted by its positions.
    pub fn mean(all: &[Distance]) -> Distance {
        let tokens: usize = all.iter().map(|d| d.tokens).sum();
        let mean =
            |f: fn(&Distance) -> f64| all.iter().map(|d| f(d) * d.tokens as f64).sum::<f64>() / tokens.max(1) as f64;
        Distance { tokens, kl: mean(|d| d.kl), top1: mean(|d| d.top1), nll: mean(|d| d.nll), rank: mean(|d| d.rank) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_is_zero_with_oneself_and_matches_a_case_done_by_hand() {
        let p = LogProbs::of(&[0.0, 3f32.ln()]);
        assert_eq!(p.kl(&p), 0.0);
        let q = LogProbs::of(&[0.0, 0.0]);
        let by_hand = 0.25 * (0.25f64 / 0.5).ln() + 0.75 * (0.75f64 / 0.5).ln();
        assert!((p.kl(&q) - by_hand).abs() < 1e-6);
        assert!(q.kl(&p) > 0.0 && (q.kl(&p) - p.kl(&q)).abs() > 1e-3, "it is not symmetric");
    }

    #[test]
    fn shifted_and_huge_logits_give_the_same_probabilities() {
        let a = LogProbs::of(&[1.0, 2.0, 3.0]);
        let b = LogProbs::of(&[1001.0, 1002.0, 1003.0]);
        assert!(a.kl(&b) < 1e-6);
        assert!((a.nll(2) - (1.0 + (-1f64).exp() + (-2f64).exp()).ln()).abs() < 1e-6);
        assert_eq!((a.first_choice(), a.rank(2), a.rank(0), a.rank(99)), (2, 1, 3, 4));
        assert!((LogProbs::of(&[5.0; 8]).entropy() - 8f64.ln()).abs() < 1e-6);
        let masked = LogProbs::of(&[0.0, f32::NEG_INFINITY]);
        assert!(masked.kl(&LogProbs::of(&[0.0, 0.0])).is_finite() && masked.entropy() == 0.0);
    }

    #[test]
    fn means_weigh_every_token_alike() {
        let one = Distance { tokens: 1, kl: 4.0, top1: 0.0, nll: 1.0, rank: 9.0 };
        let three = Distance { tokens: 3, kl: 0.0, top1: 1.0, nll: 2.0, rank: 1.0 };
        let mean = Distance::mean(&[one, three]);
        assert_eq!((mean.tokens, mean.kl, mean.top1, mean.nll, mean.rank), (4, 1.0, 0.75, 1.75, 3.0));
        assert_eq!(Distance::mean(&[]).tokens, 0);
    }
}
