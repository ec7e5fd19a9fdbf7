//! What this machine could do at most: the roofs under which every kernel's figure stands.
//!
//! Reading bandwidth bounds decoding (all weights and the cache are read once a token), multiply-adds bound prefill.

use crate::isa::Isa;
use crate::pool::Pool;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Bytes walked through: far beyond any last-level cache of an ordinary machine.
const WALK: usize = 256 << 20;
/// Words a task of the walk.
const CHUNK: usize = 1 << 17;
/// Rounds of a register loop in one task: about 100 µs.
const ROUNDS: usize = 30_000;
/// Independent chains: enough to hide the latency of a multiply-add.
const CHAINS: usize = 10;

/// What was measured, with the threads of one pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Threads that took part.
    pub threads: usize,
    /// Bytes a second read from memory by plain loads; the median of several walks.
    pub read_bytes_per_second: f64,
    /// f32 multiply-adds in registers, two operations each, a second.
    pub f32_ops_per_second: f64,
    /// 8-bit multiply-adds (pairs summed in 16 bits) in registers, two operations each, a second.
    pub int8_ops_per_second: f64,
}

/// Measures for about a second.
pub fn measure(pool: &Pool, isa: Isa) -> Limits {
    Limits {
        threads: pool.threads(),
        read_bytes_per_second: read_bandwidth(pool),
        f32_ops_per_second: peak(pool, (CHAINS * 16 * ROUNDS) as f64, &|| f32_loop(isa)),
        int8_ops_per_second: peak(pool, (CHAINS * 64 * ROUNDS) as f64, &|| int8_loop(isa)),
    }
}

/// Bytes a second that all threads together read from memory.
pub fn read_bandwidth(pool: &Pool) -> f64 {
    // Written, not only reserved: pages that were never written are all the same zero page.
    let words: Vec<u64> = (0..WALK as u64 / 8).collect();
    let chunks = words.len().div_ceil(CHUNK);
    let walk = || {
        let start = Instant::now();
        pool.run(chunks, &|c| {
            let chunk = &words[c * CHUNK..words.len().min((c + 1) * CHUNK)];
            let mut sums = [0u64; 16];
            for group in chunk.as_chunks::<16>().0 {
                for (sum, word) in sums.iter_mut().zip(group) {
                    *sum = sum.wrapping_add(*word);
                }
            }
            black_box(sums);
        });
        WALK as f64 / start.elapsed().as_secs_f64()
    };
    walk();
    median((0..9).map(|_| walk()).collect())
}

/// Operations a second of a loop that does `ops` of them a call, on all threads.
fn peak(pool: &Pool, ops: f64, work: &(dyn Fn() -> f64 + Sync)) -> f64 {
    let tasks = 8 * pool.threads();
    let mut best = Duration::MAX;
    for _ in 0..9 {
        let start = Instant::now();
        pool.run(tasks, &|_| {
            black_box(work());
        });
        best = best.min(start.elapsed());
    }
    tasks as f64 * ops / best.as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// `CHAINS * ROUNDS` times eight multiply-adds; the sum of what they give, so that none can be left out.
fn f32_loop(isa: Isa) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if isa.runs_avx2() {
        // SAFETY: `runs_avx2` has seen AVX2 and FMA.
        return unsafe { avx2::f32_loop() };
    }
    let _ = isa;
    let mut chains = [[1f32; 8]; CHAINS];
    for _ in 0..ROUNDS {
        for value in chains.as_flattened_mut() {
            *value = *value * black_box(0.5) + 0.5;
        }
    }
    chains.as_flattened().iter().map(|&v| f64::from(v)).sum()
}

/// `CHAINS * ROUNDS` times 32 products of bytes, summed in pairs; the sum of the 16-bit lanes.
fn int8_loop(isa: Isa) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if isa.runs_avx2() {
        // SAFETY: `runs_avx2` has seen AVX2.
        return unsafe { avx2::int8_loop() };
    }
    let _ = isa;
    let mut chains = [[3i16; 16]; CHAINS];
    for _ in 0..ROUNDS {
        for lane in chains.as_flattened_mut() {
            let [low, high] = black_box(*lane).to_le_bytes();
            *lane = i16::from(low) + i16::from(high);
        }
    }
    chains.as_flattened().iter().map(|&v| f64::from(v)).sum()
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{CHAINS, ROUNDS, black_box};
    use std::arch::x86_64::*;

    /// See [`super::f32_loop`]. Safe to call where AVX2 and FMA are.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_loop() -> f64 {
        let (factor, more) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(0.5));
        let mut chains = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = _mm256_fmadd_ps(*chain, factor, more);
            }
        }
        chains.iter().map(|&chain| lanes_f32(chain)).sum()
    }

    /// See [`super::int8_loop`]. Safe to call where AVX2 is.
    #[target_feature(enable = "avx2")]
    pub(super) fn int8_loop() -> f64 {
        // A lane is its low byte times one plus its high byte, nothing, times one: it stays what it is.
        let ones = _mm256_set1_epi8(1);
        let mut chains = [_mm256_set1_epi16(black_box(3)); CHAINS];
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = _mm256_maddubs_epi16(*chain, ones);
            }
        }
        chains.iter().map(|&chain| lanes_i16(chain)).sum()
    }

    #[target_feature(enable = "avx2")]
    fn lanes_f32(v: __m256) -> f64 {
        let mut out = [0f32; 8];
        // SAFETY: eight floats.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) };
        out.iter().map(|&v| f64::from(v)).sum()
    }

    #[target_feature(enable = "avx2")]
    fn lanes_i16(v: __m256i) -> f64 {
        let mut out = [0i16; 16];
        // SAFETY: sixteen 16-bit integers.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) };
        out.iter().map(|&v| f64::from(v)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loops_do_the_work_they_are_timed_for() {
        for isa in Isa::available() {
            assert_eq!(f32_loop(isa), (8 * CHAINS) as f64, "{isa}: 1 stays 1 under x / 2 + 1 / 2");
            assert_eq!(int8_loop(isa), (3 * 16 * CHAINS) as f64, "{isa}: 3 x 1 + 0 x 1 stays 3");
        }
    }
}
