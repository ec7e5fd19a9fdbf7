//! One number of what a model says next: what patching and ablation are measured by.

use serde::Serialize;

use crate::error::LensError;
use crate::probability::{distance, entropy, log_sum_exp, standing};

/// What is measured of a row of logits.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Metric {
    /// `logit(a) - logit(b)`.
    LogitDiff {
        /// Token.
        a: u32,
        /// Token.
        b: u32,
    },
    /// Logit of a token.
    Logit {
        /// Token.
        a: u32,
    },
    /// Natural logarithm of a token's probability.
    Logprob {
        /// Token.
        a: u32,
    },
    /// Probability of a token.
    Prob {
        /// Token.
        a: u32,
    },
    /// Rank of a token, 1 for the likeliest.
    Rank {
        /// Token.
        a: u32,
    },
    /// Entropy in nats.
    Entropy,
    /// `KL(p || q)` in nats from the run without any edit, `p`.
    Kl,
}

impl Metric {
    /// Names of the metrics.
    pub const NAMES: [&'static str; 7] = ["logit_diff", "logit", "logprob", "prob", "rank", "entropy", "kl"];

    /// The metric of a name, with the tokens that it is about.
    ///
    /// # Errors
    /// Another name, a token that is missing, or one that the metric does not look at.
    pub fn new(name: &str, a: Option<u32>, b: Option<u32>) -> Result<Metric, LensError> {
        let needs = |what: &str| LensError::setting("metric", name, format!("it needs {what}"));
        let one = |metric: fn(u32) -> Metric| match (a, b) {
            (Some(a), None) => Ok(metric(a)),
            (None, _) => Err(needs("the token a")),
            (_, Some(_)) => Err(needs("one token: b would be ignored")),
        };
        match name {
            "logit_diff" => match (a, b) {
                (Some(a), Some(b)) => Ok(Metric::LogitDiff { a, b }),
                _ => Err(needs("the tokens a and b")),
            },
            "logit" => one(|a| Metric::Logit { a }),
            "logprob" => one(|a| Metric::Logprob { a }),
            "prob" => one(|a| Metric::Prob { a }),
            "rank" => one(|a| Metric::Rank { a }),
            "entropy" | "kl" if a.is_some() || b.is_some() => Err(needs("no token: a and b would be ignored")),
            "entropy" => Ok(Metric::Entropy),
            "kl" => Ok(Metric::Kl),
            _ => Err(LensError::setting("metric", name, format!("one of {}", Metric::NAMES.join(", ")))),
        }
    }

    /// Tokens that it looks at.
    pub fn tokens(&self) -> Vec<u32> {
        match *self {
            Metric::LogitDiff { a, b } => vec![a, b],
            Metric::Logit { a } | Metric::Logprob { a } | Metric::Prob { a } | Metric::Rank { a } => vec![a],
            Metric::Entropy | Metric::Kl => Vec::new(),
        }
    }

    /// The metric of a row of logits; `unedited` is the row of the run without any edit.
    ///
    /// # Panics
    /// If a token is outside the vocabulary; see [`check`](Metric::check).
    pub fn of(&self, logits: &[f32], unedited: &[f32]) -> f64 {
        let lse = || log_sum_exp(logits);
        match *self {
            Metric::LogitDiff { a, b } => f64::from(logits[a as usize]) - f64::from(logits[b as usize]),
            Metric::Logit { a } => f64::from(logits[a as usize]),
            Metric::Logprob { a } => f64::from(logits[a as usize]) - lse(),
            Metric::Prob { a } => (f64::from(logits[a as usize]) - lse()).exp(),
            Metric::Rank { a } => standing(logits, lse(), a).rank as f64,
            Metric::Entropy => entropy(logits, lse()),
            Metric::Kl => distance(unedited, logits).kl,
        }
    }

    /// Whether its tokens are in a vocabulary.
    ///
    /// # Errors
    /// A token that is not.
    pub fn check(&self, vocab: usize) -> Result<(), LensError> {
        match self.tokens().into_iter().find(|&id| id as usize >= vocab) {
            Some(id) => Err(meden_engine::EngineError::TokenId { id, vocab }.into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_named_and_take_only_tokens_they_look_at() {
        let logits = [1.0, 3.0, 2.0];
        let unedited = [3.0, 1.0, 2.0];
        let of = |name: &str, a, b| Metric::new(name, a, b).map(|m| m.of(&logits, &unedited)).unwrap();
        assert_eq!(of("logit_diff", Some(1), Some(0)), 2.0);
        assert_eq!((of("logit", Some(2), None), of("rank", Some(2), None)), (2.0, 2.0));
        assert!((of("prob", Some(1), None).ln() - of("logprob", Some(1), None)).abs() < 1e-12);
        assert!(of("kl", None, None) > 0.5 && of("entropy", None, None) > 0.5);
        for (name, a, b, says) in [
            ("logit_diff", Some(1), None, "a and b"),
            ("prob", Some(1), Some(2), "ignored"),
            ("kl", Some(1), None, "ignored"),
            ("logit", None, None, "token a"),
            ("surprise", None, None, "logit_diff"),
        ] {
            let error = Metric::new(name, a, b).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(Metric::Logit { a: 3 }.check(3).is_err());
    }
}
