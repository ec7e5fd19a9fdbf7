//! Ragged attention against its scalar twin, and the twin against the textbook.
#![allow(clippy::unwrap_used)]

mod ragged;

use meden_kernels::KernelError;
use meden_kernels::attention::{
    AttendInput, AttendParams, AttendScratch, HeadView, KvType, PageLayout, attend, attend_lse,
};
use meden_kernels::isa::Isa;
use meden_kernels::pool::Pool;
use proptest::prelude::*;
use ragged::{Case, Head, Noise, cases, positions};

struct Answer {
    out: Vec<f32>,
    lse: Vec<f32>,
}

fn run(case: &Case, isa: Isa, threads: usize) -> Answer {
    run_some(case, isa, threads, 0..case.q_positions.len())
}

fn run_some(case: &Case, isa: Isa, threads: usize, queries: std::ops::Range<usize>) -> Answer {
    let rows = queries.len() * case.q_heads();
    let (mut out, mut lse) = (vec![f32::NAN; rows * case.heads[0].layout.value_dim()], vec![f32::NAN; rows]);
    let mut scratch = AttendScratch::default();
    case.with(queries, |input| attend(&Pool::new(threads), isa, input, &mut out, Some(&mut lse), &mut scratch))
        .expect("sizes fit");
    Answer { out, lse }
}

/// Softmax attention in f64 over every slot, hidden ones at minus infinity; nothing clever.
fn textbook(case: &Case) -> Answer {
    let value_dim = case.heads[0].layout.value_dim();
    let (mut out, mut lse) = (vec![], vec![]);
    for i in 0..case.q_positions.len() {
        for h in 0..case.q_heads() {
            let head = &case.heads[h / case.group];
            let logits = case.logits(i, h);
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let (mut row, mut values) = (vec![0.0f64; value_dim], vec![0.0; value_dim]);
            let mut total = 0.0;
            for (slot, logit) in logits.iter().enumerate().filter(|l| *l.1 > f64::NEG_INFINITY) {
                let weight = (logit - top).exp();
                total += weight;
                let (page, at) = head.place(slot);
                head.layout.read_value(&head.pages[page], at, &mut values);
                row.iter_mut().zip(&values).for_each(|(o, v)| *o += weight * f64::from(*v));
            }
            let total_or_one = if total == 0.0 { 1.0 } else { total };
            out.extend(row.iter().map(|o| (o / total_or_one) as f32));
            lse.push((top + total.ln()) as f32);
        }
    }
    Answer { out, lse }
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_agrees_with_the_textbook(case in cases()) {
        let expected = textbook(&case);
        for isa in Isa::available() {
            close(&run(&case, isa, 1), &expected, 1e-5)?;
        }
    }

    #[test]
    fn two_threads_give_the_bits_of_one(case in cases()) {
        for isa in Isa::available() {
            prop_assert_eq!(bits(&run(&case, isa, 1)), bits(&run(&case, isa, 2)));
        }
        // Wider vectors keep the order of every sum.
        for isa in Isa::available().into_iter().filter(|&isa| isa > Isa::Avx2) {
            prop_assert_eq!(bits(&run(&case, isa, 1)), bits(&run(&case, Isa::Avx2, 1)), "{} against avx2", isa);
        }
    }
}

/// The logarithms alone have the bits they have beside the outputs, on both paths.
#[test]
fn lse_alone_is_the_lse_of_attention() {
    let mut noise = Noise(5);
    for m in [1, 4, 50] {
        let layout = PageLayout::new(80, 64, KvType::Q8, KvType::F16);
        let heads = [300, 0, 77].map(|n| {
            let positions = positions(&mut noise, n, 900);
            Head::new(&mut noise, layout, positions)
        });
        let params = AttendParams { scale: 0.125, softcap: Some(30.0), window: Some(500) };
        let q_positions = (600..600 + m as u32).collect();
        let case = Case { heads: heads.into(), group: 2, q: noise.values(m * 6 * 80), q_positions, params };
        for isa in Isa::available() {
            let mut lse = vec![f32::NAN; m * 6];
            let mut scratch = AttendScratch::default();
            let alone = |input: &AttendInput| attend_lse(&Pool::new(2), isa, input, &mut lse, &mut scratch);
            case.with(0..m, alone).unwrap();
            assert!(lse.iter().any(|x| x.is_finite()));
            let out = vec![];
            assert_eq!(bits(&Answer { out, lse }), bits(&Answer { out: vec![], ..run(&case, isa, 1) }), "{isa}, {m}");
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
                let whole = run(&case, isa, 1);
                let parts: Vec<Answer> = cuts.windows(2).map(|cut| run_some(&case, isa, 2, cut[0]..cut[1])).collect();
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
        heads: vec![Head { layout, pages, positions, starts: Vec::new() }],
        group,
        q,
        q_positions: (n..n + m as u32).collect(),
        params,
    };
    for isa in Isa::available() {
        for (got, expected) in run(&case, isa, 2).out.iter().zip(&expected) {
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
        let head = Head { layout, pages: head.pages.clone(), positions: head.positions.clone(), starts: Vec::new() };
        let case = Case { heads: vec![head], group: 2, q, q_positions, params };
        for isa in Isa::available() {
            let answer = run(&case, isa, 1);
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
    let heads = [HeadView { layout, pages: &pages, positions: &positions, starts: &[] }];
    let params = AttendParams { scale: 1.0, softcap: None, window: None };
    let q = [0.0; 64];
    let run = |q: &[f32], q_heads: usize, heads: &[HeadView], out: &mut [f32]| {
        let input = AttendInput { q, q_positions: &[20], q_heads, heads, params };
        attend(&Pool::new(1), Isa::best(), &input, out, None, &mut AttendScratch::default())
    };
    let too_few_pages = run(&q, 1, &heads, &mut [0.0; 64]);
    assert!(matches!(too_few_pages, Err(KernelError::Length { expected: 2, got: 1, .. })), "{too_few_pages:?}");
    let heads = [HeadView { layout, pages: &pages, positions: &positions[..16], starts: &[] }];
    assert_eq!(run(&q, 1, &heads, &mut [0.0; 64]), Ok(()));
    let short_output = run(&q, 1, &heads, &mut [0.0; 63]);
    assert!(matches!(short_output, Err(KernelError::Length { expected: 64, got: 63, .. })), "{short_output:?}");
    assert!(matches!(run(&q, 0, &[], &mut []), Err(KernelError::Mismatch { .. })));
}
