//! Who chooses how many learners a token runs.

/// Who chooses.
#[derive(Clone, Debug, PartialEq)]
pub enum Dial {
    /// The gates: the likeliest choice after `shift * n` was taken from its logit, at most `most`.
    Gates {
        /// 0 is the gate as trained; above, tokens run fewer.
        shift: f64,
        /// Most learners.
        most: usize,
    },
    /// The same number for every token: a static, narrower model.
    Fixed(usize),
    /// Chance, with the share of each number in each module given: what gates have to beat at the same cost. A token's draw
    /// depends on the seed, the module and the token's own values.
    Random {
        /// Seed.
        seed: u64,
        /// For each module the share of tokens of 0, 1, … N learners.
        shares: Vec<Vec<f64>>,
    },
}

/// A number in [0, 1) of a seed, a module and a token's bits (splitmix64 over them).
pub(super) fn chance(seed: u64, layer: usize, token: &[f32]) -> f64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let start = mix(seed ^ (layer as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let bits = token.iter().fold(start, |h, v| mix(h ^ u64::from(v.to_bits())));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// The number of learners at which the cumulated shares pass `at`.
pub(super) fn drawn(shares: &[f64], at: f64) -> usize {
    let mut sum = 0.0;
    for (k, share) in shares.iter().enumerate() {
        sum += share;
        if at < sum {
            return k;
        }
    }
    shares.iter().rposition(|s| *s > 0.0).unwrap_or(0)
}
