//! Calibration: each recipe against its definition on the text it was given, and the file's bond to its model.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;

use common::ids;
use common::twin::{Record, dot, norm, rows};
use meden_engine::calibrate::{Recipe, calibrate};
use meden_engine::{Control, KvTypes, Policy, PressSpec, Session, SessionOptions};

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("meden-calibrate-{}-{name}.safetensors", std::process::id()))
}

fn sequences() -> Vec<Vec<u32>> {
    let text = ids(150);
    text.chunks(50).map(<[u32]>::to_vec).collect()
}

#[test]
fn every_calibrated_file_is_taken_by_its_press_and_refused_by_another_model() {
    let (Some(model), Some(other)) = (common::tiny_once("llama"), common::tiny_once("llama3-rope")) else { return };
    for recipe in Recipe::ALL {
        let made = calibrate(&model, recipe, &sequences(), &mut Control::default()).unwrap();
        let path = path(recipe.press());
        made.write(&path, "0123").unwrap();
        let duo = recipe == Recipe::DuoAttention;
        let field = if duo { "pattern" } else { "file" };
        let press: PressSpec =
            serde_json::from_value(serde_json::json!({"kind": recipe.press(), field: path})).unwrap();
        let budget = if duo { "press" } else { "50%" };
        let policy = Policy { sinks: 2, recents: 2, ..Policy::new(press, budget.parse().unwrap()) };
        let options = SessionOptions { kv_type: KvTypes::F32, policy: Some(policy), ..Default::default() };
        let mut session = Session::new(model.clone(), options.clone()).unwrap();
        // streaming heads keep 128 first and 256 newest tokens
        common::run(&mut session, &ids(if duo { 400 } else { 60 }));
        assert!(session.stats().evicted > 0, "{}", recipe.press());
        let error = Session::new(other.clone(), options).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("another model") && error.contains("calibrate"), "{error}");
        let words: std::collections::HashMap<String, serde_json::Value> = if duo {
            serde_json::from_slice(&std::fs::read(path.join("config.json")).unwrap()).unwrap()
        } else {
            let bytes = std::fs::read(&path).unwrap();
            let words = safetensors::SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
            words.into_iter().map(|(key, word)| (key, word.into())).collect()
        };
        assert_eq!(words["tokens"], "150");
        assert_eq!(words["text_sha256"], "0123");
        assert!(words.contains_key("rope") && words.contains_key("version"));
    }
}

#[test]
fn a_filter_points_away_from_the_main_direction_of_the_queries() {
    let Some(model) = common::tiny_once("llama") else { return };
    let c = model.config().clone();
    let made = calibrate(&model, Recipe::Qfilter, &sequences(), &mut Control::default()).unwrap();
    let filters = rows(made.tensors[0].values.clone(), c.head_dim);
    let group = c.q_heads / c.kv_heads;
    let mut records = Vec::new();
    for text in sequences() {
        let mut session = common::open(&model, None);
        records.push(Record::of(&mut session, &text));
    }
    for layer in 0..c.layers {
        for head in 0..c.kv_heads {
            let mut want = vec![0.0; c.head_dim];
            for q_head in head * group..(head + 1) * group {
                let queries: Vec<Vec<f64>> =
                    records.iter().flat_map(|r| (0..50).map(|i| r.q(&c, layer, i, q_head))).collect();
                // the first singular vector by power iteration
                let mut v = vec![1.0; c.head_dim];
                for _ in 0..5000 {
                    let mut next = vec![0.0; c.head_dim];
                    for q in &queries {
                        let along = dot(q, &v);
                        next.iter_mut().zip(q).for_each(|(n, q)| *n += along * q);
                    }
                    let length = norm(&next);
                    v = next.iter().map(|x| x / length).collect();
                }
                let along = queries.iter().filter(|q| dot(q, &v) > 0.0).count();
                let sign = if 2 * along > queries.len() { 1.0 } else { -1.0 };
                want.iter_mut().zip(&v).for_each(|(w, v)| *w -= sign * v / group as f64);
            }
            let filter = &filters[layer * c.kv_heads + head];
            let diff = norm(&filter.iter().zip(&want).map(|(a, b)| a - b).collect::<Vec<f64>>());
            assert!(diff < 1e-3, "layer {layer}, head {head}: {diff}");
        }
    }
}

#[test]
fn a_linear_kvzap_predicts_its_teacher_better_than_a_constant() {
    let Some(model) = common::tiny_once("llama") else { return };
    let made = calibrate(&model, Recipe::Kvzap, &sequences(), &mut Control::default()).unwrap();
    assert_eq!(made.tokens, 150);
    assert!(made.fit.iter().all(|&r2| r2 > 0.0 && r2 < 1.0), "{:?}", made.fit);
    let path = path("predicts");
    made.write(&path, "0").unwrap();
    let press: PressSpec = serde_json::from_value(serde_json::json!({"kind": "kvzap", "file": path})).unwrap();
    let teacher: PressSpec = "kvzip(plus=true)".parse().unwrap();
    let watch = vec![press.clone()];
    let options = SessionOptions { kv_type: KvTypes::F32, watch, ..Default::default() };
    let (mut rest, mut spread) = (0.0, 0.0);
    for text in sequences() {
        let mut session = Session::new(model.clone(), options.clone()).unwrap();
        common::run(&mut session, &text);
        let scores = |press: &PressSpec| {
            let policy = Policy::new(press.clone(), "50%".parse().unwrap());
            session.press_scores(1, &policy).unwrap().0.rows()[0].clone()
        };
        let (ours, teacher) = (scores(&press), scores(&teacher));
        let labels: Vec<f64> = teacher.iter().map(|&s| f64::from(s).max(1e-12).ln()).collect();
        let mean = labels.iter().sum::<f64>() / labels.len() as f64;
        rest += labels.iter().zip(&ours).map(|(l, &o)| (l - f64::from(o)).powi(2)).sum::<f64>();
        spread += labels.iter().map(|l| (l - mean).powi(2)).sum::<f64>();
    }
    assert!(rest < spread, "{rest} against {spread}");
}

#[test]
fn duo_scores_are_between_all_late_and_all_early() {
    let Some(model) = common::tiny_once("llama") else { return };
    let c = model.config().clone();
    let made = calibrate(&model, Recipe::DuoAttention, &sequences(), &mut Control::default()).unwrap();
    let scores = &made.tensors[0];
    assert_eq!(scores.shape, [c.layers, c.kv_heads]);
    assert!(scores.values.iter().all(|&s| s > 0.0 && s < 1.0), "{:?}", scores.values);
    assert!(scores.values.iter().any(|&s| (s - scores.values[0]).abs() > 1e-6), "heads differ");
    // the streaming heads are those of the lowest scores, and keep what the settings say
    let path = path("duo");
    made.write(&path, "0").unwrap();
    let json = serde_json::json!({"kind": "duo_attention", "pattern": path, "head_compression_ratio": 0.25});
    let press: PressSpec = serde_json::from_value(json).unwrap();
    let policy = Policy { sinks: 0, recents: 0, ..Policy::new(press, "press".parse().unwrap()) };
    let policy = Policy { schedule: "prefill_end".parse().unwrap(), ..policy };
    let mut session = Session::new(model, SessionOptions { policy: Some(policy), ..Default::default() }).unwrap();
    common::run(&mut session, &ids(450));
    let kept: Vec<usize> = session.stats().layers.iter().flat_map(|l| l.kept.clone()).collect();
    let mut order: Vec<usize> = (0..kept.len()).collect();
    order.sort_by(|&a, &b| scores.values[a].total_cmp(&scores.values[b]));
    let streaming = kept.len() / 4;
    for (place, &head) in order.iter().enumerate() {
        assert_eq!(kept[head], if place < streaming { 128 + 256 } else { 450 }, "head {head}");
    }
}

#[test]
fn too_little_text_is_refused() {
    let Some(model) = common::tiny_once("llama") else { return };
    for few in [vec![], vec![ids(5)]] {
        let error = calibrate(&model, Recipe::Qfilter, &few, &mut Control::default()).unwrap_err().to_string();
        assert!(error.contains("16 tokens"), "{error}");
    }
    assert!("knorm".parse::<Recipe>().unwrap_err().to_string().contains("qfilter"));
}
