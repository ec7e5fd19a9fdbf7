//! The presses of this crate against what kvpress keeps: scores, kept sets, and the continuation after them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Tensor, log_softmax, max_diff, oracle, tensors};
use meden_engine::{
    Budget, Control, KvTypes, LogitRows, Model, Policy, PressSpec, Rounding, Schedule, Session, SessionOptions,
};
use serde_json::Value;

const OURS: [&str; 4] = ["knorm", "knorm_high", "random", "streaming_llm"];

/// The press of a case, if it is one of this crate's, and the layers it skips.
fn press_of(case: &Value) -> Option<(PressSpec, Vec<usize>)> {
    let args = case["args"].as_object()?;
    let name = case["name"].as_str()?;
    let skip = args.get("skip_layers").map(|s| serde_json::from_value(s.clone()).unwrap()).unwrap_or_default();
    let spec = if OURS.contains(&name) {
        let mut spec = args.clone();
        spec.insert("kind".into(), name.into());
        Value::Object(spec)
    } else if args.contains_key("skip_layers") && OURS.contains(&args.get("press")?["kind"].as_str()?) {
        args["press"].clone()
    } else {
        return None;
    };
    Some((serde_json::from_value(spec).unwrap(), skip))
}

fn session(model: &Arc<Model>, press: &PressSpec, skip: &[usize], kept: f64) -> Session {
    let policy = Policy {
        schedule: Schedule::prefill_end(),
        skip_layers: Some(skip.to_vec()),
        sinks: 0,
        recents: 0,
        rounding: Rounding::Kvpress,
        ..Policy::new(press.clone(), Budget::Ratio(kept))
    };
    let options = SessionOptions { kv_type: KvTypes::F32, policy: Some(policy), ..SessionOptions::default() };
    Session::new(model.clone(), options).unwrap()
}

/// Kept sets are equal but for positions whose score lies at the boundary. Returns whether they are exactly equal.
fn compare_kept(kept: &[u32], want: &[i64], scores: Option<&[f32]>, at: &str) -> bool {
    let want: Vec<u32> = (0..want.len() as u32).filter(|&p| want[p as usize] == 1).collect();
    assert_eq!(kept.len(), want.len(), "{at}: number of kept positions");
    if kept == want {
        return true;
    }
    let scores = scores.unwrap_or_else(|| panic!("{at}: the sets differ where no score explains it"));
    let low = want.iter().map(|&p| scores[p as usize]).fold(f32::INFINITY, f32::min);
    let range =
        scores.iter().copied().fold(f32::NEG_INFINITY, f32::max) - scores.iter().copied().fold(f32::INFINITY, f32::min);
    for p in kept.iter().filter(|p| !want.contains(p)).chain(want.iter().filter(|p| !kept.contains(p))) {
        let distance = (scores[*p as usize] - low).abs();
        assert!(distance <= 2e-4 * range, "{at}: position {p} is {distance} from the boundary, range {range}");
    }
    false
}

fn check_case(model: &Arc<Model>, file: &BTreeMap<String, Tensor>, number: usize, case: &Value, tiny: bool) -> bool {
    let Some((press, skip)) = press_of(case) else { return false };
    let at = format!("case {number} {} at {}", case["name"], case["ratio"]);
    let ratio = case["ratio"].as_f64().unwrap();
    let (context, continuation) = (file["context"].ids(), file["continuation"].ids());
    let (layers, heads, n) = (model.config().layers, model.config().kv_heads, context.len());

    let mut whole = session(model, &press, &skip, 1.0);
    whole.prefill(&context, &mut Control::default()).unwrap();
    let mut pressed = session(model, &press, &skip, 1.0 - ratio);
    pressed.prefill(&context, &mut Control::default()).unwrap();
    let scores = file.get(&format!("{number}.scores")).filter(|_| press.name() != "streaming_llm");
    let kept = file.get(&format!("{number}.kept"));
    let mut exact = true;
    for layer in 0..layers {
        for head in 0..heads {
            let row = (layer * heads + head) * n..(layer * heads + head + 1) * n;
            let at = format!("{at}, layer {layer}, head {head}");
            let ours = whole.press_scores(layer, head).unwrap().unwrap();
            if let Some(scores) = scores.filter(|_| !skip.contains(&layer)) {
                let want = &scores.f[row.clone()];
                let range = want.iter().copied().fold(f32::NEG_INFINITY, f32::max)
                    - want.iter().copied().fold(f32::INFINITY, f32::min);
                let diff = max_diff(&ours, want);
                assert!(diff <= 1e-4 * range, "{at}: scores differ by {diff}, range {range}");
            }
            let positions = pressed.cache().layers()[layer].heads()[head].positions();
            // a case without a kept mask keeps the best scores, as many as the ratio says
            match kept {
                Some(kept) => exact &= compare_kept(positions, &kept.i[row], Some(&ours), &at),
                None => {
                    let keep = if skip.contains(&layer) { n } else { (n as f64 * (1.0 - ratio)) as usize };
                    let mut order: Vec<u32> = (0..n as u32).collect();
                    order.sort_by(|&a, &b| ours[b as usize].total_cmp(&ours[a as usize]).then(a.cmp(&b)));
                    let mut want = order[..keep].to_vec();
                    want.sort_unstable();
                    assert_eq!(positions, want, "{at}");
                }
            }
        }
    }
    if !exact {
        let kept = &kept.unwrap().i;
        pressed = session(model, &press, &skip, 1.0);
        pressed.prefill(&context, &mut Control::default()).unwrap();
        for layer in 0..layers {
            for head in 0..heads {
                let row = &kept[(layer * heads + head) * n..(layer * heads + head + 1) * n];
                let keep: Vec<u32> = (0..n as u32).filter(|&p| row[p as usize] == 1).collect();
                pressed.keep_slots(layer, head, &keep).unwrap();
            }
        }
    }
    let logits = pressed.forward(&continuation, LogitRows::All, &mut Control::default()).unwrap();
    if tiny {
        let diff = max_diff(&logits, &file[&format!("{number}.logits")].f);
        assert!(diff < 5e-4, "{at}: continuation logits differ by {diff}");
    } else {
        let want = &file[&format!("{number}.logprobs")].f;
        let vocab = model.config().vocab;
        for (row, want) in want.iter().enumerate().take(continuation.len() - 1) {
            let got = log_softmax(&logits[row * vocab..(row + 1) * vocab])[continuation[row + 1] as usize];
            assert!((got - f64::from(*want)).abs() < 5e-3, "{at}: row {row}: {got} against {want}");
        }
    }
    true
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
        let done = cases.iter().enumerate().filter(|(i, c)| check_case(&model, &file, *i, c, tiny.is_some())).count();
        println!("{name}: {done} cases");
        assert!(done > 0, "{name}: no case for our presses");
        checked += done;
    }
    assert!(checked > 0);
}
