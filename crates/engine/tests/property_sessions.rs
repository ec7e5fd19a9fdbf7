//! Whole sessions under random presses, budgets, schedules, skip sets and text lengths: what has to hold always.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ids, kept, presses};
use meden_engine::press::policy::PrefillSchedule;
use meden_engine::{
    Budget, Control, EngineError, KvTypes, LogitRows, Policy, Schedule, Session, SessionOptions, SkipOverflow,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Case {
    model: &'static str,
    options: SessionOptions,
    pieces: Vec<usize>,
}

fn budget() -> impl Strategy<Value = Budget> {
    prop_oneof![
        (1u32..=100).prop_map(|p| Budget::Ratio(f64::from(p) / 100.0)),
        (1usize..40).prop_map(Budget::Tokens),
        (2_000u64..400_000).prop_map(Budget::Bytes),
    ]
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let prefill = prop_oneof![
        Just(PrefillSchedule::None),
        Just(PrefillSchedule::End),
        (1usize..20).prop_map(PrefillSchedule::Chunk)
    ];
    (prefill, proptest::option::of(1usize..12)).prop_map(|(prefill, decode_every)| match (prefill, decode_every) {
        (PrefillSchedule::None, None) => Schedule::prefill_end(),
        _ => Schedule { prefill, decode_every },
    })
}

fn case() -> impl Strategy<Value = Case> {
    let model = prop_oneof![Just("llama"), Just("qwen3"), Just("gemma3"), Just("llama-mha-bias")];
    let kv = prop_oneof![
        Just(KvTypes::F32),
        Just(KvTypes::F16),
        Just(KvTypes::Q8),
        Just(KvTypes::Q4),
        Just(KvTypes::Q4C_Q8)
    ];
    let protect = (0usize..6, 0usize..10);
    let skip = proptest::collection::btree_set(0usize..3, 0..3);
    let overflow = prop_oneof![Just(SkipOverflow::Window), Just(SkipOverflow::Grow)];
    let pieces = proptest::collection::vec(1usize..40, 1..6);
    (model, 0usize..4, kv, budget(), schedule(), protect, skip, overflow, 1usize..50, pieces).prop_map(
        |(model, press, kv_type, budget, schedule, (sinks, recents), skip, skip_overflow, prefill_chunk, pieces)| {
            let skip_layers = Some(skip.into_iter().collect());
            let base = Policy::new(presses()[press].clone(), budget);
            let policy = Policy { schedule, sinks, recents, skip_layers, skip_overflow, ..base };
            Case {
                model,
                options: SessionOptions { kv_type, policy: Some(policy), prefill_chunk, ..SessionOptions::default() },
                pieces,
            }
        },
    )
}

/// Reads the pieces; at each step the cache is what it says it is.
fn read(session: &mut Session, pieces: &[usize], policy: &Policy) -> Result<Vec<f32>, TestCaseError> {
    let text = ids(pieces.iter().sum());
    let (mut done, mut logits) = (0, Vec::new());
    for &size in pieces {
        let before = session.seen();
        match session.forward(&text[done..done + size], LogitRows::Last, &mut Control::default()) {
            Ok(row) => logits = row,
            Err(EngineError::Setting { .. }) => {
                // A budget that only now turns out to be too small: refused, and nothing half-read stays.
                prop_assert_eq!(session.seen() >= before, true);
                return Ok(logits);
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
        done += size;
        prop_assert_eq!(session.seen(), done);
        prop_assert!(logits.iter().all(|l| l.is_finite()));
        let layers = session.cache().layers();
        for (number, (layer, heads)) in layers.iter().zip(kept(session)).enumerate() {
            for positions in heads {
                prop_assert!(positions.windows(2).all(|w| w[0] < w[1]), "positions increase");
                prop_assert_eq!(positions.last().copied(), Some(done as u32 - 1), "the newest token survives");
                if layer.window().is_some() {
                    continue;
                }
                let sinks = policy.sinks.min(done) as u32;
                prop_assert!((0..sinks).all(|p| positions.contains(&p)), "layer {number}: a sink is gone");
            }
        }
        let stats = session.stats();
        let held: usize = layers.iter().flat_map(|l| l.heads()).map(|h| h.page_bytes() + h.metadata_bytes()).sum();
        prop_assert_eq!(stats.kv_bytes, held as u64, "reported bytes are those of the pages and what lies beside them");
    }
    Ok(logits)
}

/// With tokens as the budget and the bounded overflow, no head is longer than budget, interval and one chunk allow.
fn check_bound(session: &Session, options: &SessionOptions) -> Result<(), TestCaseError> {
    let policy = options.policy.as_ref().unwrap();
    let (Budget::Tokens(budget), SkipOverflow::Window) = (policy.budget, policy.skip_overflow) else { return Ok(()) };
    let Some(every) = policy.schedule.decode_every else { return Ok(()) };
    for layer in session.cache().layers().iter().filter(|l| l.window().is_none()) {
        prop_assert!(layer.max_len() < budget + every, "{} slots, budget {budget}, every {every}", layer.max_len());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cache_is_always_what_it_says_and_a_fork_goes_on_alike(case in case()) {
        let Some(model) = common::tiny_once(case.model) else { return Ok(()) };
        let mut session = match Session::new(model.clone(), case.options.clone()) {
            Ok(session) => session,
            // A policy that cannot be carried out is refused with what could be.
            Err(EngineError::Press { why, .. }) => {
                prop_assert!(why.contains("smallest") || why.contains("skip") || why.contains("share"), "{why}");
                return Ok(());
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        let policy = case.options.policy.clone().unwrap();
        let logits = read(&mut session, &case.pieces, &policy)?;
        if session.seen() < case.pieces.iter().sum::<usize>() {
            return Ok(());
        }
        check_bound(&session, &case.options)?;

        // Once more: the same cache, the same logits, bit by bit.
        let mut again = Session::new(model, case.options.clone()).unwrap();
        let repeated = read(&mut again, &case.pieces, &policy)?;
        prop_assert_eq!(kept(&again), kept(&session));
        prop_assert!(logits.iter().zip(&repeated).all(|(a, b)| a.to_bits() == b.to_bits()));

        // A fork that goes elsewhere leaves its parent alone; the parent then goes on as its twin does.
        let before = kept(&session);
        let mut fork = session.fork().unwrap();
        let more = [7, 8, 9, 10, 11];
        let _ = fork.forward(&more, LogitRows::None, &mut Control::default());
        prop_assert_eq!(kept(&session), before);
        let a = session.forward(&more[..2], LogitRows::Last, &mut Control::default());
        let b = again.forward(&more[..2], LogitRows::Last, &mut Control::default());
        match (a, b) {
            (Ok(a), Ok(b)) => prop_assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits())),
            (a, b) => prop_assert_eq!(a.is_err(), b.is_err()),
        }
    }
}
