//! The laboratory on tiny real models: what every measurement has to satisfy, whatever the press.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use meden_engine::{Control, KvTypes, LoadOptions, Model, PressSpec, SkipOverflow};
use meden_eval::EvalError;
use meden_eval::kv_lab::alr;
use meden_eval::kv_lab::record::Record;
use meden_eval::kv_lab::store::Store;
use meden_eval::kv_lab::summary;
use meden_eval::kv_lab::sweep::{self, Companions, Spare, Spec, Subject};
use meden_eval::task::{Codec, Question, Source, TaskKind, Texts};
use meden_files::ModelFiles;

const TEXT: &str = include_str!("../src/task/tests_text.txt");

fn model(name: &str) -> Option<Arc<Model>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/oracle/tiny")).join(name);
    if !folder.exists() {
        println!("skipped: no reference values beside this checkout");
        return None;
    }
    let files = ModelFiles::open(&folder).expect("a model");
    Some(Model::load(&files, &LoadOptions::default()).expect("it loads"))
}

fn press(name: &str) -> PressSpec {
    name.parse().expect("a press")
}

fn spec(tasks: &[TaskKind]) -> Spec {
    Spec {
        tasks: tasks.to_vec(),
        lengths: vec![350],
        presses: vec![press("knorm"), press("streaming_llm")],
        ratios: vec![0.5, 0.9],
        kv: vec![KvTypes::F32, KvTypes::Q8],
        questions: vec![Question::Unseen, Question::Seen],
        seeds: vec![1, 2],
        items: 2,
        template: false,
        spare: Spare { sinks: 2, recents: 8, skip_layers: Some(vec![0]), skip_overflow: SkipOverflow::Window },
        prefill_chunk: 128,
    }
}

/// Runs a sweep on top of `store`; what was emitted.
fn sweep(
    model: &Arc<Model>,
    spec: &Spec,
    store: &mut Store,
    stop_after: usize,
) -> (Vec<Record>, Result<sweep::Done, EvalError>) {
    let codec = Codec::new(None, None, model.config().vocab).unwrap();
    let texts = Texts::new("test", TEXT, &codec).unwrap();
    let subject = Subject { model, source: Source { texts: &texts, codec: &codec, template: false } };
    let cancel = AtomicBool::new(false);
    let mut out = Vec::new();
    let mut companions = Companions {
        progress: &mut |_, _| {},
        cancel: &cancel,
        clock: None,
        emit: &mut |record| {
            out.push(record.clone());
            cancel.store(out.len() >= stop_after, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        },
    };
    let result = sweep::run(spec, &subject, store, &mut companions);
    (out, result)
}

#[test]
fn the_dense_cell_is_no_distance_from_itself_and_presses_are_and_bytes_are_real() {
    let Some(model) = model("llama") else { return };
    let spec =
        spec(&[TaskKind::Continuation, TaskKind::Passkey, TaskKind::Questions, TaskKind::Capped, TaskKind::Decode]);
    let (records, result) = sweep(&model, &spec, &mut Store::default(), usize::MAX);
    result.unwrap();
    // 3 tasks without a question and 2 with one seen or not; 4 items; 2 types of 1 + 4 cells
    assert_eq!(records.len(), (3 + 2 * 2) * 4 * 10);
    for record in &records {
        let (id, m) = (&record.identity, &record.measured);
        let what = format!("{id:?}");
        assert!(m.distance.tokens > 0 && m.distance.nll.is_finite() && m.distance.rank >= 1.0, "{what}");
        match &id.press {
            None if id.kv == KvTypes::F32 => {
                assert!(m.distance.kl < 1e-9 && m.distance.top1 > 1.0 - 1e-9, "{what}: {:?}", m.distance);
                assert_eq!((m.kv_bytes, m.evicted), (m.dense_bytes, 0), "{what}");
            }
            None => assert!(m.distance.kl < 0.05, "{what}: an 8-bit cache is near: {:?}", m.distance),
            Some(_) => {
                assert!(m.distance.kl > 0.0 && m.evicted > 0, "{what}");
                assert!(m.kv_bytes < m.dense_bytes, "{what}");
                let share = m.kept_tokens / m.tokens as f64;
                let once = !matches!(id.task, TaskKind::Capped | TaskKind::Decode);
                assert!(!once || (share - (1.0 - id.ratio)).abs() < 0.02, "{what}: kept {share}");
            }
        }
        assert_eq!(m.correct.len(), m.written.len() * usize::from(id.task.is_asked()), "{what}");
        assert_eq!(m.repetition.is_some(), id.task == TaskKind::Decode, "{what}");
    }
    let of = |ratio: f64| {
        let some = records.iter().filter(|r| r.identity.task == TaskKind::Continuation && r.identity.ratio == ratio);
        some.map(|r| r.measured.distance.kl).sum::<f64>()
    };
    assert!(of(0.9) > of(0.5), "more removed is further away: {} {}", of(0.9), of(0.5));
    let lines = summary::lines(&records.iter().collect::<Vec<_>>());
    assert_eq!(lines.len(), (3 + 2 * 2) * 10);
    assert!(lines.iter().all(|l| l.items == 4 && l.kl.interval.is_some()));
}

#[test]
fn a_stopped_sweep_goes_on_and_ends_with_the_same_results() {
    let Some(model) = model("llama") else { return };
    let spec = spec(&[TaskKind::Continuation, TaskKind::KeyValue]);
    let (all, _) = sweep(&model, &spec, &mut Store::default(), usize::MAX);
    let mut store = Store::default();
    let (first, stopped) = sweep(&model, &spec, &mut store, 17);
    assert!(stopped.is_err() && first.len() >= 17 && first.len() < all.len(), "{}", first.len());
    let (rest, done) = sweep(&model, &spec, &mut store, usize::MAX);
    let done = done.unwrap();
    assert_eq!((done.measured, done.skipped), (rest.len(), first.len()));
    assert_eq!([first, rest].concat(), all, "bit by bit");
    let (again, done) = sweep(&model, &spec, &mut store, usize::MAX);
    assert!(again.is_empty() && done.unwrap().measured == 0);
}

#[test]
fn a_press_that_removes_nothing_changes_nothing_and_says_so() {
    let Some(model) = model("qwen3") else { return };
    let mut spec = spec(&[TaskKind::Continuation]);
    (spec.ratios, spec.kv) = (vec![0.0], vec![KvTypes::F16]);
    let (records, result) = sweep(&model, &spec, &mut Store::default(), usize::MAX);
    result.unwrap();
    for record in records.iter().filter(|r| r.identity.press.is_some()) {
        assert_eq!((record.measured.distance.kl, record.measured.evicted), (0.0, 0));
        assert!(record.measured.notes.iter().any(|n| n.contains("evicted nothing")), "{:?}", record.measured.notes);
    }
}

#[test]
fn alr_is_never_negative_at_most_its_length_and_leaves_sliding_layers_out() {
    for name in ["llama", "gemma2"] {
        let Some(model) = model(name) else { return };
        let ids: Vec<u32> = TEXT.bytes().take(121).map(u32::from).collect();
        let presses = ["knorm", "knorm_high", "streaming_llm"].map(press);
        let maps = alr::maps(&model, &ids, &presses, &mut Control::default()).unwrap();
        let config = model.config();
        for map in &maps {
            assert_eq!((map.tokens, map.alr.len()), (120, config.layers));
            for (layer, heads) in map.alr.iter().enumerate() {
                assert_eq!(heads.len(), config.q_heads);
                for alr in heads {
                    assert_eq!(alr.is_none(), config.attention[layer].window.is_some());
                    assert!(alr.is_none_or(|v| (0.0..=120.0).contains(&v)), "{alr:?}");
                }
            }
        }
        let sums: Vec<f64> = maps.iter().map(|m| m.mean_area).collect();
        assert!(sums.iter().all(|s| *s > 0.0 && *s < 1.0), "{sums:?}");
    }
}

#[test]
fn alr_needs_a_query_and_something_cached() {
    let Some(model) = model("llama") else { return };
    let short = alr::maps(&model, &[1], &[press("knorm")], &mut Control::default());
    assert!(matches!(short, Err(EvalError::TooShort { needed: 2, .. })));
}
