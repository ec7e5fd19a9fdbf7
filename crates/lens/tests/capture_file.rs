//! Files of activations: the rows of a capture in memory, whatever happens on the way.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{same_bits, tiny};
use meden_engine::text::SamplingConfig;
use meden_engine::{Control, EngineError, LogitRows};
use meden_lens::LensError;
use meden_lens::capture::{CaptureFile, Dtype, FileCapture, Selection, capture, capture_to_file, exact_session};
use meden_lens::generate::Generate;

fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("capture-file");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{name}.safetensors"));
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_file(path.with_file_name(format!("{name}.safetensors.partial")));
    path
}

fn prompts() -> Vec<Vec<u32>> {
    [17usize, 5, 40, 1].iter().enumerate().map(|(i, &n)| common::ids(n + i)[i..].to_vec()).collect()
}

fn plan(path: &std::path::Path, dtype: Dtype) -> FileCapture {
    FileCapture { path: path.to_owned(), dtype, generate: None }
}

#[test]
fn a_file_holds_the_rows_of_a_capture_in_memory() {
    let Some(model) = tiny("gemma3") else { return };
    let session = common::chunked(&model, 16);
    for (positions, sites) in [("all", "resid_*,q,k,mlp_act,logits"), ("last", "z,final_norm"), ("0,-1", "logits")] {
        let selection = Selection::parse(model.config(), sites, "0,2-3", positions).unwrap();
        let path = scratch(&format!("memory-{}", positions.replace(',', "_")));
        let memory = capture(&session, &prompts(), &selection, &mut Control::default()).unwrap();
        let done = capture_to_file(&session, &prompts(), &selection, &plan(&path, Dtype::F32), &mut Control::default());
        let done = done.unwrap();
        assert_eq!((done.prompts, done.rows, done.resumed_prompts), (4, memory.rows().len(), 0));
        assert_eq!(done.bytes, std::fs::metadata(&path).unwrap().len());
        let file = CaptureFile::open(&path).unwrap();
        assert_eq!((file.rows(), file.places()), (memory.rows(), memory.places()));
        for &place in memory.places() {
            assert!(same_bits(&file.read(place, 0..file.len()).unwrap(), memory.matrix(place).unwrap()), "{place}");
            let some = file.read(place, 1..3).unwrap();
            let width = memory.width(place).unwrap();
            assert!(same_bits(&some, &memory.matrix(place).unwrap()[width..3 * width]), "{place}");
        }
        // any reader of the format takes it, under the names of the guide
        let bytes = std::fs::read(&path).unwrap();
        let plain = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for &place in memory.places() {
            let shape = [memory.rows().len(), memory.width(place).unwrap()];
            assert_eq!(plain.tensor(&place.to_string()).unwrap().shape(), shape);
        }
        assert_eq!(plain.tensor("token").unwrap().shape(), [memory.rows().len()]);
        // the same again finds it done
        let again =
            capture_to_file(&session, &prompts(), &selection, &plan(&path, Dtype::F32), &mut Control::default());
        assert_eq!(again.unwrap().resumed_prompts, 4);
    }
}

#[test]
fn half_widths_round_to_the_nearest_and_refuse_what_they_cannot_hold() {
    let Some(model) = tiny("llama") else { return };
    let session = exact_session(&model).unwrap();
    let selection = Selection::parse(model.config(), "resid_post", "all", "all").unwrap();
    let memory = capture(&session, &prompts(), &selection, &mut Control::default()).unwrap();
    type Round = fn(f32) -> f32;
    let round: [(Dtype, Round); 2] =
        [(Dtype::F16, |v| half::f16::from_f32(v).to_f32()), (Dtype::Bf16, |v| half::bf16::from_f32(v).to_f32())];
    for (dtype, round) in round {
        let path = scratch(dtype.name());
        capture_to_file(&session, &prompts(), &selection, &plan(&path, dtype), &mut Control::default()).unwrap();
        let file = CaptureFile::open(&path).unwrap();
        for &place in memory.places() {
            let want: Vec<f32> = memory.matrix(place).unwrap().iter().map(|&v| round(v)).collect();
            assert!(same_bits(&file.read(place, 0..file.len()).unwrap(), &want), "{place}");
        }
    }
    struct Huge;
    impl meden_engine::Hook for Huge {
        fn name(&self) -> &str {
            "huge"
        }
        fn wants(&self, site: meden_engine::Site, layer: usize) -> bool {
            site == meden_engine::Site::ResidPost && layer == 1
        }
        fn visit(&mut self, visit: meden_engine::SiteVisit<'_>) -> Result<(), EngineError> {
            visit.rows[0] = 70_000.0;
            Ok(())
        }
    }
    let path = scratch("huge");
    let mut huge = Huge;
    let mut control = Control { hooks: vec![&mut huge], ..Control::default() };
    let error = capture_to_file(&session, &prompts(), &selection, &plan(&path, Dtype::F16), &mut control).unwrap_err();
    assert!(matches!(error, LensError::TooLarge { layer: 1, .. }), "{error}");
    assert!(error.to_string().contains("resid_post") && !path.exists());
}

#[test]
fn an_interrupted_capture_goes_on_and_gives_the_same_file() {
    let Some(model) = tiny("llama") else { return };
    let session = exact_session(&model).unwrap();
    let selection = Selection::parse(model.config(), "resid_post,logits", "all", "all").unwrap();
    let (whole, broken) = (scratch("whole"), scratch("broken"));
    capture_to_file(&session, &prompts(), &selection, &plan(&whole, Dtype::F32), &mut Control::default()).unwrap();
    let mut runs = 0;
    loop {
        // every run is stopped when one prompt more is done
        let stop = AtomicBool::new(false);
        let lengths: Vec<usize> = prompts().iter().map(Vec::len).collect();
        let enough: usize = lengths.iter().take(runs + 1).sum();
        let mut progress = |done: usize, total: usize| {
            assert!(done <= total && total == lengths.iter().sum::<usize>());
            stop.store(done >= enough, Ordering::Relaxed);
        };
        let mut control = Control { progress: Some(&mut progress), cancel: Some(&stop), ..Control::default() };
        let run = capture_to_file(&session, &prompts(), &selection, &plan(&broken, Dtype::F32), &mut control);
        match run {
            Ok(done) => {
                assert_eq!(done.prompts, 4);
                assert!(done.resumed_prompts > 0, "it began anew");
                break;
            }
            Err(LensError::Engine(EngineError::Cancelled { .. })) => assert!(!broken.exists()),
            Err(other) => panic!("{other}"),
        }
        runs += 1;
        assert!(runs < 10);
    }
    assert!(runs >= 2, "it was never interrupted");
    assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(&broken).unwrap());
}

#[test]
fn a_file_of_another_capture_is_not_written_over() {
    let (Some(model), Some(other)) = (tiny("llama"), tiny("qwen3")) else { return };
    let session = exact_session(&model).unwrap();
    let selection = Selection::parse(model.config(), "resid_post", "0", "all").unwrap();
    let path = scratch("mine");
    let go = |session: &meden_engine::Session, prompts: &[Vec<u32>], selection: &Selection, dtype: Dtype| {
        capture_to_file(session, prompts, selection, &plan(&path, dtype), &mut Control::default())
    };
    go(&session, &prompts(), &selection, Dtype::F32).unwrap();
    let before = std::fs::read(&path).unwrap();
    let layer = Selection::parse(model.config(), "resid_post", "1", "all").unwrap();
    let last = Selection::parse(model.config(), "resid_post", "0", "last").unwrap();
    for refused in [
        go(&session, &prompts()[1..], &selection, Dtype::F32),
        go(&session, &prompts(), &layer, Dtype::F32),
        go(&session, &prompts(), &last, Dtype::F32),
        go(&session, &prompts(), &selection, Dtype::F16),
        go(&exact_session(&other).unwrap(), &prompts(), &selection, Dtype::F32),
    ] {
        assert!(matches!(refused, Err(LensError::Unfit { .. })), "{refused:?}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // nor is one that was left half-way
    let partial = path.with_file_name("mine.safetensors.partial");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&partial, "something else").unwrap();
    assert!(matches!(go(&session, &prompts(), &selection, Dtype::F32), Err(LensError::Unfit { .. })));
    assert_eq!(std::fs::read(&partial).unwrap(), b"something else");
}

#[test]
fn half_a_file_is_not_read() {
    let Some(model) = tiny("llama") else { return };
    let session = exact_session(&model).unwrap();
    let selection = Selection::parse(model.config(), "resid_post", "0", "all").unwrap();
    let path = scratch("half");
    let stop = AtomicBool::new(false);
    let mut progress = |done: usize, _: usize| stop.store(done > 20, Ordering::Relaxed);
    let mut control = Control { progress: Some(&mut progress), cancel: Some(&stop), ..Control::default() };
    capture_to_file(&session, &prompts(), &selection, &plan(&path, Dtype::F32), &mut control).unwrap_err();
    drop(control);
    let error = CaptureFile::open(&path.with_file_name("half.safetensors.partial")).unwrap_err();
    assert!(error.to_string().contains("of 4 prompts"), "{error}");
    let model_file = common::oracle("lens/tiny-llama.safetensors").unwrap();
    assert!(CaptureFile::open(&model_file).unwrap_err().to_string().contains("meden lens capture"));
}

#[test]
fn written_tokens_are_captured_as_if_they_had_been_read() {
    let Some(model) = tiny("llama") else { return };
    let session = exact_session(&model).unwrap();
    let greedy = |ids: &[u32], tokens: usize| {
        let mut session = exact_session(&model).unwrap();
        let mut logits = session.prefill(ids, &mut Control::default()).unwrap();
        let mut written = Vec::new();
        for _ in 0..tokens {
            written.push(common::argmax(&logits));
            logits = session.decode(written[written.len() - 1], &mut Control::default()).unwrap().to_vec();
        }
        written
    };
    for (positions, stops) in [("last", false), ("none", true)] {
        let selection = Selection::parse(model.config(), "resid_post,logits", "all", positions).unwrap();
        let path = scratch(&format!("written-{positions}"));
        let written: Vec<Vec<u32>> = prompts().iter().map(|ids| greedy(ids, 6)).collect();
        // one prompt ends early, which leaves rows that were kept free for it
        let stop = if stops { vec![written[1][2]] } else { Vec::new() };
        let generate = Generate { tokens: 6, stop: stop.clone(), sampling: SamplingConfig::default() };
        let options = FileCapture { path: path.clone(), dtype: Dtype::F32, generate: Some(generate) };
        let done = capture_to_file(&session, &prompts(), &selection, &options, &mut Control::default()).unwrap();
        let file = CaptureFile::open(&path).unwrap();
        let mut row = 0;
        for (number, (ids, mut written)) in prompts().into_iter().zip(written).enumerate() {
            if let Some(end) = written.iter().position(|id| stop.contains(id)) {
                written.truncate(end);
            }
            let first = if positions == "last" { ids.len() - 1 } else { ids.len() };
            let all: Vec<u32> = ids.iter().chain(&written).copied().collect();
            let want = common::grab(&model, &all, "resid_post,logits", "all");
            for (position, &id) in all.iter().enumerate().skip(first) {
                let of = file.rows()[row];
                assert_eq!((of.prompt, of.position, of.id), (number, position, id));
                for &place in want.places() {
                    let got = file.read(place, row..row + 1).unwrap();
                    let want = want.row(place, position).unwrap();
                    let size = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                    assert!(common::max_diff(&got, want) <= 2e-5 * size, "{place}, prompt {number}, {position}");
                }
                row += 1;
            }
        }
        assert_eq!((row, done.rows), (file.len(), row));
        assert_eq!(row < 6 * 4, stops, "a prompt ended early");
        assert!(!path.with_file_name(format!("written-{positions}.safetensors.partial")).exists());
    }
    let mut looked = exact_session(&model).unwrap();
    looked.forward(&[1, 2], LogitRows::None, &mut Control::default()).unwrap();
    let selection = Selection::parse(model.config(), "resid_post", "all", "none").unwrap();
    let path = scratch("nothing");
    let nothing = capture_to_file(&looked, &prompts(), &selection, &plan(&path, Dtype::F32), &mut Control::default());
    assert!(nothing.unwrap_err().to_string().contains("generate"));
}
