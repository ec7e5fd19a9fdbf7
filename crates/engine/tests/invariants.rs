//! What scores and choices have to satisfy, whatever their formulas.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{ids, kept, run};
use meden_engine::{KvTypes, Model, Policy, PressSpec, Rounding, Session, SessionOptions};

fn policy(press: &str, budget: &str) -> Policy {
    Policy {
        schedule: "prefill_end".parse().unwrap(),
        skip_layers: Some(vec![]),
        sinks: 2,
        recents: 3,
        ..Policy::new(press.parse().unwrap(), budget.parse().unwrap())
    }
}

/// A dense session that has gathered what the presses need.
fn dense(model: &Arc<Model>, presses: &[&str], text: &[u32]) -> Session {
    let watch: Vec<PressSpec> = presses.iter().map(|press| press.parse().unwrap()).collect();
    let options = SessionOptions { kv_type: KvTypes::F32, watch, ..SessionOptions::default() };
    let mut session = Session::new(model.clone(), options).unwrap();
    run(&mut session, text);
    session
}

fn scores(session: &Session, press: &str, layer: usize) -> Vec<Vec<f32>> {
    session.press_scores(layer, &policy(press, "50%")).unwrap().0.rows().to_vec()
}

/// Presses whose scores do not depend on how much is to stay.
const FREE_OF_THE_SHARE: [&str; 14] = [
    "knorm",
    "knorm_high",
    "streaming_llm",
    "keydiff",
    "cur",
    "lagkv(lag_size=8)",
    "snapkv(window_size=4)",
    "tova",
    "dropkv(window_size=4)",
    "observed_attention",
    "expected_attention",
    "cap",
    "leverage_score",
    "non_causal_attention(chunk_size=16)",
];

#[test]
fn what_a_small_budget_keeps_a_larger_one_keeps_too() {
    for name in ["llama", "qwen3"] {
        let Some(model) = common::tiny_once(name) else { return };
        let session = dense(&model, &FREE_OF_THE_SHARE, &ids(80));
        for press in FREE_OF_THE_SHARE {
            let sets: Vec<_> = ["20%", "40%", "70%", "100%"]
                .map(|budget| {
                    let mut fork = session.fork().unwrap();
                    fork.compress(&policy(press, budget)).unwrap();
                    kept(&fork)
                })
                .into();
            for pair in sets.windows(2) {
                for (few, many) in pair[0].iter().flatten().zip(pair[1].iter().flatten()) {
                    assert!(few.len() <= many.len() && few.iter().all(|p| many.contains(p)), "{name}, {press}");
                }
            }
        }
    }
}

/// The score of a slot says nothing of the others where a formula looks at one key alone.
#[test]
fn local_scores_stay_when_other_slots_go() {
    let Some(model) = common::tiny_once("llama") else { return };
    let keep: Vec<u32> = (0..60).filter(|p| p % 3 != 1).collect();
    for press in ["knorm", "knorm_high"] {
        let mut session = dense(&model, &[press], &ids(60));
        let before = scores(&session, press, 2);
        for head in 0..model.config().kv_heads {
            session.keep_slots(2, head, &keep).unwrap();
        }
        let after = scores(&session, press, 2);
        for (before, after) in before.iter().zip(&after) {
            let same = keep.iter().map(|&slot| before[slot as usize]);
            assert!(same.eq(after.iter().copied()), "{press}");
        }
    }
    // and where it looks at all of them, they say something
    let mut session = dense(&model, &["keydiff"], &ids(60));
    let before = scores(&session, "keydiff", 2)[0].clone();
    session.keep_slots(2, 0, &keep).unwrap();
    let after = scores(&session, "keydiff", 2)[0].clone();
    assert!(keep.iter().zip(&after).any(|(&slot, a)| (before[slot as usize] - a).abs() > 1e-6));
}

#[test]
fn random_differs_between_layers_heads_and_seeds_and_repeats_itself() {
    let Some(model) = common::tiny_once("llama") else { return };
    let session = dense(&model, &["random"], &ids(60));
    let again = dense(&model, &["random"], &ids(60));
    let first = scores(&session, "random", 1);
    assert_eq!(first, scores(&again, "random", 1));
    assert_ne!(first[0], first[1], "heads");
    assert_ne!(first, scores(&session, "random", 2), "layers");
    assert_ne!(first, scores(&session, "random(seed=9)", 1), "seeds");
    assert!(first.iter().flatten().all(|s| (0.0..1.0).contains(s)));
}

/// A limit that no cosine reaches leaves every value alone: merging is then eviction, to the byte.
#[test]
fn merging_above_every_similarity_is_eviction() {
    let Some(model) = common::tiny_once("llama") else { return };
    let session = dense(&model, &["snapkv(window_size=4)"], &ids(80));
    let pressed = |press: &str| {
        let mut fork = session.fork().unwrap();
        fork.compress(&policy(press, "40%")).unwrap();
        fork
    };
    let (mut plain, mut merged, mut blended) = (
        pressed("snapkv(window_size=4)"),
        pressed("merging(snapkv(window_size=4), similarity_threshold=1.01)"),
        pressed("merging(snapkv(window_size=4))"),
    );
    assert_eq!((kept(&plain), plain.stats().kv_bytes), (kept(&merged), merged.stats().kv_bytes));
    assert_eq!((kept(&plain), plain.stats().kv_bytes), (kept(&blended), blended.stats().kv_bytes), "bytes");
    let keys =
        |s: &Session| s.cache().layers().iter().flat_map(|l| l.heads()).flat_map(|h| h.keys()).collect::<Vec<_>>();
    assert_eq!(keys(&plain), keys(&blended), "keys are never changed");
    let (a, b, c) = (run(&mut plain, &[5]), run(&mut merged, &[5]), run(&mut blended, &[5]));
    assert_eq!(a, b);
    assert_ne!(a, c, "below the limit values are changed");
}

/// Norms and attention come from keys as they were before rounding: the choice does not depend on the type of the cache.
#[test]
fn scores_of_norms_are_those_before_rounding_in_every_type() {
    let Some(model) = common::tiny_once("llama") else { return };
    let of = |kv_type| {
        let mut session = Session::new(model.clone(), SessionOptions { kv_type, ..SessionOptions::default() }).unwrap();
        run(&mut session, &ids(60));
        // the first layer reads what no cache has touched
        scores(&session, "knorm", 0)
    };
    let exact = of(KvTypes::F32);
    for kv_type in [KvTypes::F16, KvTypes::Q8, KvTypes::Q4, KvTypes::Q8_Q4, KvTypes::Q4C_Q8] {
        assert_eq!(exact, of(kv_type), "{kv_type}");
    }
}

#[test]
fn the_named_rounding_is_that_of_kvpress() {
    let Some(model) = common::tiny_once("llama") else { return };
    for (n, share, ours, theirs) in [(100, "10%", 10, 9), (50, "90%", 45, 45), (33, "50%", 17, 16)] {
        for (rounding, want) in [(Rounding::Meden, ours), (Rounding::Kvpress, theirs)] {
            let policy = Policy { rounding, sinks: 0, recents: 0, ..policy("knorm", share) };
            let options = SessionOptions { policy: Some(policy), ..SessionOptions::default() };
            let mut session = Session::new(model.clone(), options).unwrap();
            run(&mut session, &ids(n));
            assert!(kept(&session).iter().flatten().all(|head| head.len() == want), "{share} of {n}, {rounding:?}");
        }
    }
}
