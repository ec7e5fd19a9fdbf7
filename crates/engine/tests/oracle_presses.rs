//! The presses of this crate against what kvpress keeps: scores, kept sets, and the continuation after them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{Tensor, log_softmax, max_diff, oracle, tensors};
use meden_engine::press::registry::REGISTRY;
use meden_engine::{
    Budget, Control, KvTypes, LogitRows, Model, Policy, PressSpec, Rounding, Schedule, Session, SessionOptions,
};
use serde_json::Value;

/// One case of a file.
struct Case<'a> {
    number: usize,
    json: &'a Value,
    press: PressSpec,
    skip: Vec<usize>,
    ratio: f64,
}

impl Case<'_> {
    fn at(&self) -> String {
        format!("case {} {} at {}", self.number, self.json["name"], self.ratio)
    }
}

/// The press of a case. Its name starts with the press's, a wrapped press follows; arguments carry the same names.
fn case<'a>(number: usize, json: &'a Value, tensors: &Path) -> Case<'a> {
    let mut args = json["args"].as_object().unwrap().clone();
    let name = json["name"].as_str().unwrap();
    let skip = args.remove("skip_layers").map(|s| serde_json::from_value(s).unwrap());
    let ratio = json["ratio"].as_f64().unwrap();
    let value = if skip.is_some() {
        args["press"].clone()
    } else {
        let kinds = REGISTRY.iter().map(|p| p.name).filter(|kind| name.starts_with(kind));
        let kind = kinds.max_by_key(|kind| kind.len()).unwrap_or_else(|| panic!("{name}: no such press"));
        args.insert("kind".into(), kind.into());
        if kind == "think" {
            args.insert("key_channel_compression_ratio".into(), json["ratio"].clone());
        }
        if ["leverage_score", "compactor"].contains(&kind) {
            let sketch = serde_json::json!({"file": tensors, "tensor": format!("{number}.sketch")});
            args.insert("sketch".into(), sketch);
            let dimension = json["kvpress"]["sketch_dimension"].clone();
            args.insert("sketch_dimension".into(), dimension);
        }
        Value::Object(args)
    };
    let press = serde_json::from_value(value).unwrap_or_else(|error| panic!("{name}: {error}"));
    Case { number, json, press, skip: skip.unwrap_or_default(), ratio }
}

fn policy(case: &Case<'_>, kept: f64) -> Policy {
    let own = case.press.build().unwrap().own_budget();
    Policy {
        schedule: Schedule::prefill_end(),
        skip_layers: Some(case.skip.clone()),
        sinks: 0,
        recents: 0,
        rounding: Rounding::Kvpress,
        ..Policy::new(case.press.clone(), if own { Budget::Press } else { Budget::Ratio(kept) })
    }
}

/// The context read without a press, gathering what the cases will need.
fn dense(model: &Arc<Model>, cases: &[&Case<'_>], context: &[u32]) -> Session {
    let options = SessionOptions {
        kv_type: KvTypes::F32,
        watch: cases.iter().map(|case| case.press.clone()).collect(),
        ..SessionOptions::default()
    };
    let mut session = Session::new(model.clone(), options).unwrap();
    session.prefill(context, &mut Control::default()).unwrap();
    session
}

/// Whose scores decide: those of the press inside a wrapper that chooses by itself.
fn decides(spec: &PressSpec) -> bool {
    let own = ["criticaladakv", "chunkkv", "block"];
    !own.contains(&spec.name())
}

/// How much wider the tolerances are. Leverage solves an ill-conditioned system, the reference in f32: the same torch
/// code on the same keys differs from it by 1.5e-4 of a head's range on another machine, in f64 by 2.5e-4.
fn slack(press: &PressSpec) -> f32 {
    if ["leverage_score", "compactor"].contains(&press.name()) { 5.0 } else { 1.0 }
}

/// Scores of the reference, where it says them: within 1e-4 of the range of what is not protected.
fn compare_scores(case: &Case<'_>, whole: &Session, want: &Tensor, n: usize) {
    let config = whole.model().config();
    for layer in (0..config.layers).filter(|l| !case.skip.contains(l)) {
        let (scores, protect) = whole.press_scores(layer, &policy(case, 1.0 - case.ratio)).unwrap();
        for (head, ours) in scores.rows().iter().enumerate() {
            let at = format!("{}, layer {layer}, head {head}", case.at());
            let row = &want.f[(layer * config.kv_heads + head) * n..][..n];
            let positions = whole.cache().layers()[layer].heads()[head].positions();
            let free: Vec<usize> = (0..n).filter(|&s| !protect.covers(s, positions)).collect();
            let low = free.iter().map(|&s| row[s]).fold(f32::INFINITY, f32::min);
            let high = free.iter().map(|&s| row[s]).fold(f32::NEG_INFINITY, f32::max);
            for s in free {
                let diff = (ours[s] - row[s]).abs();
                assert!(
                    diff <= 1e-4 * slack(&case.press) * (high - low),
                    "{at}, position {s}: {} against {}",
                    ours[s],
                    row[s]
                );
            }
        }
    }
}

/// Kept sets are equal but for positions whose score lies at the boundary. Returns whether they are exactly equal.
fn compare_kept(case: &Case<'_>, pressed: &Session, whole: &Session, want: &Tensor) -> bool {
    let config = pressed.model().config();
    let n = want.i.len() / (config.layers * config.kv_heads);
    let mut exact = true;
    for layer in 0..config.layers {
        let scores = whole.press_scores(layer, &policy(case, 1.0 - case.ratio)).unwrap().0;
        let heads = pressed.cache().layers()[layer].heads();
        let set = |head: usize| -> Vec<u32> {
            let row = &want.i[(layer * config.kv_heads + head) * n..][..n];
            (0..n as u32).filter(|&p| row[p as usize] == 1).collect()
        };
        let (mine, theirs): (usize, usize) =
            (heads.iter().map(|h| h.len()).sum(), (0..heads.len()).map(|h| set(h).len()).sum());
        assert_eq!(mine, theirs, "{}, layer {layer}: number of kept slots", case.at());
        for (number, head) in heads.iter().enumerate() {
            let (at, want) = (format!("{}, layer {layer}, head {number}", case.at()), set(number));
            let kept = head.positions();
            if kept == want {
                continue;
            }
            exact = false;
            assert!(decides(&case.press), "{at}: {kept:?} against {want:?}");
            let row = &scores.rows()[number];
            if case.press.name() == "chunk" {
                swapped_equals(case, row, (kept, &want), &at);
                continue;
            }
            let pooled = case.press.name() == "adakv";
            // the boundary of the head, or of the layer where heads share a pool
            let boundary_heads = if pooled { 0..heads.len() } else { number..number + 1 };
            // the best score that was evicted: what is kept may stand below it where a head's share is guaranteed
            let evicted = boundary_heads.flat_map(|h| {
                let (row, kept) = (&scores.rows()[h], set(h));
                (0..n as u32).filter(move |p| !kept.contains(p)).map(|p| row[p as usize])
            });
            let boundary = evicted.fold(f32::NEG_INFINITY, f32::max);
            let finite = || row.iter().copied().filter(|s| s.abs() < f32::MAX);
            let range = finite().fold(f32::NEG_INFINITY, f32::max) - finite().fold(f32::INFINITY, f32::min);
            for p in kept.iter().filter(|p| !want.contains(p)).chain(want.iter().filter(|p| !kept.contains(p))) {
                let distance = (row[*p as usize] - boundary).abs();
                assert!(
                    distance <= 2e-4 * slack(&case.press) * range,
                    "{at}: position {p} is {distance} from the boundary, range {range}"
                );
            }
        }
    }
    exact
}

/// Where each chunk has a boundary of its own: what was swapped has to have equal scores, pair by pair.
fn swapped_equals(case: &Case<'_>, row: &[f32], (kept, want): (&[u32], &[u32]), at: &str) {
    let sorted = |a: &[u32], b: &[u32]| {
        let mut only: Vec<f32> = a.iter().filter(|p| !b.contains(p)).map(|&p| row[p as usize]).collect();
        only.sort_by(f32::total_cmp);
        only
    };
    let range =
        row.iter().copied().fold(f32::NEG_INFINITY, f32::max) - row.iter().copied().fold(f32::INFINITY, f32::min);
    for (a, b) in sorted(kept, want).iter().zip(sorted(want, kept)) {
        assert!((a - b).abs() <= 2e-4 * slack(&case.press) * range, "{at}: {a} was kept instead of {b}");
    }
}

fn check_case(dense: &Session, file: &BTreeMap<String, Tensor>, case: &Case<'_>, tiny: bool) {
    let (at, model) = (case.at(), dense.model());
    let (context, continuation) = (file["context"].ids(), file["continuation"].ids());
    // a press that decides itself how much stays has no ratio
    let policy = policy(case, 1.0 - case.ratio);
    let mut pressed = dense.fork().unwrap();
    pressed.compress(&policy).unwrap_or_else(|error| panic!("{at}: {error}"));
    if tiny {
        // pressed on the way, layer by layer, is the same as pressed afterwards
        let options = SessionOptions { kv_type: KvTypes::F32, policy: Some(policy), ..SessionOptions::default() };
        let mut on_the_way = Session::new(model.clone(), options).unwrap();
        on_the_way.prefill(&context, &mut Control::default()).unwrap();
        assert_eq!(common::kept(&on_the_way), common::kept(&pressed), "{at}: pressed on the way and afterwards");
    }
    let scores = file.get(&format!("{}.scores", case.number)).filter(|_| case.press.name() != "streaming_llm");
    if let Some(scores) = scores {
        compare_scores(case, dense, scores, context.len());
    }
    if let Some(kept) = file.get(&format!("{}.kept", case.number))
        && !compare_kept(case, &pressed, dense, kept)
    {
        pressed = dense.fork().unwrap();
        let n = context.len();
        for layer in 0..model.config().layers {
            for head in 0..model.config().kv_heads {
                let row = &kept.i[(layer * model.config().kv_heads + head) * n..][..n];
                let keep: Vec<u32> = (0..n as u32).filter(|&p| row[p as usize] == 1).collect();
                pressed.keep_slots(layer, head, &keep).unwrap();
            }
        }
    }
    let logits = pressed.forward(&continuation, LogitRows::All, &mut Control::default()).unwrap();
    if tiny {
        let diff = max_diff(&logits, &file[&format!("{}.logits", case.number)].f);
        assert!(diff < 5e-4, "{at}: continuation logits differ by {diff}");
    } else {
        let want = &file[&format!("{}.logprobs", case.number)].f;
        let vocab = model.config().vocab;
        for (row, want) in want.iter().enumerate().take(continuation.len() - 1) {
            let got = log_softmax(&logits[row * vocab..(row + 1) * vocab])[continuation[row + 1] as usize];
            assert!((got - f64::from(*want)).abs() < 5e-3, "{at}: row {row}: {got} against {want}");
        }
    }
}

#[test]
fn kept_sets_scores_and_continuations_are_those_of_the_reference() {
    let Some(root) = oracle("presses") else { return };
    let mut checked = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let name = json["model"].as_str().unwrap();
        let tiny = name.strip_prefix("tiny-");
        let model = match tiny {
            Some(tiny) => common::tiny(tiny).unwrap(),
            None if name == "smollm2" => common::smollm2_f32(),
            None => continue,
        };
        let file = tensors(&path.with_extension("safetensors"));
        let cases = json["cases"].as_array().unwrap();
        let tensors = path.with_extension("safetensors");
        let cases: Vec<Case<'_>> =
            cases.iter().enumerate().map(|(number, json)| case(number, json, &tensors)).collect();
        // one dense text serves every case that leaves the same first tokens out of its moments
        let mut groups = BTreeMap::<usize, Vec<&Case<'_>>>::new();
        for case in &cases {
            groups.entry(case.press.build().unwrap().needs().moments_skip).or_default().push(case);
        }
        for group in groups.values() {
            let dense = dense(&model, group, &file["context"].ids());
            group.iter().for_each(|case| check_case(&dense, &file, case, tiny.is_some()));
        }
        println!("{name}: {} cases", cases.len());
        checked += cases.len();
    }
    assert!(checked > 0);
}
