//! A mutator that knows where a file's numbers are.
//!
//! Random bytes rarely get past a magic; so mutation starts from good files and mostly changes counts,
//! lengths, types and offsets, to values at which arithmetic breaks.

mod config;
mod gguf;
mod safetensors;

pub use config::config;
pub use gguf::gguf;
pub use safetensors::safetensors;

/// SplitMix64: small, and the same sequence everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A number at which arithmetic breaks, or one near `old`.
    pub fn number(&mut self, old: u64) -> u64 {
        const EDGES: [u64; 16] = [
            0,
            1,
            2,
            3,
            31,
            32,
            33,
            255,
            65_536,
            u32::MAX as u64,
            1 << 32,
            1 << 40,
            1_000_000_000_000_000,
            i64::MAX as u64,
            1 << 63,
            u64::MAX,
        ];
        match self.below(4) {
            0 => old.wrapping_add(self.below(9) as u64).wrapping_sub(4),
            1 => old ^ (1 << self.below(64)),
            2 => u64::MAX - self.below(64) as u64,
            _ => self.pick(&EDGES),
        }
    }

    /// Changes bytes without regard to what they mean: flips, cuts, repeats, removals.
    pub fn bytes(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(40)).min(bytes.len());
            match self.below(5) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 => bytes.truncate(at),
                3 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    bytes.drain(at..end);
                }
            }
        }
    }
}
