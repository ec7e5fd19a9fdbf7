//! Loading a model: it tells how far it is, stops when asked to, and leaves nothing behind.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use common::oracle;
use meden_engine::{EngineError, LoadOptions, LoadWatch, Model, WeightMode};
use meden_files::ModelFiles;

/// Every way of holding weights.
fn ways() -> Vec<LoadOptions> {
    let native = LoadOptions { threads: 2, ..LoadOptions::default() };
    let quantized = |name: &str| LoadOptions { quantize: Some(name.parse().unwrap()), ..native.clone() };
    let held = |weights| LoadOptions { weights, ..native.clone() };
    vec![native.clone(), held(WeightMode::F32), held(WeightMode::Mapped), quantized("q4_k"), quantized("f32")]
}

#[test]
fn progress_counts_every_byte_once_in_every_family_and_way() {
    let Some(root) = oracle("tiny") else { return };
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let files = ModelFiles::open(&path).unwrap();
        for options in ways() {
            let seen = Mutex::new(Vec::new());
            let progress = |done, total| seen.lock().unwrap().push((done, total));
            let watch = LoadWatch { progress: Some(&progress), cancel: None };
            let model = Model::load_watched(&files, &options, watch).unwrap();
            let seen = seen.into_inner().unwrap();
            let total = seen[0].1;
            assert!(seen.iter().all(|&(done, of)| of == total && done <= total));
            assert_eq!(seen.last(), Some(&(total, total)));
            // the last tensor completed it, before the call that says so in any case
            let before = seen[..seen.len() - 1].iter().map(|s| s.0).max();
            assert_eq!(before, Some(total), "{}: {options:?}", path.display());
            assert!(seen.len() > model.config().layers);
        }
    }
}

#[test]
fn a_load_that_is_stopped_says_how_far_it_was() {
    let Some(path) = oracle("tiny/llama") else { return };
    let files = ModelFiles::open(&path).unwrap();
    for options in ways() {
        for after in [0, 1, 7] {
            let stop = AtomicBool::new(after == 0);
            let calls = Mutex::new(0);
            let progress = |_, _| {
                let mut calls = calls.lock().unwrap();
                *calls += 1;
                stop.store(*calls >= after, Ordering::Relaxed);
            };
            let watch = LoadWatch { progress: Some(&progress), cancel: Some(&stop) };
            let error = Model::load_watched(&files, &options, watch).unwrap_err();
            let EngineError::LoadCancelled { done, total } = error else { panic!("{error}") };
            assert!(done < total && (done > 0) == (after > 0), "{done} of {total} after {after}");
        }
    }
    Model::load(&files, &ways()[0]).unwrap();
}
