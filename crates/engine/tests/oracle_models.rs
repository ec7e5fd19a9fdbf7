//! Real models against reference values: the f32 path tightly, the quantised kernels against our own f32 path.
#![allow(clippy::unwrap_used)]

mod common;

use common::{argmax, log_softmax, margin, max_diff, oracle, tensors};
use meden_engine::hook::{Hook, Site, SiteVisit};
use meden_engine::{Control, EngineError, KvTypes, LogitRows, Model, Session, SessionOptions, WeightMode};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn session(model: &Arc<Model>, kv_type: KvTypes) -> Session {
    Session::new(model.clone(), SessionOptions { kv_type, ..SessionOptions::default() }).unwrap()
}

/// The last token's residual stream entering each block, then after the final norm.
#[derive(Default)]
struct LastHidden(Vec<f32>);

impl Hook for LastHidden {
    fn name(&self) -> &str {
        "last hidden"
    }
    fn wants(&self, site: Site, _: usize) -> bool {
        matches!(site, Site::ResidPre | Site::FinalNorm)
    }
    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        self.0.extend_from_slice(&visit.rows[visit.rows.len() - visit.width..]);
        Ok(())
    }
}

fn check_prompts(model: &Arc<Model>, root: &Path, tolerance: f32) {
    let tensors = tensors(&root.join("prompts.safetensors"));
    for (number, prompt) in json(root.join("prompts.json")).as_array().unwrap().iter().enumerate() {
        let mut session = session(model, KvTypes::F32);
        let mut hidden = LastHidden::default();
        let mut control = Control { hooks: vec![&mut hidden], ..Control::default() };
        let mut logits = session.prefill(&ids(&prompt["ids"]), &mut control).unwrap();
        drop(control);
        let diff = max_diff(&hidden.0, &tensors[&format!("{number}.hidden")].f);
        // residual values reach hundreds: the tolerance is relative to the largest of them
        let largest = hidden.0.iter().fold(1f32, |m, v| m.max(v.abs()));
        assert!(
            diff < tolerance * largest.max(1.0).sqrt(),
            "prompt {number}: hidden states differ by {diff} of {largest}"
        );
        if let Some(last) = tensors.get(&format!("{number}.last_logits")) {
            let diff = max_diff(&logits, &last.f);
            assert!(diff < tolerance, "prompt {number}: logits differ by {diff}");
        }
        let logprobs = log_softmax(&logits);
        for (id, want) in ids(&prompt["top_ids"]).iter().zip(prompt["top_logprobs"].as_array().unwrap()) {
            let diff = (logprobs[*id as usize] - want.as_f64().unwrap()).abs();
            assert!(diff < f64::from(tolerance), "prompt {number}, id {id}: log-probability differs by {diff}");
        }
        for (step, want) in ids(&prompt["greedy_ids"]).into_iter().enumerate() {
            if margin(&logits) < 1e-3 {
                break;
            }
            assert_eq!(argmax(&logits), want, "prompt {number}, greedy step {step}");
            logits = session.decode(want, &mut Control::default()).unwrap().to_vec();
        }
    }
}

/// Negative log-likelihood of each next token, and what else a comparison needs.
fn score(model: &Arc<Model>, tokens: &[u32], kv_type: KvTypes) -> (Vec<f64>, Vec<Vec<f32>>) {
    let (mut nll, mut rows) = (Vec::new(), Vec::new());
    let mut emit = |row: usize, logits: &[f32]| {
        if let Some(&next) = tokens.get(row + 1) {
            nll.push(-log_softmax(logits)[next as usize]);
            rows.push(logits.to_vec());
        }
        Ok(())
    };
    session(model, kv_type).score(tokens, LogitRows::All, &mut Control::default(), &mut emit).unwrap();
    (nll, rows)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn check_perplexity(model: &Arc<Model>, root: &Path, nll_tolerance: f64) {
    let file = json(root.join("perplexity.json"));
    let (nll, _) = score(model, &ids(&file["ids"]), KvTypes::F32);
    let want: Vec<f64> = serde_json::from_value(file["nll"].clone()).unwrap();
    assert_eq!(nll.len(), want.len());
    let diff = (mean(&nll) - mean(&want)).abs();
    assert!(diff < nll_tolerance, "mean nll {} against {}", mean(&nll), mean(&want));
}

/// The quantised kernels against the dequantised f32 path on the same ids.
fn check_quantised(quantised: &Arc<Model>, exact: &Arc<Model>, tokens: &[u32]) {
    let (nll_q, rows_q) = score(quantised, tokens, KvTypes::F16);
    let (nll_f, rows_f) = score(exact, tokens, KvTypes::F32);
    let (mut kl, mut same) = (0.0, 0);
    for (q, f) in rows_q.iter().zip(&rows_f) {
        let (lq, lf) = (log_softmax(q), log_softmax(f));
        kl += lf.iter().zip(&lq).map(|(f, q)| f.exp() * (f - q)).sum::<f64>();
        same += usize::from(argmax(q) == argmax(f));
    }
    let n = rows_f.len() as f64;
    let (kl, agreement, nll) = (kl / n, same as f64 / n, (mean(&nll_q) - mean(&nll_f)).abs());
    println!("quantised against f32: nll {nll:.5}, KL {kl:.5}, top-1 {agreement:.4}");
    assert!(nll <= 0.01, "mean nll differs by {nll}");
    assert!(kl <= 0.01, "mean KL is {kl}");
    assert!(agreement >= 0.93, "top-1 agreement is {agreement}");
}

#[test]
fn smollm2_in_f32_gives_the_reference_logits_hidden_states_and_greedy_ids() {
    let Some(root) = oracle("smollm2") else { return };
    check_prompts(&common::smollm2_f32(), &root, 2e-3);
}

#[test]
fn smollm2_in_f32_gives_the_reference_perplexity() {
    let Some(root) = oracle("smollm2") else { return };
    check_perplexity(&common::smollm2_f32(), &root, 1e-4);
}

#[test]
fn smollm2_quantised_stays_close_to_its_own_f32_path() {
    let Some(root) = oracle("smollm2") else { return };
    let tokens = ids(&json(root.join("perplexity.json"))["ids"]);
    check_quantised(&common::smollm2(), &common::smollm2_f32(), &tokens);
}

#[test]
fn mapped_weights_give_the_same_logits_as_resident_ones() {
    let Some(root) = oracle("smollm2") else { return };
    let tokens = &ids(&json(root.join("perplexity.json"))["ids"])[..64];
    let mapped = common::load(common::smollm2_path(), WeightMode::Mapped, 2);
    let (_, resident) = score(&common::smollm2(), tokens, KvTypes::F32);
    let (_, mapped) = score(&mapped, tokens, KvTypes::F32);
    for (a, b) in resident.iter().zip(&mapped) {
        assert!(max_diff(a, b) < 1e-3, "mapped and resident kernels may differ by rounding only");
    }
}

/// The second built-in model is large and comes under other terms: used when it is on this machine.
fn gemma_path() -> Option<PathBuf> {
    let options =
        meden_files::source::ResolveOptions { offline: true, ..meden_files::source::ResolveOptions::from_env() };
    let found = meden_files::source::resolve("gemma3-270m", &options, &mut meden_files::source::Silent);
    if found.is_err() {
        println!("skipped: gemma3-270m is not on this machine (meden pull gemma3-270m)");
    }
    found.ok()
}

#[test]
fn gemma_in_f32_gives_the_reference_values_and_its_kernels_stay_close() {
    let (Some(root), Some(path)) = (oracle("gemma3-270m"), gemma_path()) else { return };
    let exact = common::load(&path, WeightMode::F32, 2);
    check_prompts(&exact, &root, 2e-3);
    let file = json(root.join("perplexity.json"));
    let tokens = &ids(&file["ids"]);
    let want: Vec<f64> = serde_json::from_value(file["nll"].clone()).unwrap();
    // a vocabulary of 262,144: rows are compared as they come, half the text is enough for the kernels
    let mut nll = Vec::new();
    let mut emit = |row: usize, logits: &[f32]| {
        if let Some(&next) = tokens.get(row + 1) {
            nll.push(-log_softmax(logits)[next as usize]);
        }
        Ok(())
    };
    session(&exact, KvTypes::F32).score(tokens, LogitRows::All, &mut Control::default(), &mut emit).unwrap();
    assert!((mean(&nll) - mean(&want)).abs() < 1e-4, "mean nll {} against {}", mean(&nll), mean(&want));
    let quantised = common::load(&path, WeightMode::Native, 2);
    check_quantised(&quantised, &exact, &tokens[..256]);
}
