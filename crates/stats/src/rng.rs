//! Random numbers from a counter: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011).
//!
//! Why counter-based: the n-th number of a stream is a function of (seed, stream, n). A press can give every layer its
//! own stream, work can be split over any number of threads, and nothing has to be stored to repeat a run.

/// Multipliers and key increments of Philox4x32, from the paper's table.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// One block of the generator: 128 random bits from a 128-bit counter and a 64-bit key.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// The two 64-bit words of block `block` of the stream `stream` under `seed`.
fn block(seed: u64, stream: u64, block: u64) -> [u64; 2] {
    let counter = [block as u32, (block >> 32) as u32, stream as u32, (stream >> 32) as u32];
    let [a, b, c, d] = philox(counter, [seed as u32, (seed >> 32) as u32]);
    [u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32]
}

/// The uniform number in `[0, 1)` made of the 53 high bits of a word.
fn unit(word: u64) -> f64 {
    (word >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// A stream of random numbers. Two generators with the same seed and stream yield the same numbers; other streams of
/// the same seed are independent.
#[derive(Clone, Debug)]
pub struct Rng {
    seed: u64,
    stream: u64,
    next: u64,
    spare_normal: Option<f64>,
}

impl Rng {
    /// The stream `stream` of `seed`, from its beginning.
    pub fn new(seed: u64, stream: u64) -> Rng {
        Rng { seed, stream, next: 0, spare_normal: None }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let index = self.next;
        self.next = self.next.wrapping_add(1);
        self.word(index)
    }

    /// The `index`-th 64 bits of the stream, whatever has been drawn so far.
    pub fn word(&self, index: u64) -> u64 {
        block(self.seed, self.stream, index >> 1)[(index & 1) as usize]
    }

    /// The `index`-th uniform number of the stream in `[0, 1)`, whatever has been drawn so far.
    pub fn uniform_at(&self, index: u64) -> f64 {
        unit(self.word(index))
    }

    /// A uniform number in `[0, 1)`, with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        unit(self.next_u64())
    }

    /// A uniform whole number in `0..n`, without modulo bias (Lemire's rejection). `below(0)` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        let reject_under = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= reject_under {
                return (product >> 64) as u64;
            }
        }
    }

    /// A standard normal number (Box and Muller; the pair's second number is kept for the next call).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        // 1 - u lies in (0, 1], so that the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare_normal = Some(radius * sin);
        radius * cos
    }

    /// Puts `items` in random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let chosen = self.below(last as u64 + 1) as usize;
            items.swap(last, chosen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moments::Moments;

    /// The known answers that the authors of Philox publish with their code.
    #[test]
    fn philox_matches_its_authors_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn a_stream_repeats_and_can_be_entered_anywhere() {
        let mut first = Rng::new(7, 3);
        let drawn: Vec<u64> = (0..9).map(|_| first.next_u64()).collect();
        let again = Rng::new(7, 3);
        for (index, &word) in drawn.iter().enumerate() {
            assert_eq!(again.word(index as u64), word);
        }
        assert_ne!(Rng::new(7, 4).word(0), drawn[0]);
        assert_ne!(Rng::new(8, 3).word(0), drawn[0]);
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut rng = Rng::new(1, 0);
        let uniform = Moments::of((0..100_000).map(|_| rng.uniform()));
        assert!((uniform.mean() - 0.5).abs() < 0.005);
        assert!((uniform.variance() - 1.0 / 12.0).abs() < 0.001);
        let normal = Moments::of((0..100_000).map(|_| rng.normal()));
        assert!(normal.mean().abs() < 0.015);
        assert!((normal.variance() - 1.0).abs() < 0.02);
        assert!(normal.skewness().abs() < 0.04);
        assert!(normal.excess_kurtosis().abs() < 0.08);
    }

    #[test]
    fn below_is_even_and_shuffle_keeps_every_item() {
        let mut rng = Rng::new(5, 5);
        let mut counts = [0u32; 3];
        for _ in 0..30_000 {
            counts[rng.below(3) as usize] += 1;
        }
        assert!(counts.iter().all(|&c| (9_600..10_400).contains(&c)), "{counts:?}");
        assert_eq!(rng.below(0), 0);
        let mut items: Vec<u32> = (0..50).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
