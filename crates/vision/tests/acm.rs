//! Adaptive computation modules: reference values by PyTorch, and what converting may not change.
#![allow(clippy::unwrap_used)]

mod common;

use common::{floats, shared};
use meden_kernels::grouped::{Activation, GroupedPlan, LearnerWeights, Learners, Residual, grouped_ffn};
use meden_kernels::{Isa, Pool};
use meden_vision::acm::{AcmBlock, AcmConfig, AcmModel, AcmParams, BiasMode, Dial, GateWeights, choose, load, save};
use meden_vision::vit::{Vit, VitFiles};
use safetensors::SafeTensors;

fn counts(file: &SafeTensors, name: &str) -> Vec<u8> {
    let bytes = file.tensor(name).unwrap().data();
    bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b) as u8).collect()
}

fn near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-5, "{what}: {worst}");
}

#[test]
fn learners_of_a_dense_module_agree_with_the_reference() {
    let Some(path) = shared("acm/ffn.safetensors") else { return };
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let [w1, b1, w2, b2, x, prefix] = ["w1", "b1", "w2", "b2", "x", "prefix"].map(|n| floats(&file, n));
    let (d, mlp, k) = (b2.len(), b1.len(), counts(&file, "k"));
    let n = file.tensor("prefix").unwrap().shape()[0] - 1;
    let w = mlp / n;
    let slabs: Vec<Vec<f32>> =
        (0..n).map(|n| w2.chunks_exact(mlp).flat_map(|row| row[n * w..(n + 1) * w].to_vec()).collect()).collect();
    let weights: Vec<_> = (0..n)
        .map(|n| LearnerWeights { w1: &w1[n * w * d..(n + 1) * w * d], b1: &b1[n * w..(n + 1) * w], w2: &slabs[n] })
        .collect();
    for isa in Isa::available() {
        let pool = Pool::new(2);
        let learners = Learners::new(&pool, d, Activation::Gelu, &weights).unwrap();
        let run = |k: &[u8], bias: &[f32]| {
            let (mut out, mut plan) = (vec![0.0; x.len()], GroupedPlan::new());
            let residual = Residual { bias, scale: &[] };
            grouped_ffn((&pool, isa), (&x, k), &learners, residual, &mut plan, &mut out).unwrap();
            out
        };
        near(&run(&k, &b2), &floats(&file, "out_always"), "always");
        near(&run(&k, &[]), &floats(&file, "out_hidden"), "hidden");
        near(&run(&vec![n as u8; k.len()], &b2), &floats(&file, "dense"), "dense");
        for (i, expected) in prefix.chunks_exact(x.len()).enumerate() {
            near(&run(&vec![i as u8; k.len()], &[]), expected, &format!("prefix {i}"));
        }
    }
}

#[test]
fn gates_agree_with_the_reference() {
    let Some(path) = shared("acm/gate.safetensors") else { return };
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let [w1, b1, w2, b2, x] = ["w1", "b1", "w2", "b2", "x"].map(|n| floats(&file, n));
    let d = w1.len() / b1.len();
    let gate = GateWeights { w1, b1, w2, b2 };
    let choices = gate.b2.len();
    let first = |x: &[f32]| -> Vec<f32> {
        gate.w1.chunks_exact(d).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    };
    let logits: Vec<f32> = x.chunks_exact(d).flat_map(|x| gate.logits(&first(x))).collect();
    near(&logits, &floats(&file, "logits"), "logits");
    let chosen: Vec<u8> = logits.chunks_exact(choices).map(|l| choose(l, 0, 0.0, choices - 1) as u8).collect();
    assert_eq!(chosen, counts(&file, "k"));
}

#[test]
fn a_split_model_with_all_learners_is_the_dense_one_and_survives_its_files() {
    let Some(root) = shared("dinov2") else { return };
    for entry in std::fs::read_dir(root).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("expected.safetensors").exists() {
            continue;
        }
        let files = VitFiles::open(&folder).unwrap();
        let (vit, params) = (files.config.clone(), files.params().unwrap());
        let order: Vec<usize> = (0..vit.mlp).collect();
        let widths = vec![vit.mlp / 4; 4];
        let bias = BiasMode::AlwaysOut;
        let blocks = (0..vit.layers).map(|l| AcmBlock::split(&params, l, &order, (&widths, bias))).collect();
        let modules = AcmParams { blocks };
        let config = AcmConfig {
            version: 1,
            learners: 4,
            widths,
            parts: vec!["ffn".into()],
            min_choice: 0,
            bias,
            gate_hidden: 0,
            tau: 0.83,
            phases: vec![],
            target: None,
            achieved: None,
            dial: vec![],
        };
        let out = std::env::temp_dir().join(format!("meden-acm-{}-{}", std::process::id(), vit.registers));
        std::fs::create_dir_all(&out).unwrap();
        save(&out, &config, &modules, vit.width).unwrap();
        let (config, again) = load(&out, &vit).unwrap().unwrap();
        assert!(again == modules);
        let refused = AcmConfig { widths: vec![1; 4], ..config.clone() };
        save(&out, &refused, &modules, vit.width).unwrap();
        assert!(load(&out, &vit).is_err_and(|e| e.to_string().contains("learners.0.w1")));
        std::fs::remove_dir_all(&out).unwrap();
        let size = (4 * vit.patch, 4 * vit.patch);
        let pixels: Vec<f32> = (0..2 * 3 * size.0 * size.1).map(|i| (i as f32 * 0.37).sin()).collect();
        let dense = Vit::new(vit.clone(), params.clone(), Pool::new(2), Isa::best());
        let acm = AcmModel::new(&Pool::new(1), vit.width, config, &modules).unwrap();
        let mut split = Vit::new(vit.clone(), params, Pool::new(2), Isa::best()).with_acm(acm, vit.layers).unwrap();
        let expected = dense.hidden(&pixels, size, None).unwrap();
        let worst = |a: &[f32]| a.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst(&split.hidden(&pixels, size, None).unwrap()) < 2e-5);
        let acm = split.acm_mut().unwrap();
        assert!(acm.turn(Dial::Gates { shift: 0.0, most: 4 }).is_err() && acm.turn(Dial::Fixed(5)).is_err());
        assert!((acm.share(&acm.take_seen()) - 1.0).abs() < 1e-12);
        acm.turn(Dial::Fixed(1)).unwrap();
        assert!(worst(&split.hidden(&pixels, size, None).unwrap()) > 1e-3, "one learner is not four");
        let acm = split.acm().unwrap();
        assert!((acm.share(&acm.take_seen()) - 0.25).abs() < 1e-12);
    }
}
