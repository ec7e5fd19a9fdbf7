//! What a session promises: true positions, forks, rewinds, saved files, and a state that survives failures.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::AtomicBool;

use common::{ids, kept, max_diff, open, policy, presses, run};
use meden_engine::hook::{Hook, Site, SiteVisit};
use meden_engine::{Control, EngineError, KvTypes, Session, SessionOptions};

#[test]
fn forks_share_pages_until_they_write_and_never_touch_each_other() {
    let Some(model) = common::tiny("llama") else { return };
    let mut parent = open(&model, Some(policy(&presses()[0], "24", "decode_every:4")));
    run(&mut parent, &ids(21));
    let pages = parent.cache().slab().live_pages();
    let mut child = parent.fork().unwrap();
    assert_eq!(parent.cache().slab().live_pages(), pages, "a fork copies no page");
    let before = kept(&parent);
    let mut alone = open(&model, Some(policy(&presses()[0], "24", "decode_every:4")));
    run(&mut alone, &ids(21));
    // the child diverges and evicts
    run(&mut child, &[5; 60]);
    assert_eq!(kept(&parent), before);
    let (a, b) = (run(&mut parent, &ids(30)), run(&mut alone, &ids(30)));
    assert!(a.iter().zip(&b).all(|(x, y)| x.to_bits() == y.to_bits()), "the parent does not feel its fork");
    drop(child);
    drop(parent);
    drop(alone);
}

#[test]
fn a_rewind_goes_back_exactly_and_is_refused_past_an_eviction() {
    let Some(model) = common::tiny("llama") else { return };
    let mut session = open(&model, None);
    run(&mut session, &ids(30));
    let first = run(&mut session, &[7, 8, 9]);
    run(&mut session, &ids(20));
    session.rewind(30).unwrap();
    assert_eq!(session.seen(), 30);
    assert_eq!(first, run(&mut session, &[7, 8, 9]));
    assert!(matches!(session.rewind(99), Err(EngineError::RewindForward { to: 99, seen: 33 })));

    let mut pressed = open(&model, Some(policy(&presses()[0], "8", "decode_every:4")));
    run(&mut pressed, &ids(12)); // evicts at 12
    run(&mut pressed, &ids(2));
    pressed.rewind(12).unwrap();
    assert!(matches!(pressed.rewind(11), Err(EngineError::RewindPastEviction { to: 11, evicted_at: 12 })));

    let Some(sliding) = common::tiny("mistral-sliding") else { return };
    let mut session = open(&sliding, None);
    run(&mut session, &ids(300));
    assert!(session.rewind(299).is_ok(), "the window before is still there");
    assert!(matches!(session.rewind(100), Err(EngineError::RewindPastEviction { .. })), "its pages were freed");
    session.rewind(0).unwrap();
    run(&mut session, &ids(5));
}

#[test]
fn a_saved_session_goes_on_bit_identically() {
    let Some(model) = common::tiny("gemma3") else { return };
    let dir = std::env::temp_dir().join(format!("meden-session-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("s.kv");
    for kv_type in [KvTypes::F32, KvTypes::F16, KvTypes::Q8, KvTypes::Q4C_Q8, KvTypes::Q8_Q4] {
        let options = SessionOptions {
            kv_type,
            policy: Some(policy(&presses()[0], "24", "decode_every:4")),
            ..SessionOptions::default()
        };
        let mut session = Session::new(model.clone(), options).unwrap();
        run(&mut session, &ids(50));
        session.save(&path).unwrap();
        let mut restored = Session::restore(model.clone(), &path).unwrap();
        assert_eq!(restored.history(), session.history());
        assert_eq!(kept(&restored), kept(&session));
        let (a, b) = (run(&mut session, &ids(40)), run(&mut restored, &ids(40)));
        assert!(a.iter().zip(&b).all(|(x, y)| x.to_bits() == y.to_bits()));
        assert_eq!(restored.stats().evicted, session.stats().evicted);
    }
    // any damaged byte, any cut, another model: refused, with a reason
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(good.len() / 97) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(Session::restore(model.clone(), &path), Err(EngineError::Snapshot { .. })), "byte {at}");
        std::fs::write(&path, &good[..at]).unwrap();
        assert!(matches!(Session::restore(model.clone(), &path), Err(EngineError::Snapshot { .. })), "cut at {at}");
    }
    std::fs::write(&path, &good).unwrap();
    if let Some(other) = common::tiny("llama") {
        let error = Session::restore(other, &path).unwrap_err().to_string();
        assert!(error.contains("another model"), "{error}");
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "no half-written file stays");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Cancels, or fails, behind a layer's attention once position 16 goes by.
struct Stop<'a> {
    flag: &'a AtomicBool,
    layer: usize,
    fail: bool,
}

impl Hook for Stop<'_> {
    fn name(&self) -> &str {
        "stop"
    }
    fn wants(&self, site: Site, layer: usize) -> bool {
        site == Site::ResidMid && layer == self.layer
    }
    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        if visit.positions[0] >= 16 {
            self.flag.store(true, std::sync::atomic::Ordering::Relaxed);
            if self.fail {
                return Err(EngineError::Hook { hook: "stop".into(), why: "on purpose".into() });
            }
        }
        Ok(())
    }
}

fn stopped(session: &mut Session, layer: usize, fail: bool) -> EngineError {
    let flag = AtomicBool::new(false);
    let mut hook = Stop { flag: &flag, layer, fail };
    let mut control = Control { cancel: Some(&flag), hooks: vec![&mut hook], ..Control::default() };
    session.prefill(&ids(40), &mut control).unwrap_err()
}

#[test]
fn a_cancelled_or_failed_call_leaves_the_session_as_it_was() {
    let Some(model) = common::tiny("llama") else { return };
    for fail in [false, true] {
        let mut options = open(&model, None).options().clone();
        options.prefill_chunk = 8;
        let mut session = Session::new(model.clone(), options.clone()).unwrap();
        let error = stopped(&mut session, 1, fail);
        if !fail {
            assert!(matches!(error, EngineError::Cancelled { done: 16, total: 40, pressed_layers: 0 }), "{error}");
        }
        assert_eq!(session.seen(), 16);
        assert!(kept(&session).iter().flatten().all(|h| h.len() == 16));
        let rest = session.prefill(&ids(40)[16..], &mut Control::default()).unwrap();
        let mut fresh = Session::new(model.clone(), options).unwrap();
        assert_eq!(rest, fresh.prefill(&ids(40), &mut Control::default()).unwrap(), "and it can go on from there");
        assert_eq!(session.stats().notes, fresh.stats().notes);
    }
}

#[test]
fn what_a_press_evicted_for_an_interrupted_piece_is_told() {
    let Some(model) = common::tiny("llama") else { return };
    let layers = model.config().layers;
    let told = |session: &Session| session.stats().notes.into_iter().find(|note| note.contains("interrupted"));
    let mut last = 0;
    // a piece that is cancelled in the last layer is finished
    for (layer, fail) in (0..layers - 1).map(|layer| (layer, false)).chain((0..layers).map(|layer| (layer, true))) {
        let mut session = open(&model, Some(policy(&presses()[0], "18", "prefill_chunk:8")));
        let error = stopped(&mut session, layer, fail);
        assert_eq!(session.seen(), 16);
        let pressed: Vec<bool> = kept(&session).iter().map(|heads| heads.iter().any(|h| h.len() < 16)).collect();
        let count = pressed.iter().filter(|p| **p).count();
        // a layer that is skipped goes only over what its window holds; the others went down to 18 of 24, 16 of 16
        assert_eq!(pressed[..layer + 1], vec![true; layer + 1]);
        assert!(!pressed[layer + 1..].contains(&true), "the layers behind were not reached");
        if let EngineError::Cancelled { pressed_layers, .. } = error {
            assert_eq!(pressed_layers, count);
            assert!(error.to_string().contains(&format!("{count} layer")), "{error}");
        } else {
            assert!(fail, "{error}");
        }
        let note = told(&session).unwrap();
        assert!(note.contains(&format!("{count} of {layers} layers")), "{note}");
        session.rewind(16).unwrap();
        let path = std::env::temp_dir().join(format!("meden-interrupted-{}.kv", std::process::id()));
        session.save(&path).unwrap();
        assert_eq!(told(&Session::restore(model.clone(), &path).unwrap()), Some(note.clone()));
        std::fs::remove_file(path).unwrap();
        assert_eq!(told(&session.fork().unwrap()), Some(note));
        session.prefill(&ids(40)[16..], &mut Control::default()).unwrap();
        last = count;
    }
    assert_eq!(last, layers);
}

#[test]
fn bad_ids_and_long_texts_are_refused_with_their_numbers() {
    let Some(model) = common::tiny("llama") else { return };
    let (vocab, context) = (model.config().vocab, model.config().context);
    let mut session = open(&model, None);
    let error = session.prefill(&[1, vocab as u32], &mut Control::default()).unwrap_err();
    assert!(matches!(error, EngineError::TokenId { .. }), "{error}");
    let error = session.prefill(&ids(context + 1), &mut Control::default()).unwrap_err().to_string();
    assert!(error.contains(&context.to_string()) && error.contains(&(context + 1).to_string()), "{error}");
    assert_eq!(session.seen(), 0);
}

#[test]
fn after_an_eviction_the_next_position_is_the_number_of_tokens_seen() {
    // A reference without a cache that moves: the same kept positions in a dense cache, chosen by hand.
    let Some(model) = common::tiny("llama") else { return };
    let mut pressed = open(&model, Some(policy(&presses()[0], "12", "prefill_end")));
    pressed.prefill(&ids(60), &mut Control::default()).unwrap();
    let mut by_hand = open(&model, None);
    by_hand.prefill(&ids(60), &mut Control::default()).unwrap();
    for (layer, heads) in kept(&pressed).into_iter().enumerate() {
        for (head, positions) in heads.into_iter().enumerate() {
            by_hand.keep_slots(layer, head, &positions).unwrap();
        }
    }
    assert_eq!((pressed.seen(), by_hand.seen()), (60, 60));
    assert_eq!(run(&mut pressed, &[5, 6, 7]), run(&mut by_hand, &[5, 6, 7]));
    let last = kept(&pressed)[1][0].last().copied();
    assert_eq!(last, Some(62));
    // were slots taken for positions, keys rotated for 60.. would be read from 12..: a different answer
    let mut slots = open(&model, None);
    slots.prefill(&ids(12), &mut Control::default()).unwrap();
    assert!(max_diff(&run(&mut pressed, &[5]), &run(&mut slots, &[5])) > 1e-3);
}

#[test]
fn evicting_in_two_steps_is_evicting_the_union() {
    let Some(model) = common::tiny("llama") else { return };
    let mut two = open(&model, None);
    run(&mut two, &ids(40));
    let mut one = two.fork().unwrap();
    let first: Vec<u32> = (0..40).filter(|p| p % 3 != 0).collect();
    two.keep_slots(1, 0, &first).unwrap();
    let second: Vec<u32> = (0..first.len() as u32).filter(|p| p % 2 == 0).collect();
    two.keep_slots(1, 0, &second).unwrap();
    let union: Vec<u32> = second.iter().map(|&s| first[s as usize]).collect();
    one.keep_slots(1, 0, &union).unwrap();
    assert_eq!(kept(&one), kept(&two));
    assert_eq!(run(&mut one, &[3, 4]), run(&mut two, &[3, 4]));
    assert!(one.keep_slots(1, 0, &[4, 3]).is_err());
    assert!(one.keep_slots(9, 0, &[]).is_err());
}
