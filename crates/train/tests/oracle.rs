//! Reference values of gradients, optimiser steps and ALaST steps, by PyTorch and transformers.
#![allow(clippy::unwrap_used)]

#[path = "common/reference.rs"]
mod reference;

use std::path::Path;

use meden_kernels::{Isa, Pool};
use meden_train::vision::alast::{AlastOptions, Alpha, Delta, FirstDelta, Layers};
use meden_train::vision::{
    Decay, Loss, Method, Network, OptimizerOptions, Trained, Trainer, TrainerOptions, cross_entropy,
};
use meden_vision::vit::{Params, Vit, VitConfig, VitFiles};
use reference::{floats, shared};
use safetensors::SafeTensors;

fn integers(file: &SafeTensors, name: &str) -> Vec<usize> {
    let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    tensor.data().as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b) as usize).collect()
}

fn image_size(file: &SafeTensors, pixels: &str) -> (usize, usize) {
    let shape = file.tensor(pixels).unwrap().shape().to_vec();
    (shape[2], shape[3])
}

/// A weight under the file's names and in its order, from what `parts` holds.
fn named(config: &VitConfig, parts: &Params) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    for (part, values) in parts.iter() {
        let row: usize = config.shape(part)[1..].iter().product();
        for tensor in config.tensors(part) {
            all.push((tensor.name, values[tensor.rows.start * row..tensor.rows.end * row].to_vec()));
        }
    }
    all
}

fn network(folder: &Path, threads: usize, isa: Isa) -> Network {
    let files = VitFiles::open(folder).unwrap();
    Network::new(files.config.clone(), files.params().unwrap(), Pool::new(threads), isa).unwrap()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn gradients_of_a_classifier_and_the_forward_pass_of_inference() {
    let Some(root) = shared("vision") else { return };
    let bytes = std::fs::read(root.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (pixels, size, labels) = (floats(&file, "pixels"), image_size(&file, "pixels"), integers(&file, "labels"));
    for isa in Isa::available() {
        let mut bits: Option<Params> = None;
        for threads in [1, 2] {
            let mut net = network(&root.join("vit"), threads, isa);
            let trained = Trained::of(&net.config, |_| true);
            let tape = net.forward((&pixels, size), &trained, None).unwrap();
            let logits = net.logits(&tape.class);
            assert!(worst(&logits, &floats(&file, "logits")) < 1e-5);
            let inference = Vit::new(net.config.clone(), net.params.clone(), Pool::new(threads), isa);
            assert!(logits == inference.logits(&pixels, size).unwrap(), "training and inference differ");
            let Loss { value, gradient, .. } = cross_entropy(&logits, &labels, net.config.classes.len(), 0.0).unwrap();
            assert!((value - f64::from(floats(&file, "loss")[0])).abs() < 1e-5);
            let mut gradients = Params::zeros(&net.config, |_| true);
            net.backward(tape, &gradient, &mut gradients);
            for (name, found) in named(&net.config, &gradients) {
                let off = worst(&found, &floats(&file, &format!("grad.{name}")));
                assert!(off < 1e-5, "{isa:?} {name}: {off}");
            }
            assert!(bits.as_ref().is_none_or(|b| *b == gradients), "threads change bits");
            bits = Some(gradients);
        }
    }
}

#[test]
fn gradients_through_layer_scale_and_registers() {
    let Some(root) = shared("dinov2") else { return };
    for case in ["plain", "registers"].map(|c| root.join(c)).into_iter().filter(|p| p.exists()) {
        let bytes = std::fs::read(case.join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut net = network(&case, 2, Isa::best());
        let (pixels, size) = (floats(&file, "pixels_native"), image_size(&file, "pixels_native"));
        let tape = net.forward((&pixels, size), &Trained::of(&net.config, |_| true), None).unwrap();
        let count = tape.class.len() as f32;
        let d_class: Vec<f32> = tape.class.iter().map(|v| 2.0 * v / count).collect();
        let mut gradients = Params::zeros(&net.config, |_| true);
        net.backward_class(tape, &d_class, &mut gradients);
        let mut compared = 0;
        for (name, found) in named(&net.config, &gradients) {
            let off = worst(&found, &floats(&file, &format!("grad.{name}")));
            assert!(off < 2e-5, "{} {name}: {off}", case.display());
            compared += 1;
        }
        assert_eq!(compared, file.names().iter().filter(|n| n.starts_with("grad.")).count());
    }
}

/// Of all weights but key biases, whose true gradient is zero, at least 99.9% within 1e-4 and all within 2e-3.
fn close(config: &VitConfig, params: &Params, file: &SafeTensors, prefix: &str) {
    let (mut near, mut all) = (0usize, 0usize);
    for (name, found) in named(config, params).into_iter().filter(|(n, _)| !n.ends_with("attention.key.bias")) {
        let expected = floats(file, &format!("{prefix}.{name}"));
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= 2e-3, "{prefix}.{name}: {a} not {b}");
            near += usize::from((a - b).abs() <= 1e-4);
            all += 1;
        }
    }
    assert!(near as f64 >= 0.999 * all as f64, "{prefix}: {near} of {all} are within 1e-4");
}

fn plain_adam(decay: f32) -> OptimizerOptions {
    OptimizerOptions { eps: 1e-4, decay, decays: Decay::All, clip: 0.0, ..OptimizerOptions::default() }
}

/// Everything but the blocks whose flag is not set.
fn with_blocks(config: &VitConfig, flags: &[usize]) -> Trained {
    Trained::of(config, |p| p.layer().is_none_or(|l| flags[l] == 1))
}

#[test]
fn steps_of_adamw_with_and_without_frozen_blocks() {
    let Some(root) = shared("vision") else { return };
    let bytes = std::fs::read(root.join("train.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for prefix in ["full", "frozen"] {
        let options = TrainerOptions { optimizer: plain_adam(0.05), ..TrainerOptions::default() };
        let mut trainer = Trainer::new(network(&root.join("vit"), 2, Isa::best()), options).unwrap();
        let layers = trainer.network.config.layers;
        let sets = integers(&file, "frozen.sets");
        let losses = floats(&file, &format!("{prefix}.loss"));
        for (step, loss) in losses.iter().enumerate() {
            let flags =
                if prefix == "full" { vec![1; layers] } else { sets[step * layers..(step + 1) * layers].to_vec() };
            let trained = with_blocks(&trainer.network.config, &flags);
            let before = (trainer.network.params.clone(), trainer.optimizer.clone());
            let key = format!("x.{step}");
            let labels = integers(&file, &format!("y.{step}"));
            let batch = (floats(&file, &key), image_size(&file, &key));
            let report = trainer.step_with((&batch.0, batch.1), &labels, 1e-2, &trained).unwrap();
            assert!((report.loss - f64::from(*loss)).abs() < 1e-4, "{prefix} {step}: {} not {loss}", report.loss);
            for (part, values) in trainer.network.params.iter() {
                let frozen = part.layer().is_some_and(|l| flags[l] == 0);
                let same = values == before.0.get(part)
                    && trainer.optimizer.first.get(part) == before.1.first.get(part)
                    && trainer.optimizer.second.get(part) == before.1.second.get(part);
                assert_eq!(frozen, same, "{prefix} step {step}: {part:?}");
            }
        }
        close(&trainer.network.config, &trainer.network.params, &file, prefix);
    }
}

#[test]
fn steps_of_alast_in_both_variants() {
    let Some(root) = shared("vision") else { return };
    for (variant, delta, first_delta, alpha) in
        [("author", Delta::Author, FirstDelta::Zero, 2e-4), ("mean", Delta::Mean, FirstDelta::Observe, 2e-2)]
    {
        let bytes = std::fs::read(root.join(format!("alast_{variant}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let alast = AlastOptions {
            alpha: Alpha::Fixed(alpha),
            delta,
            first_delta,
            layers: Layers::All,
            min_tokens: 0,
            ..AlastOptions::default()
        };
        let options =
            TrainerOptions { method: Method::Alast(alast), optimizer: plain_adam(0.0), ..TrainerOptions::default() };
        let mut trainer = Trainer::new(network(&root.join("vit"), 2, Isa::best()), options).unwrap();
        let layers = trainer.network.config.layers;
        let (sets, tokens) = (integers(&file, "sets"), integers(&file, "tokens"));
        let (deltas, budgets, losses) = (floats(&file, "delta"), floats(&file, "budget"), floats(&file, "loss"));
        for (step, loss) in losses.iter().enumerate() {
            let at = step * layers..(step + 1) * layers;
            let trained = with_blocks(&trainer.network.config, &sets[at.clone()]);
            let key = format!("x.{step}");
            let (pixels, size) = (floats(&file, &key), image_size(&file, &key));
            let labels = integers(&file, &format!("y.{step}"));
            let report = trainer.step_with((&pixels, size), &labels, 1e-2, &trained).unwrap();
            assert_eq!(report.tokens, tokens[at.clone()], "{variant} step {step}");
            assert!((report.loss - f64::from(*loss)).abs() < 1e-4, "{variant} {step}: {} not {loss}", report.loss);
            for layer in 0..layers - 1 {
                let expected = integers(&file, &format!("kept.{step}.{layer}"));
                let all = || vec![(0..report.tokens[layer]).collect::<Vec<usize>>(); labels.len()];
                let found = report.kept[layer].clone().unwrap_or_else(all);
                assert_eq!(found.concat(), expected, "{variant} step {step} block {layer}");
            }
            for (l, i) in at.enumerate() {
                let off = (report.deltas[l] - f64::from(deltas[i])).abs();
                assert!(off < 1e-3 * f64::from(deltas[i]).abs().max(1.0), "{variant} {step} {l}: delta off by {off}");
                assert!((report.budgets[l] - f64::from(budgets[i])).abs() < 1e-4, "{variant} {step} {l}");
            }
        }
        close(&trainer.network.config, &trainer.network.params, &file, "weights");
    }
}
