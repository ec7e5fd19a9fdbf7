//! Every architecture against an independent implementation: logits, hidden states, greedy ids.
#![allow(clippy::unwrap_used)]

mod common;

use common::{argmax, margin, max_diff, oracle, tensors};
use meden_engine::hook::{Hook, Site, SiteVisit};
use meden_engine::{Control, EngineError, KvTypes, LogitRows, Session, SessionOptions, WeightMode};

const LOGITS: f32 = 2e-4;

/// Collects the residual stream: what enters each block, and the last one after the final norm.
#[derive(Default)]
struct Hidden {
    rows: Vec<(usize, Vec<f32>)>,
}

impl Hook for Hidden {
    fn name(&self) -> &str {
        "hidden"
    }
    fn wants(&self, site: Site, _: usize) -> bool {
        matches!(site, Site::ResidPre | Site::FinalNorm)
    }
    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        match self.rows.iter_mut().find(|(layer, _)| *layer == visit.layer) {
            Some((_, rows)) => rows.extend_from_slice(visit.rows),
            None => self.rows.push((visit.layer, visit.rows.to_vec())),
        }
        Ok(())
    }
}

fn f32_options(chunk: usize) -> SessionOptions {
    SessionOptions { kv_type: KvTypes::F32, prefill_chunk: chunk, ..SessionOptions::default() }
}

#[test]
fn every_architecture_gives_the_reference_logits_hidden_states_and_greedy_ids() {
    let Some(root) = oracle("tiny") else { return };
    let mut models = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().to_string();
        let expected = tensors(&path.join("expected.safetensors"));
        let model = common::load(&path, WeightMode::Native, 2);
        let ids = expected["input_ids"].ids();
        let vocab = expected["logits"].shape[1];
        // one piece, and pieces that cross windows and pages
        for chunk in [512, 7, 1] {
            let mut session = Session::new(model.clone(), f32_options(chunk)).unwrap();
            let mut hidden = Hidden::default();
            let mut control = Control { hooks: vec![&mut hidden], ..Control::default() };
            let logits = session.forward(&ids, LogitRows::All, &mut control).unwrap();
            drop(control);
            let diff = max_diff(&logits, &expected["logits"].f);
            assert!(diff < LOGITS, "{name}, chunk {chunk}: logits differ by {diff}");
            let width = expected["hidden"].shape[2];
            for (layer, rows) in &hidden.rows {
                let want = &expected["hidden"].f[layer * ids.len() * width..(layer + 1) * ids.len() * width];
                let diff = max_diff(rows, want);
                assert!(diff < LOGITS, "{name}, chunk {chunk}, hidden {layer}: differ by {diff}");
            }
            assert_eq!(hidden.rows.len(), expected["hidden"].shape[0], "{name}");
            let mut last = logits[logits.len() - vocab..].to_vec();
            for (step, want) in expected["greedy_ids"].ids().into_iter().enumerate() {
                if margin(&last) < 1e-3 {
                    break;
                }
                let id = argmax(&last);
                assert_eq!(id, want, "{name}, chunk {chunk}, greedy step {step}");
                last = session.decode(id, &mut Control::default()).unwrap().to_vec();
            }
        }
        models += 1;
    }
    assert!(models > 0, "no reference models found");
    println!("{models} models");
}

#[test]
fn a_noop_hook_leaves_logits_bit_identical_and_an_edit_changes_them() {
    struct Everywhere;
    impl Hook for Everywhere {
        fn name(&self) -> &str {
            "everywhere"
        }
        fn wants(&self, _: Site, _: usize) -> bool {
            true
        }
        fn visit(&mut self, _: SiteVisit<'_>) -> Result<(), EngineError> {
            Ok(())
        }
    }
    struct ZeroAttention(usize);
    impl Hook for ZeroAttention {
        fn name(&self) -> &str {
            "zero attention"
        }
        fn wants(&self, site: Site, layer: usize) -> bool {
            site == Site::AttnOut && layer == self.0
        }
        fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
            visit.rows.fill(0.0);
            Ok(())
        }
    }
    // zero-ablation has its own reference values
    let Some(root) = oracle("lens") else { return };
    let mut cases = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().to_string();
        let Some(model) = stem.strip_prefix("tiny-").and_then(common::tiny) else { continue };
        let expected = tensors(&path);
        let ids = expected["ids"].ids();
        let vocab = expected["ablate.logits"].shape[1];
        let run = |hook: Option<&mut dyn Hook>| {
            let mut session = Session::new(model.clone(), f32_options(512)).unwrap();
            let mut control = Control { hooks: hook.into_iter().collect(), ..Control::default() };
            session.prefill(&ids, &mut control).unwrap()
        };
        let plain = run(None);
        let watched = run(Some(&mut Everywhere));
        assert!(plain.iter().zip(&watched).all(|(a, b)| a.to_bits() == b.to_bits()), "{stem}");
        for layer in 0..model.config().layers {
            let edited = run(Some(&mut ZeroAttention(layer)));
            let diff = max_diff(&edited, &expected["ablate.logits"].f[layer * vocab..(layer + 1) * vocab]);
            assert!(diff < LOGITS, "{stem}, layer {layer}: {diff}");
        }
        cases += 1;
    }
    assert!(cases > 0, "no reference values for tiny models");
}

#[test]
fn a_hook_that_wants_nothing_or_never_fires_is_an_error() {
    struct At(Site, usize);
    impl Hook for At {
        fn name(&self) -> &str {
            "at"
        }
        fn wants(&self, site: Site, layer: usize) -> bool {
            site == self.0 && layer == self.1
        }
        fn visit(&mut self, _: SiteVisit<'_>) -> Result<(), EngineError> {
            Ok(())
        }
    }
    let Some(model) = common::tiny("llama") else { return };
    let layers = model.config().layers;
    let run = |mut hook: At, rows| {
        let mut session = Session::new(model.clone(), f32_options(512)).unwrap();
        let mut control = Control { hooks: vec![&mut hook], ..Control::default() };
        session.forward(&[1, 2, 3], rows, &mut control).map(|_| ())
    };
    assert!(matches!(run(At(Site::ResidPre, layers), LogitRows::Last), Err(EngineError::Hook { .. })));
    assert!(matches!(run(At(Site::Logits, layers), LogitRows::None), Err(EngineError::Hook { .. })));
    assert!(run(At(Site::Logits, layers), LogitRows::Last).is_ok());
}

#[test]
fn logits_do_not_depend_on_the_number_of_threads() {
    let Some(root) = oracle("tiny") else { return };
    for name in ["llama", "gemma3", "mistral-sliding"] {
        if !root.join(name).exists() {
            continue;
        }
        let ids: Vec<u32> = tensors(&root.join(name).join("expected.safetensors"))["input_ids"].ids();
        let run = |threads| {
            let model = common::load(&root.join(name), WeightMode::Native, threads);
            let mut session = Session::new(model, f32_options(16)).unwrap();
            session.forward(&ids, LogitRows::All, &mut Control::default()).unwrap()
        };
        let (one, two) = (run(1), run(2));
        assert!(one.iter().zip(&two).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
    }
}
