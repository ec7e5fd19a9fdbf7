//! What methods promise, on a small random model and images drawn by code.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use common::{SIDE, config, pixels, random, steps};
use meden_kernels::{Isa, Pool};
use meden_train::vision::alast::{AlastOptions, Alpha, Layers};
use meden_train::vision::{
    Augment, Event, LoraOptions, Method, OptimizerOptions, Run, RunOptions, Schedule, Trainer, TrainerOptions,
    tuned_config,
};
use meden_vision::image::{Fit, Preprocess, image_folder};
use meden_vision::vit::{Head, Params, Vit, VitFiles, save};

fn trainer(method: Method, threads: usize) -> Trainer {
    common::trainer(common::method(method), threads)
}

fn alast(options: AlastOptions) -> Method {
    Method::Alast(options)
}

#[test]
fn alast_that_keeps_everything_is_full_tuning_to_the_bit() {
    let all = AlastOptions { b0: 1.0, clip: (1.0, 1.0), layers: Layers::All, ..AlastOptions::default() };
    let (mut a, mut b) = (trainer(alast(all), 2), trainer(Method::Full, 2));
    let (one, two) = (steps(&mut a, 20), steps(&mut b, 20));
    assert!(one.iter().zip(&two).all(|(a, b)| a.loss == b.loss && a.flops == b.flops));
    assert!(a.network.params == b.network.params && a.optimizer == b.optimizer);
    assert!(one[19].loss < one[0].loss);
}

#[test]
fn every_method_gives_the_same_bits_for_any_threads_and_moves_what_it_should() {
    let still = AlastOptions { alpha: Alpha::Fixed(0.0), min_tokens: 1, ..AlastOptions::default() };
    for method in [
        Method::Full,
        Method::Probe,
        Method::LastK { k: 2 },
        Method::Bitfit,
        Method::Lora(LoraOptions { rank: 4, ..LoraOptions::default() }),
        Method::Lisa { k: 1, interval: 2 },
        alast(AlastOptions { k: 2, ..AlastOptions::default() }),
        alast(AlastOptions { freeze_embed: true, k: 1, ..still }),
        alast(AlastOptions { lora: Some(LoraOptions { rank: 4, ..LoraOptions::default() }), k: 2, ..still }),
        alast(AlastOptions { layers: Layers::Suffix, k: 2, freeze_embed: true, target_flops: Some(0.4), ..still }),
        alast(AlastOptions { layers: Layers::Topk, k: 0, ..still }),
    ] {
        let (mut one, mut two) = (trainer(method, 1), trainer(method, 2));
        for step in 0..6 {
            let before = one.network.params.clone();
            let trained = one.next_trained();
            let (x, y) = pixels(step);
            let report = one.step((&x, (SIDE, SIDE)), &y, 1e-3).unwrap();
            assert_eq!(report, two.step((&x, (SIDE, SIDE)), &y, 1e-3).unwrap(), "{method:?}");
            for (part, values) in one.network.params.iter() {
                assert_eq!(values != before.get(part), trained.0.contains(&part), "{method:?} {part:?}");
            }
        }
        assert!(one.network.params == two.network.params && one.optimizer == two.optimizer, "{method:?}");
    }
}

#[test]
fn budgets_that_do_not_move_give_the_sequence_of_tokens_and_exactly_k_blocks() {
    let still = AlastOptions { alpha: Alpha::Fixed(0.0), k: 3, min_tokens: 1, ..AlastOptions::default() };
    for report in steps(&mut trainer(alast(still), 2), 5) {
        assert_eq!(report.tokens, [17, 16, 15, 14]);
        assert_eq!(report.trained.iter().filter(|t| **t).count(), 3);
        assert!(report.budgets.iter().all(|b| *b == 0.9));
        for (layer, kept) in report.kept.iter().enumerate() {
            for kept in kept.iter().flatten() {
                assert!(
                    kept[0] == 0 && kept.is_sorted_by(|a, b| a < b) && *kept.last().unwrap() < report.tokens[layer]
                );
            }
        }
    }
}

#[test]
fn activations_shrink_with_the_budget() {
    let kept = |b0| {
        let o = AlastOptions {
            alpha: Alpha::Fixed(0.0),
            b0,
            min_tokens: 1,
            layers: Layers::All,
            ..AlastOptions::default()
        };
        steps(&mut trainer(alast(o), 1), 1)[0].activation_bytes
    };
    let all: Vec<usize> = [1.0, 0.9, 0.7, 0.5].map(kept).to_vec();
    assert!(all.is_sorted_by(|a, b| a > b), "{all:?}");
    assert_eq!(steps(&mut trainer(Method::Probe, 1), 1)[0].activation_bytes, 0);
}

#[test]
fn a_frozen_block_passes_the_same_gradient_as_a_trained_one() {
    let mut all = trainer(Method::Full, 2);
    let (x, _) = pixels(0);
    let full = meden_train::vision::Trained::of(&all.network.config, |_| true);
    let some = meden_train::vision::Trained::of(&all.network.config, |p| !matches!(p.layer(), Some(1 | 2)));
    let mut gradients = |trained: &meden_train::vision::Trained| {
        let tape = all.network.forward((&x, (SIDE, SIDE)), trained, None).unwrap();
        let d: Vec<f32> = tape.class.iter().map(|v| v * 0.1).collect();
        let mut g = Params::zeros(&all.network.config, |p| trained.0.contains(&p));
        all.network.backward_class(tape, &d, &mut g);
        g
    };
    let (full, some) = (gradients(&full), gradients(&some));
    for (part, values) in some.iter() {
        assert!(values == full.get(part), "{part:?}");
    }
    assert!(some.len() < full.len());
}

/// Four classes of images: where a bright square is.
fn photos(root: &Path) {
    for (part, count) in [("train", 6u32), ("validation", 3)] {
        for (class, (cx, cy)) in ["a", "b", "c", "d"].into_iter().zip([(0, 0), (8, 0), (0, 8), (8, 8)]) {
            let folder = root.join(part).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for i in 0..count {
                let pixel = |x: u32, y: u32| {
                    let inside = (cx..cx + 8).contains(&x) && (cy..cy + 8).contains(&y);
                    image::Rgb([if inside { 220 } else { 20 }, (x * 7 + i * 31) as u8, (y * 5 + i * 17) as u8])
                };
                image::RgbImage::from_fn(16, 16, pixel).save(folder.join(format!("{i}.png"))).unwrap();
            }
        }
    }
}

fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A model's folder and the images.
fn setting(name: &str, layer_scale: bool) -> PathBuf {
    let root = scratch(name);
    photos(&root.join("data"));
    let mut c = config(layer_scale);
    (c.head, c.classes) = (Head::None, Vec::new());
    let kind = if layer_scale { "dinov2" } else { "vit" };
    let raw = serde_json::json!({
        "model_type": kind, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 128,
        "mlp_ratio": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "image_size": SIDE, "patch_size": 4,
    });
    let preprocess = Preprocess { fit: Fit::Squash, ..Preprocess::new((SIDE, SIDE)) };
    save(&root.join("pretrained"), &c, &random(&c, 5), &raw, &preprocess).unwrap();
    root
}

fn options(epochs: u64) -> RunOptions {
    RunOptions {
        trainer: TrainerOptions {
            method: alast(AlastOptions { k: 3, min_tokens: 4, ..AlastOptions::default() }),
            optimizer: OptimizerOptions::default(),
            label_smoothing: 0.0,
            seed: 1,
            ..TrainerOptions::default()
        },
        epochs,
        batch: 5,
        rate: 2e-3,
        warmup: 2,
        schedule: Schedule::Cosine,
        augment: Augment::Crop { scale: 0.8 },
        skip_bad: false,
        reset_head: false,
    }
}

fn open(
    root: &Path,
    model: &str,
    run: &str,
    o: RunOptions,
    resume: bool,
) -> Result<Run, meden_train::vision::TrainError> {
    let files = VitFiles::open(&root.join(model)).unwrap();
    let sets = (image_folder(&root.join("data/train")).unwrap(), image_folder(&root.join("data/validation")).unwrap());
    let preprocess = files.preprocess.clone();
    Run::open(&root.join(run), (&files, preprocess), sets, o, (resume, 2, Isa::best()))
}

#[test]
fn a_run_that_was_interrupted_ends_as_one_that_was_not_and_its_models_can_be_used() {
    for layer_scale in [false, true] {
        let root = setting(if layer_scale { "run-dinov2" } else { "run-vit" }, layer_scale);
        let never = AtomicBool::new(false);
        let mut whole = open(&root, "pretrained", "whole", options(4), false).unwrap();
        let outcome = whole.train(&mut |_| {}, &never).unwrap();
        assert!(outcome.finished && outcome.steps == 20 && outcome.best.is_some());

        let stop = AtomicBool::new(false);
        let mut parts = open(&root, "pretrained", "parts", options(4), false).unwrap();
        let mut watch = |event: Event| {
            if matches!(event, Event::Step(report, _) if report.step == 6) {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let outcome = parts.train(&mut watch, &stop).unwrap();
        assert!(!outcome.finished && outcome.steps == 7);
        drop(parts);
        assert!(open(&root, "pretrained", "parts", options(4), false).is_err(), "a run is there already");
        assert!(open(&root, "pretrained", "parts", options(5), true).is_err(), "other settings");
        let mut parts = open(&root, "pretrained", "parts", options(4), true).unwrap();
        parts.train(&mut |_| {}, &never).unwrap();
        assert!(parts.trainer().network.params == whole.trainer().network.params);
        assert!(parts.trainer().optimizer == whole.trainer().optimizer);
        assert!(parts.trainer().budgets == whole.trainer().budgets);
        let read = |run: &str, file: &str| std::fs::read(root.join(run).join(file)).unwrap();
        for file in ["metrics.jsonl", "model/model.safetensors", "best/model.safetensors"] {
            assert!(read("parts", file) == read("whole", file), "{file}");
        }

        // What inference reads back gives the logits of training.
        let files = VitFiles::open(&root.join("whole/model")).unwrap();
        assert_eq!(files.config.classes, ["a", "b", "c", "d"]);
        let model = Vit::load(&files, 1, None).unwrap();
        let (x, _) = pixels(3);
        let network = whole.trainer();
        let plain = Vit::new(
            tuned_config(&network.network.config, &network.network.config.classes).unwrap(),
            network.network.params.clone(),
            Pool::new(1),
            Isa::best(),
        );
        let (a, b) = (model.logits(&x, (SIDE, SIDE)).unwrap(), plain.logits(&x, (SIDE, SIDE)).unwrap());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6));

        // Tuning goes on from it, but not with other classes.
        assert!(open(&root, "whole/model", "again", options(1), false).is_ok());
        std::fs::rename(root.join("data/train/d"), root.join("data/train/e")).unwrap();
        std::fs::rename(root.join("data/validation/d"), root.join("data/validation/e")).unwrap();
        let error = open(&root, "whole/model", "other", options(1), false).err().unwrap().to_string();
        assert!(error.contains("reset-head"), "{error}");
        assert!(open(&root, "whole/model", "other", RunOptions { reset_head: true, ..options(1) }, false).is_ok());
    }
}

#[test]
fn full_tuning_learns_the_shapes() {
    let root = setting("learn", false);
    let full = RunOptions { trainer: TrainerOptions { method: Method::Full, ..options(1).trainer }, ..options(40) };
    let mut run =
        open(&root, "pretrained", "full", RunOptions { augment: Augment::None, rate: 5e-3, ..full }, false).unwrap();
    let outcome = run.train(&mut |_| {}, &AtomicBool::new(false)).unwrap();
    assert!(outcome.best.unwrap().0 >= 0.9, "{outcome:?}");
}

#[test]
fn a_corrupt_image_is_named_and_with_skip_bad_left_out() {
    let root = setting("corrupt", false);
    std::fs::write(root.join("data/train/a/0.png"), b"no image").unwrap();
    let never = AtomicBool::new(false);
    let mut run = open(&root, "pretrained", "strict", options(1), false).unwrap();
    assert!(run.train(&mut |_| {}, &never).unwrap_err().to_string().contains("0.png"));
    let mut named = Vec::new();
    let mut run = open(&root, "pretrained", "lax", RunOptions { skip_bad: true, ..options(1) }, false).unwrap();
    let mut watch = |event: Event| {
        if let Event::Bad(problem) = event {
            named.push(problem.to_owned());
        }
    };
    let outcome = run.train(&mut watch, &never).unwrap();
    assert_eq!((outcome.bad, named.len()), (1, 1));
    assert!(named[0].contains("0.png"));
}
