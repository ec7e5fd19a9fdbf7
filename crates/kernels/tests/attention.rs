//! Ragged attention against its scalar twin, and the twin against the textbook.
#![allow(clippy::unwrap_used)]

use meden_kernels::KernelError;
use meden_kernels::attention::{AttendInput, AttendParams, AttendScratch, HeadView, KvType, PageLayout, attend};
use meden_kernels::isa::Isa;
use meden_kernels::pool::Pool;
use proptest::prelude::*;

/// A small generator, so that a failing case is its seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Roughly normal.
    fn value(&mut self) -> f32 {
        (0..4).map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32 - 0.5).sum::<f32>() * 1.7
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// One kv head's slots, stored in pages.
#[derive(Debug)]
struct Head {
    layout: PageLayout,
    pages: Vec<Vec<u8>>,
    positions: Vec<u32>,
}

impl Head {
    fn new(noise: &mut Noise, layout: PageLayout, positions: Vec<u32>) -> Head {
        // Unused bytes are NaN patterns: reading one would show.
        let mut pages = vec![vec![0xff; layout.page_bytes()]; layout.pages_for(positions.len())];
        for slot in 0..positions.len() {
            let (key, value) = (noise.values(layout.key_dim()), noise.values(layout.value_dim()));
            layout.write(&mut pages[slot / layout.tokens()], slot % layout.tokens(), &key, &value);
        }
        Head { layout, pages, positions }
    }
}

#[derive(Debug)]
struct Case {
    heads: Vec<Head>,
    group: usize,
    q: Vec<f32>,
    q_positions: Vec<u32>,
    params: AttendParams,
}

struct Answer {
    out: Vec<f32>,
    lse: Vec<f32>,
}

impl Case {
    fn run(&self, isa: Isa, threads: usize) -> Answer {
        self.run_some(isa, threads, 0..self.q_positions.len())
    }

    fn run_some(&self, isa: Isa, threads: usize, queries: std::ops::Range<usize>) -> Answer {
        let pages: Vec<Vec<&[u8]>> = self.heads.iter().map(|h| h.pages.iter().map(|p| &p[..]).collect()).collect();
        let heads: Vec<HeadView> = self
            .heads
            .iter()
            .zip(&pages)
            .map(|(h, pages)| HeadView { layout: h.layout, pages, positions: &h.positions })
            .collect();
        let q_heads = heads.len() * self.group;
        let layout = &self.heads[0].layout;
        let width = q_heads * layout.key_dim();
        let input = AttendInput {
            q: &self.q[queries.start * width..queries.end * width],
            q_positions: &self.q_positions[queries.clone()],
            q_heads,
            heads: &heads,
            params: self.params,
        };
        let mut out = vec![f32::NAN; queries.len() * q_heads * layout.value_dim()];
        let mut lse = vec![f32::NAN; queries.len() * q_heads];
        let mut scratch = AttendScratch::default();
        attend(&Pool::new(threads), isa, &input, &mut out, Some(&mut lse), &mut scratch).expect("sizes fit");
        Answer { out, lse }
    }

    /// Softmax attention in f64 over every slot, hidden ones at minus infinity; nothing clever.
    fn textbook(&self) -> Answer {
        let (key_dim, value_dim) = (self.heads[0].layout.key_dim(), self.heads[0].layout.value_dim());
        let (mut out, mut lse) = (vec![], vec![]);
        for (i, &position) in self.q_positions.iter().enumerate() {
            for h in 0..self.heads.len() * self.group {
                let head = &self.heads[h / self.group];
                let q = &self.q[(i * self.heads.len() * self.group + h) * key_dim..][..key_dim];
                let (mut keys, mut values) = (vec![0.0; key_dim], vec![0.0; value_dim]);
                let mut logits = vec![];
                for (slot, &at) in head.positions.iter().enumerate() {
                    head.layout.read_key(
                        &head.pages[slot / head.layout.tokens()],
                        slot % head.layout.tokens(),
                        &mut keys,
                    );
                    let dot: f64 = q.iter().zip(&keys).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    let mut logit = dot * f64::from(self.params.scale);
                    if let Some(cap) = self.params.softcap.map(f64::from) {
                        logit = cap * (logit / cap).tanh();
                    }
                    let hidden = at > position || self.params.window.is_some_and(|w| position - at >= w);
                    logits.push(if hidden { f64::NEG_INFINITY } else { logit });
                }
                let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let mut row = vec![0.0f64; value_dim];
                let mut total = 0.0;
                for (slot, logit) in logits.iter().enumerate().filter(|l| *l.1 > f64::NEG_INFINITY) {
                    let weight = (logit - top).exp();
                    total += weight;
                    head.layout.read_value(
                        &head.pages[slot / head.layout.tokens()],
                        slot % head.layout.tokens(),
                        &mut values,
                    );
                    row.iter_mut().zip(&values).for_each(|(o, v)| *o += weight * f64::from(*v));
                }
                let total_or_one = if total == 0.0 { 1.0 } else { total };
                out.extend(row.iter().map(|o| (o / total_or_one) as f32));
                lse.push((top + total.ln()) as f32);
            }
        }
        Answer { out, lse }
    }
}

fn close(got: &Answer, expected: &Answer, tolerance: f32) -> Result<(), TestCaseError> {
    // Outputs are averages of values of size one, which is what an error is relative to.
    for (i, (g, e)) in got.out.iter().zip(&expected.out).enumerate() {
        prop_assert!((g - e).abs() <= tolerance * e.abs().max(1.0), "out[{i}]: {g} against {e}");
    }
    for (i, (g, e)) in got.lse.iter().zip(&expected.lse).enumerate() {
        prop_assert!(g == e || (g - e).abs() <= tolerance * e.abs().max(1.0), "lse[{i}]: {g} against {e}");
    }
    Ok(())
}

fn bits(answer: &Answer) -> Vec<u32> {
    answer.out.iter().chain(&answer.lse).map(|x| x.to_bits()).collect()
}

/// Increasing positions with gaps, as evictions leave them.
fn positions(noise: &mut Noise, count: usize, end: u64) -> Vec<u32> {
    let mut all: Vec<u32> = vec![];
    while all.len() < count {
        all.push(noise.below(end) as u32);
        all.sort_unstable();
        all.dedup();
    }
    all
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (1usize..=4, prop::sample::select(vec![1usize, 3, 8]), 1usize..=40);
    let dims = prop::sample::select(vec![
        (16, 16),
        (32, 32),
        (64, 64),
        (80, 80),
        (96, 96),
        (128, 128),
        (256, 256),
        (64, 96),
        (20, 13),
    ]);
    let kind = || prop::sample::select(KvType::ALL.to_vec());
    let limits = (prop::option::of(1u32..400), prop::option::of(prop::sample::select(vec![2.0f32, 30.0])));
    let slots = prop::sample::select(vec![0usize, 1, 2, 17, 100, 300, 700]);
    (shape, dims, (kind(), kind()), limits, prop::collection::vec(slots, 4), any::<u64>()).prop_map(
        |((kv_heads, group, m), (key_dim, value_dim), (key, value), (window, softcap), slots, seed)| {
            let mut noise = Noise(seed);
            let layout = PageLayout::new(key_dim, value_dim, key, value);
            let end = 1000;
            let heads: Vec<Head> = slots[..kv_heads]
                .iter()
                .map(|&n| {
                    let positions = positions(&mut noise, n, end);
                    Head::new(&mut noise, layout, positions)
                })
                .collect();
            let q = noise.values(m * kv_heads * group * key_dim);
            // Sometimes in the middle of what is cached, sometimes at its end.
            let first = noise.below(end) as u32;
            let q_positions = (first..first + m as u32).collect();
            let params = AttendParams { scale: 1.0 / (key_dim as f32).sqrt(), softcap, window };
            Case { heads, group, q, q_positions, params }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_agrees_with_the_textbook(case in cases()) {
        let expected = case.textbook();
        for isa in Isa::available() {
            close(&case.run(isa, 1), &expected, 1e-5)?;
        }
    }

    #[test]
    fn two_threads_give_the_bits_of_one(case in cases()) {
        for isa in Isa::available() {
            prop_assert_eq!(bits(&case.run(isa, 1)), bits(&case.run(isa, 2)));
        }
    }
}

/// A query's answer must not depend on what it shares a call with: a prompt in chunks is the prompt in one go, and a
/// query that sees half a tile gets what it would get with the other half masked. Bit for bit, wherever both calls
/// are long (or both short) enough to take the same path.
#[test]
fn queries_get_the_same_bits_whatever_they_share_a_call_with() {
    let mut noise = Noise(11);
    for (m, cuts) in [(100, vec![0, 37, 63, 100]), (8, vec![0, 1, 2, 6, 8])] {
        for (window, softcap) in [(None, None), (Some(90), Some(20.0))] {
            let layout = PageLayout::new(64, 80, KvType::F16, KvType::Q8);
            let heads = [700, 333].map(|n| {
                let positions = positions(&mut noise, n, 900);
                Head::new(&mut noise, layout, positions)
            });
            let q = noise.values(m * 6 * 64);
            let params = AttendParams { scale: 0.125, softcap, window };
            let q_positions = (500..500 + m as u32).collect();
            let case = Case { heads: heads.into(), group: 3, q, q_positions, params };
            for isa in Isa::available() {
                let whole = case.run(isa, 1);
                let parts: Vec<Answer> = cuts.windows(2).map(|cut| case.run_some(isa, 2, cut[0]..cut[1])).collect();
                let out: Vec<f32> = parts.iter().flat_map(|p| p.out.clone()).collect();
                let lse: Vec<f32> = parts.iter().flat_map(|p| p.lse.clone()).collect();
                assert_eq!(bits(&whole), bits(&Answer { out, lse }), "{isa}, {m} queries");
            }
        }
    }
}

/// Evicting a slot is the same as giving its logit minus infinity: the ragged cache of what is kept against the dense
/// cache in which a query that may see only some of the slots sees them through a window or not at all.
#[test]
fn kept_slots_alone_equal_the_dense_cache_with_the_evicted_ones_masked() {
    let mut noise = Noise(7);
    let (dim, n, group, m) = (64, 500, 3, 5);
    let layout = PageLayout::new(dim, dim, KvType::F32, KvType::F32);
    let dense = Head::new(&mut noise, layout, (0..n).collect());
    let kept: Vec<usize> = (0..n as usize).filter(|_| noise.below(3) == 0).collect();
    let tokens = layout.tokens();
    let mut pages = vec![vec![0; layout.page_bytes()]; layout.pages_for(kept.len())];
    for (to, &from) in kept.iter().enumerate() {
        layout.copy_slot(&dense.pages[from / tokens], from % tokens, &mut pages[to / tokens], to % tokens);
    }
    let q = noise.values(m * group * dim);
    // The twin of the eviction: logits of evicted slots at minus infinity, everything in f64.
    let mut expected = vec![];
    for row in q.chunks(dim) {
        let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
        let mut logits = vec![f64::NEG_INFINITY; n as usize];
        for &slot in &kept {
            layout.read_key(&dense.pages[slot / tokens], slot % tokens, &mut key);
            let dot: f64 = row.iter().zip(&key).map(|(q, k)| f64::from(q * k)).sum();
            logits[slot] = dot / 8.0;
        }
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|l| (l - top).exp()).sum();
        let mut out = vec![0.0f64; dim];
        for (slot, logit) in logits.iter().enumerate() {
            layout.read_value(&dense.pages[slot / tokens], slot % tokens, &mut value);
            out.iter_mut().zip(&value).for_each(|(o, v)| *o += (logit - top).exp() / total * f64::from(*v));
        }
        expected.extend(out);
    }
    let params = AttendParams { scale: 0.125, softcap: None, window: None };
    let positions = kept.iter().map(|&p| p as u32).collect();
    let case = Case {
        heads: vec![Head { layout, pages, positions }],
        group,
        q,
        q_positions: (n..n + m as u32).collect(),
        params,
    };
    for isa in Isa::available() {
        for (got, expected) in case.run(isa, 2).out.iter().zip(&expected) {
            let error = (f64::from(*got) - expected).abs();
            assert!(error <= 1e-5 * expected.abs().max(0.1), "{isa}: {got} against {expected}");
        }
    }
}

#[test]
fn a_query_before_every_key_gives_zeros_and_minus_infinity() {
    let mut noise = Noise(3);
    let layout = PageLayout::new(64, 64, KvType::F16, KvType::F16);
    let head = Head::new(&mut noise, layout, (100..150).collect());
    let params = AttendParams { scale: 0.125, softcap: None, window: None };
    for m in [1, 40] {
        let (q, q_positions) = (noise.values(m * 2 * 64), (0..m as u32).collect());
        let head = Head { layout, pages: head.pages.clone(), positions: head.positions.clone() };
        let case = Case { heads: vec![head], group: 2, q, q_positions, params };
        for isa in Isa::available() {
            let answer = case.run(isa, 1);
            assert!(answer.out.iter().all(|x| *x == 0.0), "{isa}");
            assert!(answer.lse.iter().all(|x| *x == f32::NEG_INFINITY), "{isa}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_their_numbers() {
    let layout = PageLayout::new(64, 64, KvType::F16, KvType::F16);
    let page = vec![0u8; layout.page_bytes()];
    let positions: Vec<u32> = (0..17).collect();
    let pages = [&page[..]];
    let heads = [HeadView { layout, pages: &pages, positions: &positions }];
    let params = AttendParams { scale: 1.0, softcap: None, window: None };
    let q = [0.0; 64];
    let run = |q: &[f32], q_heads: usize, heads: &[HeadView], out: &mut [f32]| {
        let input = AttendInput { q, q_positions: &[20], q_heads, heads, params };
        attend(&Pool::new(1), Isa::best(), &input, out, None, &mut AttendScratch::default())
    };
    let too_few_pages = run(&q, 1, &heads, &mut [0.0; 64]);
    assert!(matches!(too_few_pages, Err(KernelError::Length { expected: 2, got: 1, .. })), "{too_few_pages:?}");
    let heads = [HeadView { layout, pages: &pages, positions: &positions[..16] }];
    assert_eq!(run(&q, 1, &heads, &mut [0.0; 64]), Ok(()));
    let short_output = run(&q, 1, &heads, &mut [0.0; 63]);
    assert!(matches!(short_output, Err(KernelError::Length { expected: 64, got: 63, .. })), "{short_output:?}");
    assert!(matches!(run(&q, 0, &[], &mut []), Err(KernelError::Mismatch { .. })));
}
