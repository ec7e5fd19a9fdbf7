//! Presses whose numbers come from a file: the published layouts, the rule, and refusals that name file and tensor.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::twin::{Record, assert_close, dot, rows, weights, wide};
use common::{ids, open, run};
use meden_engine::{KvTypes, Model, Policy, PressSpec, Session, SessionOptions};
use safetensors::tensor::{Dtype, TensorView};

const N: usize = 40;

/// Numbers between -1 and 1 that look like noise.
fn noise(seed: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 2_654_435_761 + seed * 40_503 + i * i * 97) % 2001) as f32 / 1000.0 - 1.0).collect()
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("meden-press-files-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn write(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)], meta: &[(&str, &str)]) {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.2.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()))
        .collect();
    let meta = (!meta.is_empty())
        .then(|| meta.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<std::collections::HashMap<_, _>>());
    safetensors::serialize_to_file(views, meta, path).unwrap();
}

fn tensor(name: &str, shape: &[usize], seed: usize) -> (String, Vec<usize>, Vec<f32>) {
    (name.to_string(), shape.to_vec(), noise(seed, shape.iter().product()))
}

fn press(kind: &str, file: &Path) -> PressSpec {
    serde_json::from_value(serde_json::json!({"kind": kind, "file": file})).unwrap()
}

fn policy(press: &PressSpec) -> Policy {
    Policy { sinks: 0, recents: 0, ..Policy::new(press.clone(), "50%".parse().unwrap()) }
}

fn read(model: &Arc<Model>, press: &PressSpec) -> (Session, Record) {
    let options =
        SessionOptions { kv_type: KvTypes::F32, prefill_chunk: 16, watch: vec![press.clone()], ..Default::default() };
    let mut session = Session::new(model.clone(), options).unwrap();
    let record = Record::of(&mut session, &ids(N));
    (session, record)
}

/// The refusal when a session is opened with that press.
fn refusal(model: &Arc<Model>, press: &PressSpec) -> String {
    let options = SessionOptions { policy: Some(policy(press)), ..Default::default() };
    Session::new(model.clone(), options).map(|_| ()).unwrap_err().to_string()
}

/// What the attention block of a layer reads: the stream after its input norm.
fn normed(file: &BTreeMap<String, common::Tensor>, model: &Model, layer: usize, stream: &[f64]) -> Vec<f64> {
    let weight = &file[&format!("model.layers.{layer}.input_layernorm.weight")].f;
    let scale = 1.0 / (dot(stream, stream) / stream.len() as f64 + f64::from(model.config().norm_eps)).sqrt();
    stream.iter().zip(weight).map(|(x, &w)| x * scale * f64::from(w)).collect()
}

/// `W x + b`
fn linear(weight: &[f32], bias: &[f32], x: &[f64]) -> Vec<f64> {
    weight.chunks_exact(x.len()).zip(bias).map(|(w, &b)| dot(&wide(w), x) + f64::from(b)).collect()
}

#[test]
fn qfilter_scores_are_minus_the_direction_times_the_key() {
    let Some(model) = common::tiny_once("llama") else { return };
    let c = model.config().clone();
    let path = folder("qfilter").join("model.safetensors");
    let filters = tensor("q_filters", &[c.layers, c.kv_heads, c.head_dim], 1);
    write(&path, std::slice::from_ref(&filters), &[]);
    let press = press("qfilter", &path);
    let (session, _) = read(&model, &press);
    for layer in 0..c.layers {
        let (scores, _) = session.press_scores(layer, &policy(&press)).unwrap();
        for (head, row) in scores.rows().iter().enumerate() {
            let f = wide(&filters.2[(layer * c.kv_heads + head) * c.head_dim..][..c.head_dim]);
            let keys = rows(session.cache().layers()[layer].heads()[head].keys(), c.head_dim);
            let want: Vec<f64> = keys.iter().map(|k| -dot(&f, k)).collect();
            assert_close(row, &want, 0..N, &format!("layer {layer}, head {head}"));
        }
    }
    // a file for another shape is refused with everything one needs to know
    write(&path, &[tensor("q_filters", &[c.layers, c.kv_heads + 1, c.head_dim], 1)], &[]);
    let error = refusal(&model, &press);
    let want = format!("{:?}", [c.layers, c.kv_heads, c.head_dim]);
    assert!(error.contains("model.safetensors") && error.contains("q_filters") && error.contains(&want), "{error}");
    write(&path, &[tensor("filters", &[c.layers, c.kv_heads, c.head_dim], 1)], &[]);
    assert!(press.build().map(|_| ()).unwrap_err().to_string().contains("q_filters"));
    let error = refusal(&model, &"qfilter".parse().unwrap());
    assert!(error.contains("`file`") && error.contains("kv calibrate"), "{error}");
}

#[test]
fn files_calibrated_for_another_press_or_model_are_refused() {
    let Some(model) = common::tiny_once("llama") else { return };
    let c = model.config().clone();
    let path = folder("foreign").join("q.safetensors");
    let filters = tensor("q_filters", &[c.layers, c.kv_heads, c.head_dim], 1);
    let mine: String = model.fingerprint().iter().map(|b| format!("{b:02x}")).collect();
    let press = press("qfilter", &path);
    for (meta, part) in [
        ([("press", "kvzap"), ("model", mine.as_str())], "for the press `kvzap`"),
        ([("press", "qfilter"), ("model", "0011223344556677")], "another model"),
    ] {
        write(&path, std::slice::from_ref(&filters), &meta);
        let error = refusal(&model, &press);
        assert!(error.contains(part) && error.contains("q.safetensors"), "{error}");
    }
    write(&path, &[filters], &[("press", "qfilter"), ("model", &mine)]);
    read(&model, &press);
}

#[test]
fn expected_attention_with_the_moments_of_the_text_is_expected_attention() {
    let Some(model) = common::tiny_once("llama") else { return };
    let c = model.config().clone();
    let own: PressSpec = "expected_attention(n_sink=0)".parse().unwrap();
    let (session, record) = read(&model, &own);
    let d = c.head_dim;
    let (mut mean, mut covariance) = (Vec::new(), Vec::new());
    for layer in 0..c.layers {
        for q_head in 0..c.q_heads {
            let queries: Vec<Vec<f64>> = (0..N)
                .map(|i| {
                    let q = record.q(&c, layer, i, q_head);
                    let mut x = q.clone();
                    for f in 0..d / 2 {
                        let angle = i as f64 * 10_000f64.powf(-2.0 * f as f64 / d as f64);
                        x[f] = q[f] * angle.cos() + q[f + d / 2] * angle.sin();
                        x[f + d / 2] = q[f + d / 2] * angle.cos() - q[f] * angle.sin();
                    }
                    x
                })
                .collect();
            let mu: Vec<f64> = (0..d).map(|i| queries.iter().map(|q| q[i]).sum::<f64>() / N as f64).collect();
            for i in 0..d {
                for j in 0..d {
                    let sum: f64 = queries.iter().map(|q| (q[i] - mu[i]) * (q[j] - mu[j])).sum();
                    covariance.push((sum / N as f64) as f32);
                }
            }
            mean.extend(mu.iter().map(|&m| m as f32));
        }
    }
    let path = folder("stats").join("stats.safetensors");
    let shapes = [vec![c.layers, c.q_heads, d], vec![c.layers, c.q_heads, d, d]];
    write(
        &path,
        &[("query_mean".into(), shapes[0].clone(), mean), ("query_cov".into(), shapes[1].clone(), covariance)],
        &[],
    );
    let given = serde_json::json!({"kind": "expected_attention_stats", "file": path, "n_sink": 0});
    let given: PressSpec = serde_json::from_value(given).unwrap();
    for layer in 0..c.layers {
        let (a, _) = session.press_scores(layer, &policy(&own)).unwrap();
        let (b, _) = session.press_scores(layer, &policy(&given)).unwrap();
        for (a, b) in a.rows().iter().zip(b.rows()) {
            assert_close(b, &wide(a), 0..N, &format!("layer {layer}"));
        }
    }
    write(&path, &[tensor("query_mean", &shapes[0], 1), tensor("query_cov", &[c.layers, c.q_heads, d, d + 1], 2)], &[]);
    let error = refusal(&model, &given);
    assert!(error.contains("query_cov") && error.contains(&format!("{:?}", shapes[1])), "{error}");
}

#[test]
fn kvzap_scores_are_its_net_on_what_attention_reads() {
    let Some(model) = common::tiny_once("llama") else { return };
    let (_, file) = weights("llama").unwrap();
    let c = model.config().clone();
    for mlp in [false, true] {
        let path = folder(if mlp { "mlp" } else { "linear" }).join("model.safetensors");
        let hidden = 12;
        let mut tensors = Vec::new();
        for layer in 0..c.layers {
            let (a, b) = (format!("layers.{layer}"), layer * 4);
            if mlp {
                tensors.push(tensor(&format!("{a}.0.weight"), &[hidden, c.hidden], b + 1));
                tensors.push(tensor(&format!("{a}.0.bias"), &[hidden], b + 2));
                tensors.push(tensor(&format!("{a}.2.weight"), &[c.kv_heads, hidden], b + 3));
                tensors.push(tensor(&format!("{a}.2.bias"), &[c.kv_heads], b + 4));
            } else {
                tensors.push(tensor(&format!("{a}.weight"), &[c.kv_heads, c.hidden], b + 1));
                tensors.push(tensor(&format!("{a}.bias"), &[c.kv_heads], b + 2));
            }
        }
        write(&path, &tensors, &[]);
        let config = serde_json::json!({
            "input_dim": c.hidden, "output_dim": c.kv_heads, "n_modules": c.layers,
            "hidden_dim": if mlp { Some(hidden) } else { None },
        });
        let config_path = path.with_file_name("config.json");
        std::fs::write(&config_path, config.to_string()).unwrap();
        let press = press("kvzap", &path);
        let (session, record) = read(&model, &press);
        for layer in 0..c.layers {
            let (scores, _) = session.press_scores(layer, &policy(&press)).unwrap();
            let at = |name: &str| &tensors.iter().find(|t| t.0 == format!("layers.{layer}.{name}")).unwrap().2;
            let outputs: Vec<Vec<f64>> = (0..N)
                .map(|i| {
                    let x = normed(&file, &model, layer, &record.stream(&c, layer, i));
                    if !mlp {
                        return linear(at("weight"), at("bias"), &x);
                    }
                    let middle: Vec<f64> = linear(at("0.weight"), at("0.bias"), &x).iter().map(|&x| gelu(x)).collect();
                    linear(at("2.weight"), at("2.bias"), &middle)
                })
                .collect();
            for (head, row) in scores.rows().iter().enumerate() {
                let want: Vec<f64> = outputs.iter().map(|o| o[head]).collect();
                assert_close(row, &want, 0..N, &format!("mlp {mlp}, layer {layer}, head {head}"));
            }
        }
        // scores are worked out once, when a token is read, so decoding serves as well as a prefill
        let options = SessionOptions { kv_type: KvTypes::F32, watch: vec![press.clone()], ..Default::default() };
        let mut decoded = Session::new(model.clone(), options).unwrap();
        for id in ids(N) {
            run(&mut decoded, &[id]);
        }
        let (a, b) =
            (session.press_scores(1, &policy(&press)).unwrap().0, decoded.press_scores(1, &policy(&press)).unwrap().0);
        assert!(a.rows().iter().zip(b.rows()).all(|(a, b)| common::max_diff(a, b) < 1e-3));
        // a config that says something else than the tensors
        std::fs::write(&config_path, config.to_string().replace("\"n_modules\":4", "\"n_modules\":5")).unwrap();
        assert!(refusal(&model, &press).contains("config.json"));
        tensors.truncate(tensors.len() / 2);
        write(&path, &tensors, &[]);
        assert!(refusal(&model, &press).contains("for 2 layers"), "{}", refusal(&model, &press));
    }
}

/// The exact GELU by numerical integration of the normal density.
fn gelu(x: f64) -> f64 {
    let steps = 2000;
    let width = x / f64::from(steps);
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let integral: f64 = (0..steps).map(|i| density((f64::from(i) + 0.5) * width) * width).sum();
    x * (0.5 + integral)
}

#[test]
fn fast_kvzip_gates_say_what_the_formula_says() {
    let Some(model) = common::tiny_once("llama") else { return };
    let (_, file) = weights("llama").unwrap();
    let c = model.config().clone();
    let (d, sinks, group) = (4, 3, c.q_heads / c.kv_heads);
    let path = folder("gates").join("gates.safetensors");
    let mut tensors = Vec::new();
    for layer in 0..c.layers {
        for (at, (name, shape)) in [
            ("q_proj.weight", vec![c.q_heads * d, c.hidden]),
            ("q_proj.bias", vec![c.q_heads * d]),
            ("k_proj.weight", vec![c.kv_heads * d, c.hidden]),
            ("q_norm.weight", vec![d]),
            ("k_norm.weight", vec![d]),
            ("k_base", vec![c.kv_heads, 1, sinks, d]),
            ("b", vec![c.kv_heads, 1, group]),
        ]
        .into_iter()
        .enumerate()
        {
            tensors.push(tensor(&format!("layers.{layer}.{name}"), &shape, layer * 7 + at));
        }
    }
    write(&path, &tensors, &[]);
    let press = press("fast_kvzip", &path);
    let (session, record) = read(&model, &press);
    let rms = |x: &[f64], w: &[f32]| -> Vec<f64> {
        let scale = 1.0 / (dot(x, x) / x.len() as f64 + 1e-6).sqrt();
        x.iter().zip(w).map(|(x, &w)| x * scale * f64::from(w)).collect()
    };
    for layer in 0..c.layers {
        let at = |name: &str| &tensors.iter().find(|t| t.0 == format!("layers.{layer}.{name}")).unwrap().2;
        let (scores, _) = session.press_scores(layer, &policy(&press)).unwrap();
        for (head, row) in scores.rows().iter().enumerate() {
            let want: Vec<f64> = (0..N)
                .map(|i| {
                    let x = normed(&file, &model, layer, &record.stream(&c, layer, i));
                    let q = linear(at("q_proj.weight"), at("q_proj.bias"), &x);
                    let k = linear(at("k_proj.weight"), &vec![0.0; c.kv_heads * d], &x);
                    let k = rms(&k[head * d..(head + 1) * d], at("k_norm.weight"));
                    let of_query = |g: usize| {
                        let q = rms(&q[(head * group + g) * d..][..d], at("q_norm.weight"));
                        let logit = dot(&q, &k) / (d as f64).sqrt() + f64::from(at("b")[head * group + g]);
                        let base = at("k_base")[head * sinks * d..(head + 1) * sinks * d].chunks_exact(d);
                        let sum: f64 = base.map(|b| (dot(&q, &wide(b)) / (d as f64).sqrt() - logit).exp()).sum();
                        1.0 / (1.0 + sum)
                    };
                    (0..group).map(of_query).sum::<f64>() / group as f64
                })
                .collect();
            assert_close(row, &want, 0..N - 1, &format!("layer {layer}, head {head}"));
            assert_eq!(row[N - 1], 2.0, "the newest 2%, at least one, stay");
        }
    }
    // a budget over all layers and heads
    let mut pressed = open(&model, Some(policy(&press)));
    run(&mut pressed, &ids(N));
    let kept = common::kept(&pressed);
    assert_eq!(kept.iter().flatten().map(Vec::len).sum::<usize>(), N / 2 * c.layers * c.kv_heads);
    assert!(kept.iter().flatten().all(|h| h.starts_with(&[0, 1, 2, 3]) && h.ends_with(&[N as u32 - 1])));
    tensors[5].1[0] += 1;
    tensors[5].2.extend(noise(3, sinks * d));
    write(&path, &tensors, &[]);
    let error = refusal(&model, &press);
    assert!(
        error.contains("layers.0.k_base") && error.contains(&format!("{:?}", [c.kv_heads, 1, sinks, d])),
        "{error}"
    );
}
