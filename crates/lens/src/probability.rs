//! From logits to what a reader asks of them: probabilities, ranks, entropy, distances. In f64, natural logarithms.

use serde::Serialize;

/// A token and how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TokenStanding {
    /// Token id.
    pub id: u32,
    /// 1 for the likeliest token; among equals the lower id stands first.
    pub rank: usize,
    /// Logit.
    pub logit: f32,
    /// Natural logarithm of the probability.
    pub logprob: f64,
}

/// Logarithm of the sum of the exponentials of all logits.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    if !top.is_finite() {
        return top;
    }
    top + logits.iter().map(|&l| (f64::from(l) - top).exp()).sum::<f64>().ln()
}

/// Entropy of the distribution, in nats.
pub fn entropy(logits: &[f32], lse: f64) -> f64 {
    let term = |&l: &f32| {
        let logprob = f64::from(l) - lse;
        let p = logprob.exp();
        if p > 0.0 { p * logprob } else { 0.0 }
    };
    -logits.iter().map(term).sum::<f64>()
}

/// Two distributions over the same vocabulary, compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distance {
    /// `KL(p || q)`, in nats.
    pub kl: f64,
    /// Jensen-Shannon divergence, `½ KL(p || m) + ½ KL(q || m)` with `m = ½ (p + q)`, in nats: 0 to ln 2.
    pub js: f64,
}

/// How far the distribution of `q` is from that of `p`. A token that `p` gives nothing adds nothing to `KL(p || q)`.
pub fn distance(p: &[f32], q: &[f32]) -> Distance {
    if p == q {
        return Distance { kl: 0.0, js: 0.0 };
    }
    let (p_lse, q_lse) = (log_sum_exp(p), log_sum_exp(q));
    let (mut kl, mut js) = (0.0, 0.0);
    for (&p, &q) in p.iter().zip(q) {
        let (log_p, log_q) = (f64::from(p) - p_lse, f64::from(q) - q_lse);
        let (p, q) = (log_p.exp(), log_q.exp());
        let log_m = (0.5 * (p + q)).ln();
        if p > 0.0 {
            kl += p * (log_p - log_q);
            js += 0.5 * p * (log_p - log_m);
        }
        if q > 0.0 {
            js += 0.5 * q * (log_q - log_m);
        }
    }
    // rounding may leave a hair below zero
    Distance { kl: kl.max(0.0), js: js.clamp(0.0, std::f64::consts::LN_2) }
}

/// Where a token stands.
pub fn standing(logits: &[f32], lse: f64, id: u32) -> TokenStanding {
    let logit = logits[id as usize];
    let before = |(other, &l): (usize, &f32)| l > logit || l == logit && other < id as usize;
    let rank = 1 + logits.iter().enumerate().filter(|&(i, l)| before((i, l))).count();
    TokenStanding { id, rank, logit, logprob: f64::from(logit) - lse }
}

/// The `k` likeliest tokens, likeliest first.
pub fn top(logits: &[f32], lse: f64, k: usize) -> Vec<TokenStanding> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(k + 1);
    for (id, &logit) in logits.iter().enumerate() {
        if best.len() == k && best.last().is_none_or(|&(least, _)| !(logit > least)) {
            continue;
        }
        let at = best.partition_point(|&(other, _)| other >= logit);
        best.insert(at, (logit, id as u32));
        best.truncate(k);
    }
    let stand = |(i, (logit, id)): (usize, (f32, u32))| TokenStanding {
        id,
        rank: i + 1,
        logit,
        logprob: f64::from(logit) - lse,
    };
    best.into_iter().enumerate().map(stand).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_tops_agree_and_ties_go_to_the_lower_id() {
        let logits: Vec<f32> = (0..200).map(|i| ((i * 37 % 101) as f32 * 0.13).sin()).collect();
        let lse = log_sum_exp(&logits);
        let best = top(&logits, lse, 12);
        for (i, token) in best.iter().enumerate() {
            assert_eq!(*token, standing(&logits, lse, token.id));
            assert_eq!(token.rank, i + 1);
        }
        let mut order: Vec<u32> = (0..200).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        assert_eq!(best.iter().map(|t| t.id).collect::<Vec<_>>(), order[..12]);
        let flat = [1.0, 2.0, 2.0, 0.0];
        assert_eq!(top(&flat, log_sum_exp(&flat), 9).iter().map(|t| t.id).collect::<Vec<_>>(), [1, 2, 0, 3]);
    }

    #[test]
    fn distances_are_those_of_the_definition() {
        let p = [0.5f64, 0.25, 0.25].map(|p| p.ln() as f32);
        let q = [0.25f64, 0.5, 0.25].map(|p| (p.ln() + 3.0) as f32);
        let d = distance(&p, &q);
        assert!((d.kl - 0.25 * 2f64.ln()).abs() < 1e-6);
        let m = [0.375f64, 0.375, 0.25];
        let kl = |p: [f64; 3]| p.iter().zip(m).map(|(p, m)| p * (p / m).ln()).sum::<f64>();
        let js = 0.5 * kl([0.5, 0.25, 0.25]) + 0.5 * kl([0.25, 0.5, 0.25]);
        assert!((d.js - js).abs() < 1e-6);
        assert_eq!(distance(&p, &p), Distance { kl: 0.0, js: 0.0 });
        let apart = distance(&[0.0, -200.0], &[-200.0, 0.0]);
        assert!((apart.js - std::f64::consts::LN_2).abs() < 1e-9 && apart.kl > 100.0);
        assert!((entropy(&[1.0; 8], log_sum_exp(&[1.0; 8])) - 8f64.ln()).abs() < 1e-9);
        assert_eq!(entropy(&[0.0, f32::NEG_INFINITY], 0.0), 0.0);
    }
}
