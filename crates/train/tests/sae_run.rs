//! Training end to end on activations of a tiny model: it learns, it goes on where it was stopped, and what it writes is
//! read back.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use meden_engine::{Control, LoadOptions, Model, Site};
use meden_files::ModelFiles;
use meden_kernels::Pool;
use meden_lens::capture::{CaptureFile, Dtype, FileCapture, Selection, capture_to_file, exact_session};
use meden_lens::place::{Place, Positions};
use meden_lens::sae::{Origin, Sae, fit, load};
use meden_stats::Rng;
use meden_train::sae::{Companions, Finished, Line, Recipe, TrainError, train};

/// A folder with activations of a tiny model; `None`, with a printed line, where there is no model.
fn activations(name: &str) -> Option<(PathBuf, CaptureFile, Place)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle/tiny/llama");
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    let model = Model::load(&ModelFiles::open(&path).unwrap(), &LoadOptions::default()).unwrap();
    let folder = std::env::temp_dir().join(format!("meden-sae-run-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let mut rng = Rng::new(3, 3);
    let vocab = model.config().vocab as u64;
    let prompts: Vec<Vec<u32>> = (0..40).map(|_| (0..32).map(|_| rng.below(vocab) as u32).collect()).collect();
    let place = Place::new(Site::ResidPost, 0);
    let selection = Selection::new(vec![place], "1-31".parse::<Positions>().unwrap());
    let file = folder.join("activations.safetensors");
    let options = FileCapture { path: file.clone(), dtype: Dtype::F16, generate: None };
    let session = exact_session(&model).unwrap();
    capture_to_file(&session, &prompts, &selection, &options, &mut Control::default()).unwrap();
    Some((folder, CaptureFile::open(&file).unwrap(), place))
}

fn recipe() -> Recipe {
    Recipe { batch: 100, epochs: 4.0, rate: Some(3e-3), dead_after: 300, ..Recipe::new(150, 8, 1240) }
}

/// Trains, and stops by itself after a step where asked to.
fn go(
    (file, place): (&CaptureFile, Place),
    (folder, threads): (&Path, usize),
    stop: Option<usize>,
) -> (Result<Finished, TrainError>, Vec<Line>) {
    let cancel = AtomicBool::new(false);
    let mut lines = Vec::new();
    let mut progress = |line: &Line| {
        lines.push(line.clone());
        if Some(line.step) == stop {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let mut companions = Companions { progress: &mut progress, cancel: &cancel };
    std::fs::create_dir_all(folder).unwrap();
    let done = train(file, place, &recipe(), (folder, &Pool::new(threads)), &mut companions);
    (done, lines)
}

#[test]
fn it_learns_and_what_it_writes_is_read_back() {
    let Some((folder, file, place)) = activations("learns") else { return };
    let (done, lines) = go((&file, place), (&folder, 2), None);
    let done = done.unwrap();
    assert_eq!(lines.len(), recipe().steps(file.len() as u64));
    let mean = |lines: &[Line]| lines.iter().map(|l| l.fvu).sum::<f64>() / lines.len() as f64;
    let (early, late) = (mean(&lines[..5]), mean(&lines[lines.len() - 5..]));
    assert!(late < 0.7 * early, "{early} {late}");
    assert!(lines.iter().all(|l| l.l0 <= 8.0));
    let rows = file.read(place, 0..file.len()).unwrap();
    let judge = |parts: meden_lens::sae::Parts| {
        let sae = Sae::new(parts, 1).unwrap();
        let codes = sae.encode(&rows).unwrap();
        fit(&rows, &sae.decode(&codes).unwrap(), &codes, sae.d_in()).unwrap()
    };
    let here = judge(done.state.parts(&recipe(), (done.shape.scale, false), Origin::default()));
    assert!(here.fvu < 1.3 * late && here.l0 <= 8.0, "{here:?} {late}");
    let out = folder.join("out");
    done.state
        .parts(&recipe(), (done.shape.scale, false), Origin::default())
        .save(&out, serde_json::Value::Null)
        .unwrap();
    let back = judge(load(&out).unwrap());
    assert!((back.fvu - here.fvu).abs() < 1e-5, "{back:?} {here:?}");
    // with the learnt threshold instead of the k largest: about as many are active
    let jump = judge(done.state.parts(&recipe(), (done.shape.scale, true), Origin::default()));
    assert!(jump.l0 > 2.0 && jump.l0 < 40.0, "{jump:?}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_run_that_was_stopped_ends_in_the_same_bits_whatever_the_threads() {
    let Some((folder, file, place)) = activations("resumes") else { return };
    let whole = go((&file, place), (&folder.join("whole"), 1), None).0.unwrap();
    let part = folder.join("part");
    for stop in [7, 19, 31] {
        let stopped = go((&file, place), (&part, 2), Some(stop)).0;
        assert!(matches!(stopped, Err(TrainError::Stopped { step, .. }) if step == stop));
    }
    let resumed = go((&file, place), (&part, 2), None).0.unwrap();
    assert_eq!(resumed.resumed_at, 31);
    assert!(whole.state == resumed.state, "a resumed run differs");
    // another recipe does not go on from it
    let other = Recipe { seed: 5, ..recipe() };
    let cancel = AtomicBool::new(false);
    let mut companions = Companions { progress: &mut |_| {}, cancel: &cancel };
    let refused = train(&file, place, &other, (&part, &Pool::new(1)), &mut companions);
    assert!(matches!(refused, Err(TrainError::Unfit { .. })));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn directions_stay_one_long_and_silence_is_counted() {
    let Some((folder, file, place)) = activations("dead") else { return };
    let (done, lines) = go((&file, place), (&folder, 1), None);
    let state = done.unwrap().state;
    for row in state.weights.decoder.chunks(state.weights.d) {
        let length: f32 = row.iter().map(|w| w * w).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-5);
    }
    let last = lines.last().unwrap();
    assert!(state.age.iter().filter(|a| **a == 0).count() > 8);
    assert!((0.0..=1.0).contains(&last.dead) && lines.iter().any(|l| l.dead > 0.0 || l.aux == 0.0));
    std::fs::remove_dir_all(&folder).unwrap();
}
