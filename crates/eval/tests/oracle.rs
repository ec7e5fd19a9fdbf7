//! Perplexity against losses worked out from the reference's own logits, where the reference folder is there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use meden_engine::{EngineError, KvTypes, LoadOptions, Model, SessionOptions};
use meden_eval::EvalError;
use meden_eval::perplexity::{Options, Regime, Watch, measure};
use meden_files::ModelFiles;
use safetensors::SafeTensors;

/// A tiny model, a text for it, and the reference's loss of each token but the first.
fn reference() -> Option<(Arc<Model>, Vec<u32>, Vec<f64>)> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/oracle/tiny/llama"));
    if !folder.exists() {
        println!("skipped: no reference values beside this checkout");
        return None;
    }
    let bytes = std::fs::read(folder.join("expected.safetensors")).expect("readable");
    let expected = SafeTensors::deserialize(&bytes).expect("safetensors");
    let ids = expected.tensor("input_ids").expect("ids");
    let width = ids.data().len() / ids.shape().iter().product::<usize>();
    let ids: Vec<u32> =
        ids.data().chunks_exact(width).map(|b| u32::from_le_bytes(b[..4].try_into().expect("4"))).collect();
    let logits = expected.tensor("logits").expect("logits");
    let vocab = *logits.shape().last().expect("a shape");
    let values: Vec<f64> =
        logits.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("4")))).collect();
    let losses = (1..ids.len())
        .map(|t| {
            let row = &values[(t - 1) * vocab..t * vocab];
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            largest + row.iter().map(|l| (l - largest).exp()).sum::<f64>().ln() - row[ids[t] as usize]
        })
        .collect();
    let files = ModelFiles::open(folder).expect("a model");
    let model = Model::load(&files, &LoadOptions::default()).expect("it loads");
    Some((model, ids, losses))
}

fn options(regime: Regime) -> Options {
    let session = SessionOptions { kv_type: KvTypes::F32, ..SessionOptions::default() };
    Options { regime, session, level: 0.95 }
}

#[test]
fn both_regimes_give_the_reference_losses() {
    let Some((model, ids, losses)) = reference() else { return };
    for regime in [Regime::Running, Regime::Windows { context: ids.len(), stride: 7 }] {
        let result = measure(&model, &ids, &options(regime), Watch::default()).expect("it is measured");
        assert_eq!(result.tokens, losses.len());
        for (ours, theirs) in result.nll.iter().zip(&losses) {
            assert!((f64::from(*ours) - theirs).abs() < 1e-4, "{regime:?}: {ours} {theirs}");
        }
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        assert!((result.perplexity / mean.exp() - 1.0).abs() < 1e-4);
        let [low, high] = result.interval.expect("two runs of tokens");
        assert!(low < result.perplexity && result.perplexity < high);
    }
}

#[test]
fn short_windows_judge_with_less_before_each_token() {
    let Some((model, ids, losses)) = reference() else { return };
    let regime = Regime::Windows { context: 8, stride: 4 };
    let mut last = (0, 0);
    let mut progress = |done, total| last = (done, total);
    let watch = Watch { progress: Some(&mut progress), ..Watch::default() };
    let result = measure(&model, &ids, &options(regime), watch).expect("it is measured");
    assert_eq!(result.tokens, losses.len());
    assert_eq!(last, (result.tokens_read, result.tokens_read), "progress ends at what was read");
    assert!((f64::from(result.nll[0]) - losses[0]).abs() < 1e-4, "the first window has the same past");
    assert!(result.nll.iter().zip(&losses).any(|(a, b)| (f64::from(*a) - b).abs() > 1e-3), "later ones have less");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let Some((model, ids, _)) = reference() else { return };
    let running = options(Regime::Running);
    let short = measure(&model, &ids[..1], &running, Watch::default());
    assert!(matches!(short, Err(EvalError::TooShort { tokens: 1, needed: 2 })));
    let level = Options { level: 1.0, ..running.clone() };
    assert!(matches!(measure(&model, &ids, &level, Watch::default()), Err(EvalError::Setting { .. })));
    let stop = AtomicBool::new(true);
    let watch = Watch { cancel: Some(&stop), ..Watch::default() };
    let cancelled = measure(&model, &ids, &running, watch);
    assert!(matches!(cancelled, Err(EvalError::Engine(EngineError::Cancelled { .. }))));
}
