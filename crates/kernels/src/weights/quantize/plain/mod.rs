//! The searches one run after another, and the test that they find what the searches side by side find.

mod affine;
mod symmetric;

use half::f16;

use super::affine::{self as fast_affine, Limits};
use super::iq4_nl::Uneven;
use super::symmetric::{self as fast_symmetric, BESIDE, Even, Levels, ONE};

/// A seeded stream of numbers (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Roughly normal, with a tail and some zeros.
    fn weight(&mut self) -> f32 {
        let sum = (0..4).map(|_| self.uniform() - 0.5).sum::<f32>();
        match self.next() % 50 {
            0 => 0.0,
            1 => 20.0 * sum,
            2 => -0.0,
            _ => sum,
        }
    }
}

/// Blocks of every kind: usual ones of any size, runs that are empty, constant or of one sign, ends of the range.
fn blocks() -> Vec<Vec<f32>> {
    let mut noise = Noise(0x5eed);
    let mut blocks = Vec::new();
    for n in 0..300 {
        let size = 10f32.powi(n % 60 - 30);
        blocks.push((0..256).map(|_| noise.weight() * size).collect());
    }
    let mut of = |f: &mut dyn FnMut(usize, f32) -> f32| {
        blocks.push((0..256).map(|i| f(i, noise.weight())).collect());
    };
    of(&mut |_, _| 0.0);
    of(&mut |_, _| -3.5);
    of(&mut |i, w| if i / 16 % 2 == 0 { 0.0 } else { w });
    of(&mut |i, w| if i < 250 { 1e-3 } else { w });
    of(&mut |_, w| w.abs());
    of(&mut |_, w| -w.abs());
    of(&mut |_, w| 1e4 + w);
    of(&mut |i, w| w * 10f32.powi(i as i32 / 16 * 4 - 30));
    of(&mut |_, w| (w * 4.0).round());
    of(&mut |i, _| if i % 2 == 0 { f32::MAX } else { f32::MIN });
    of(&mut |i, _| f32::from_bits(i as u32));
    of(&mut |i, _| if i == 77 { -1.0 } else { 0.0 });
    blocks
}

fn same_affine<const RUNS: usize, const LEN: usize>(limits: Limits) {
    for (n, block) in blocks().iter().enumerate() {
        let fast = fast_affine::search::<RUNS, LEN>(block, limits);
        assert_eq!(fast, affine::search::<RUNS>(block, limits), "{} levels, block {n}", limits.q);
    }
}

fn same_symmetric<L: Levels, const RUNS: usize, const LEN: usize>(field: f32) {
    for (n, block) in blocks().iter().enumerate() {
        let fast = fast_symmetric::search::<L, RUNS, LEN>(block, field);
        assert_eq!(fast, symmetric::search::<L, RUNS>(block, field), "end {}, block {n}", L::END);
    }
}

#[test]
fn searches_side_by_side_find_what_searches_run_by_run_find() {
    same_affine::<16, 16>(Limits { q: 3.0, field: 15.0 });
    same_affine::<8, 32>(Limits { q: 15.0, field: 63.0 });
    same_affine::<8, 32>(Limits { q: 31.0, field: 63.0 });
    same_symmetric::<Even<4>, 16, 16>(32.0);
    same_symmetric::<Even<32>, 16, 16>(128.0);
    same_symmetric::<Uneven, 8, 32>(32.0);
}

#[test]
fn blocks_of_one_run_do_not_feel_their_neighbours() {
    let all: Vec<f32> = blocks().concat();
    for count in [1, 3, BESIDE] {
        for blocks in all.chunks_exact(count * ONE) {
            let fast = fast_symmetric::search_each::<Uneven>(blocks);
            for (block, fast) in blocks.chunks_exact(ONE).zip(fast) {
                let (d, q): (f16, [i8; 32]) = symmetric::search_one::<Uneven>(block);
                assert_eq!((d.to_bits(), q), (fast.0.to_bits(), fast.1));
            }
        }
    }
}
