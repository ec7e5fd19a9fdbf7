//! Attention mass by column: the scalar twin against the textbook, the vector path against the twin.
#![allow(clippy::unwrap_used)]

mod ragged;

use meden_kernels::KernelError;
use meden_kernels::attention::{
    AttendParams, AttendScratch, Columns, KvType, PageLayout, Reduce, attend_lse, attention_columns,
};
use meden_kernels::isa::Isa;
use meden_kernels::pool::Pool;
use proptest::prelude::*;
use ragged::{Case, Head, Noise, cases, positions};
use std::ops::Range;

type Mass = Vec<Vec<f32>>;

/// How a case is asked.
#[derive(Clone, Copy)]
struct Ask {
    isa: Isa,
    threads: usize,
    reduce: Reduce,
    weighted: bool,
}

impl Ask {
    /// Adds some queries to `out`.
    fn add(&self, case: &Case, queries: Range<usize>, out: &mut Mass) {
        let pool = Pool::new(self.threads);
        let mut scratch = AttendScratch::default();
        let lse = lse(case, self.isa);
        let weights = weights(case);
        let q_heads = case.q_heads();
        case.with(queries.clone(), |input| {
            let columns = Columns {
                input,
                lse: &lse[queries.start * q_heads..queries.end * q_heads],
                weights: self.weighted.then_some(&weights[queries]),
                reduce: self.reduce,
            };
            attention_columns(&pool, self.isa, &columns, out, &mut scratch)
        })
        .expect("sizes fit");
    }

    fn run(&self, case: &Case) -> Mass {
        let mut out = untouched(case, self.reduce);
        self.add(case, 0..case.q_positions.len(), &mut out);
        out
    }
}

/// A start that tells "no query sees it" from "little mass".
fn untouched(case: &Case, reduce: Reduce) -> Mass {
    let start = match reduce {
        Reduce::Sum => 0.25,
        Reduce::Max => -1.0,
    };
    (0..case.q_heads()).map(|h| vec![start; case.heads[h / case.group].positions.len()]).collect()
}

fn lse(case: &Case, isa: Isa) -> Vec<f32> {
    let m = case.q_positions.len();
    let mut lse = vec![f32::NAN; m * case.q_heads()];
    let mut scratch = AttendScratch::default();
    case.with(0..m, |input| attend_lse(&Pool::new(1), isa, input, &mut lse, &mut scratch)).expect("sizes fit");
    lse
}

fn weights(case: &Case) -> Vec<f32> {
    (0..case.q_positions.len()).map(|i| 0.5 + (i % 7) as f32).collect()
}

/// Every weight from the f64 softmax, put together by the definition.
fn textbook(case: &Case, reduce: Reduce, weighted: bool) -> Mass {
    let mut out = untouched(case, reduce);
    for (h, row) in out.iter_mut().enumerate() {
        let mut sums: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
        for i in 0..case.q_positions.len() {
            let logits = case.logits(i, h);
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|l| (l - top).exp()).sum();
            let factor = if weighted { f64::from(weights(case)[i]) } else { 1.0 };
            for (sum, logit) in sums.iter_mut().zip(logits).filter(|(_, l)| *l > f64::NEG_INFINITY) {
                let mass = factor * (logit - top).exp() / total;
                *sum = if reduce == Reduce::Max { sum.max(mass) } else { *sum + mass };
            }
        }
        row.iter_mut().zip(sums).for_each(|(r, s)| *r = s as f32);
    }
    out
}

fn close(got: &Mass, expected: &Mass) -> Result<(), TestCaseError> {
    for (h, (got, expected)) in got.iter().zip(expected).enumerate() {
        prop_assert_eq!(got.len(), expected.len());
        for (slot, (g, e)) in got.iter().zip(expected).enumerate() {
            prop_assert!((g - e).abs() <= 2e-5 * e.abs() + 1e-7, "head {h}, slot {slot}: {g} against {e}");
        }
    }
    Ok(())
}

fn bits(mass: &Mass) -> Vec<u32> {
    mass.iter().flatten().map(|x| x.to_bits()).collect()
}

fn reduces() -> impl Strategy<Value = Reduce> {
    prop::sample::select(vec![Reduce::Sum, Reduce::Max])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_agrees_with_the_textbook(case in cases(), reduce in reduces(), weighted: bool) {
        let expected = textbook(&case, reduce, weighted);
        for isa in Isa::available() {
            close(&Ask { isa, threads: 1, reduce, weighted }.run(&case), &expected)?;
        }
    }

    #[test]
    fn two_threads_give_the_bits_of_one(case in cases(), reduce in reduces()) {
        for isa in Isa::available() {
            let ask = |threads| Ask { isa, threads, reduce, weighted: true };
            prop_assert_eq!(bits(&ask(1).run(&case)), bits(&ask(2).run(&case)));
        }
    }

    #[test]
    fn pieces_give_the_bits_of_one_call(case in cases(), reduce in reduces(), cut in 0usize..=40) {
        let m = case.q_positions.len();
        let cut = cut.min(m);
        for isa in Isa::available() {
            let ask = Ask { isa, threads: 2, reduce, weighted: true };
            let mut out = untouched(&case, reduce);
            ask.add(&case, 0..cut, &mut out);
            ask.add(&case, cut..m, &mut out);
            prop_assert_eq!(bits(&out), bits(&ask.run(&case)));
        }
    }

    #[test]
    fn the_weights_of_a_query_sum_to_one(case in cases()) {
        for isa in Isa::available() {
            for i in 0..case.q_positions.len().min(3) {
                let mut out = untouched(&case, Reduce::Sum);
                out.iter_mut().for_each(|row| row.fill(0.0));
                Ask { isa, threads: 1, reduce: Reduce::Sum, weighted: false }.add(&case, i..i + 1, &mut out);
                for (h, row) in out.iter().enumerate() {
                    let sees = case.logits(i, h).iter().any(|l| *l > f64::NEG_INFINITY);
                    let sum: f64 = row.iter().map(|x| f64::from(*x)).sum();
                    prop_assert!((sum - f64::from(u8::from(sees))).abs() < 2e-5, "head {h}: {sum}");
                }
            }
        }
    }
}

fn one_head(noise: &mut Noise, slots: usize, m: usize) -> Case {
    let layout = PageLayout::new(64, 64, KvType::F32, KvType::F32);
    let positions = positions(noise, slots, 500);
    let heads = vec![Head::new(noise, layout, positions)];
    let params = AttendParams { scale: 0.125, softcap: None, window: None };
    let q_positions = (500..500 + m as u32).collect();
    Case { heads, group: 2, q: noise.values(m * 2 * 64), q_positions, params }
}

/// A damaged key must not vanish in a maximum.
#[test]
fn a_weight_that_is_not_a_number_stays_in_its_column() {
    let mut noise = Noise(9);
    for (m, reduce) in [(1, Reduce::Max), (40, Reduce::Max), (40, Reduce::Sum)] {
        let mut case = one_head(&mut noise, 100, m);
        let (isas, clean) = (Isa::available(), lse(&case, Isa::Scalar));
        let layout = case.heads[0].layout;
        layout.write(&mut case.heads[0].pages[70 / layout.tokens()], 70 % layout.tokens(), &[f32::NAN; 64], &[0.0; 64]);
        for isa in isas {
            let mut out = untouched(&case, reduce);
            let pool = Pool::new(1);
            case.with(0..m, |input| {
                let columns = Columns { input, lse: &clean, weights: None, reduce };
                attention_columns(&pool, isa, &columns, &mut out, &mut AttendScratch::default())
            })
            .unwrap();
            let damaged: Vec<usize> = (0..100).filter(|&slot| out[1][slot].is_nan()).collect();
            assert_eq!(damaged, [70], "{isa}, {reduce:?}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_their_numbers() {
    let case = one_head(&mut Noise(2), 30, 3);
    let run = |lse: &[f32], weights: Option<&[f32]>, out: &mut Mass| {
        case.with(0..3, |input| {
            let columns = Columns { input, lse, weights, reduce: Reduce::Sum };
            attention_columns(&Pool::new(1), Isa::best(), &columns, out, &mut AttendScratch::default())
        })
    };
    let mut right = vec![vec![0.0; 30]; 2];
    assert_eq!(run(&[1.0; 6], Some(&[1.0; 3]), &mut right), Ok(()));
    let refused = |result: Result<(), KernelError>, sizes: (usize, usize)| {
        let fits = matches!(result, Err(KernelError::Length { expected, got, .. }) if (expected, got) == sizes);
        assert!(fits, "{result:?} does not name {sizes:?}");
    };
    refused(run(&[1.0; 5], None, &mut right), (6, 5));
    refused(run(&[1.0; 6], Some(&[1.0; 4]), &mut right), (3, 4));
    refused(run(&[1.0; 6], None, &mut vec![vec![0.0; 30]]), (2, 1));
    refused(run(&[1.0; 6], None, &mut vec![vec![0.0; 30], vec![0.0; 29]]), (30, 29));
}
