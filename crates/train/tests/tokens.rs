//! What dropping tokens means: masking, no trace in evaluation, order, and memory.
#![allow(clippy::unwrap_used)]

mod common;

use common::{SIDE, method, network, pixels, random, steps, trainer};
use meden_kernels::{Isa, Pool};
use meden_train::vision::alast::{AlastOptions, Alpha, Layers};
use meden_train::vision::{Method, Network, Observed, TrainError, Trained, Trainer, TrainerOptions, plan};
use meden_vision::vit::{BlockPart, Params, Part, Trace, Vit, VitConfig};

type Kept = Option<Vec<Vec<usize>>>;

fn affine(x: &[f64], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
    weight.chunks_exact(x.len()).zip(bias).map(|(row, b)| dot(row) + f64::from(*b)).collect()
}

fn norm(x: &[f64], weight: &[f32], bias: &[f32], eps: f64) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let scaled = x.iter().map(|v| (v - mean) / (variance + eps).sqrt());
    scaled.zip(weight).zip(bias).map(|((v, w), b)| v * f64::from(*w) + f64::from(*b)).collect()
}

/// The error function by its series, which converges for what occurs here.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// A block in f64, written plainly, on all tokens of one image; tokens that are not `alive` are masked as keys.
fn block(config: &VitConfig, params: &Params, layer: usize, x: &[Vec<f64>], alive: &[bool]) -> Vec<Vec<f64>> {
    let p = |part| params.block(layer, part);
    let (d, heads, eps) = (config.width, config.heads, f64::from(config.eps));
    let size = d / heads;
    let qkv: Vec<Vec<f64>> = x
        .iter()
        .map(|t| norm(t, p(BlockPart::Norm1Weight), p(BlockPart::Norm1Bias), eps))
        .map(|t| affine(&t, p(BlockPart::QkvWeight), p(BlockPart::QkvBias)))
        .collect();
    let attend = |token: usize| -> Vec<f64> {
        let mut out = vec![0.0; d];
        for head in 0..heads {
            let at = head * size..(head + 1) * size;
            let score = |key: &Vec<f64>| -> f64 {
                let q = &qkv[token][at.clone()];
                let k = &key[d + at.start..d + at.end];
                q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() / (size as f64).sqrt()
            };
            let weights: Vec<f64> =
                qkv.iter().zip(alive).map(|(key, alive)| if *alive { score(key).exp() } else { 0.0 }).collect();
            let total: f64 = weights.iter().sum();
            for (key, weight) in qkv.iter().zip(weights) {
                for (o, v) in out[at.clone()].iter_mut().zip(&key[2 * d + at.start..]) {
                    *o += weight / total * v;
                }
            }
        }
        out
    };
    (0..x.len())
        .map(|token| {
            let branch = affine(&attend(token), p(BlockPart::ProjWeight), p(BlockPart::ProjBias));
            let middle: Vec<f64> = x[token].iter().zip(branch).map(|(a, b)| a + b).collect();
            let inner = norm(&middle, p(BlockPart::Norm2Weight), p(BlockPart::Norm2Bias), eps);
            let wide = affine(&inner, p(BlockPart::Fc1Weight), p(BlockPart::Fc1Bias));
            let wide: Vec<f64> =
                wide.into_iter().map(|v| 0.5 * v * (1.0 + erf(v / std::f64::consts::SQRT_2))).collect();
            let branch = affine(&wide, p(BlockPart::Fc2Weight), p(BlockPart::Fc2Bias));
            middle.iter().zip(branch).map(|(a, b)| a + b).collect()
        })
        .collect()
}

#[test]
fn a_removed_token_is_a_masked_token() {
    let mut net = network(false, 2);
    let (x, _) = pixels(4);
    let images = x.len() / (3 * SIDE * SIDE);
    // Other tokens for each image, after each block but the last.
    let choose = |layer: usize, n: usize, image: usize| -> Vec<usize> {
        std::iter::once(0).chain((1..n).filter(|t| !(t * 5 + image + layer).is_multiple_of(4))).collect()
    };
    let mut after = |seen: Observed| -> Result<Kept, TrainError> {
        let least = (0..seen.images).map(|i| choose(seen.layer, seen.tokens, i).len()).min().unwrap();
        let cut = |i| choose(seen.layer, seen.tokens, i)[..least].to_vec();
        Ok((seen.layer < 3).then(|| (0..seen.images).map(cut).collect()))
    };
    let tape = net.forward((&x, (SIDE, SIDE)), &Trained::default(), Some(&mut after)).unwrap();
    assert!(tape.tokens.windows(2).all(|w| w[1] < w[0]), "{:?}", tape.tokens);

    let model = Vit::new(net.config.clone(), net.params.clone(), Pool::new(1), Isa::best());
    let mut trace = Trace::default();
    model.hidden(&x, (SIDE, SIDE), Some(&mut trace)).unwrap();
    let (d, all) = (net.config.width, 17);
    for image in 0..images {
        let rows = trace.hidden[0][image * all * d..(image + 1) * all * d].chunks_exact(d);
        let mut states: Vec<Vec<f64>> = rows.map(|r| r.iter().map(|v| f64::from(*v)).collect()).collect();
        let mut left: Vec<usize> = (0..all).collect();
        for layer in 0..net.config.layers {
            let alive: Vec<bool> = (0..all).map(|t| left.contains(&t)).collect();
            states = block(&net.config, &net.params, layer, &states, &alive);
            if let Some(kept) = &tape.kept[layer] {
                left = kept[image].iter().map(|t| left[*t]).collect();
            }
        }
        let (weight, bias) = (net.params.get(Part::NormWeight), net.params.get(Part::NormBias));
        let expected = norm(&states[0], weight, bias, f64::from(net.config.eps));
        for (found, expected) in tape.class[image * d..(image + 1) * d].iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "image {image}: {found} not {expected}");
        }
    }
}

/// The shape of ViT-S/14 at 224 px, in weights that are never read.
fn small() -> Network {
    let config =
        VitConfig { layers: 12, width: 384, heads: 6, mlp: 1536, patch: 14, image: (224, 224), ..common::config(true) };
    let params = Params::zeros(&config, |_| true);
    Network::new(config, params, Pool::new(1), Isa::best()).unwrap()
}

#[test]
fn the_papers_setting_keeps_at_most_two_thirds_of_full_tunings_activations_and_less_with_less_budget() {
    let planned = |kind: Method| plan(&Trainer::new(small(), method(kind)).unwrap(), (224, 224), 16).memory.activations;
    let full = planned(Method::Full) as f64;
    let share = |b0| {
        let options = AlastOptions { b0, k: 9, ..AlastOptions::default() }.fixed();
        planned(Method::Alast(options)) as f64 / full
    };
    let all = [1.0, 0.95, 0.9, 0.8, 0.7, 0.5].map(share);
    assert!(all.is_sorted_by(|a, b| a > b) && all[2] <= 0.65, "{all:?}");
}

#[test]
fn evaluation_drops_nothing_and_touches_no_state() {
    let options = AlastOptions { k: 2, min_tokens: 1, ..AlastOptions::default() };
    let mut t = trainer(method(Method::Alast(options)), 2);
    steps(&mut t, 3);
    let before = (t.budgets.clone(), t.step, t.next_trained());
    let (x, _) = pixels(8);
    let (config, params) = t.plain();
    let model = Vit::new(config, params, Pool::new(2), Isa::best());
    let logits = model.logits(&x, (SIDE, SIDE)).unwrap();
    let tape = t.network.forward((&x, (SIDE, SIDE)), &Trained::default(), None).unwrap();
    assert!(tape.tokens == [17; 4] && t.network.logits(&tape.class) == logits);
    assert!((t.budgets.clone(), t.step, t.next_trained()) == before);
}

#[test]
fn the_last_blocks_budget_changes_nothing() {
    let options =
        AlastOptions { alpha: Alpha::Fixed(0.0), layers: Layers::All, min_tokens: 1, ..AlastOptions::default() };
    let (mut a, mut b) = (trainer(method(Method::Alast(options)), 1), trainer(method(Method::Alast(options)), 1));
    b.budgets.as_mut().unwrap().values[3] = 0.5;
    let (one, two) = (steps(&mut a, 2), steps(&mut b, 2));
    assert!(one.iter().zip(&two).all(|(a, b)| a.loss == b.loss && a.flops == b.flops && a.tokens == b.tokens));
    assert!(a.network.params == b.network.params);
}

#[test]
fn the_class_tokens_attention_is_a_distribution() {
    let mut net = network(true, 2);
    let (x, _) = pixels(2);
    let mut sums = Vec::new();
    let mut after = |seen: Observed| -> Result<Kept, TrainError> {
        sums.extend(seen.attention.chunks_exact(seen.tokens).map(|row| row.iter().map(|v| f64::from(*v)).sum::<f64>()));
        Ok(None)
    };
    net.forward((&x, (SIDE, SIDE)), &Trained::default(), Some(&mut after)).unwrap();
    assert!(sums.len() == 24 && sums.iter().all(|s| (s - 1.0).abs() < 1e-5), "{sums:?}");
}

#[test]
fn the_smallest_cases_work_and_others_are_refused() {
    let still = AlastOptions { alpha: Alpha::Fixed(0.0), ..AlastOptions::default() };
    // No block trained and embeddings left alone: the classifier and the last norm, nothing gone back through.
    let none = AlastOptions { layers: Layers::Suffix, k: 1, freeze_embed: true, ..still };
    let report = steps(&mut trainer(method(Method::Alast(none)), 1), 1).remove(0);
    assert_eq!(report.trained, [false, false, false, true]);
    let lisa = steps(&mut trainer(method(Method::Lisa { k: 0, interval: 1 }), 1), 1).remove(0);
    assert!(lisa.trained.iter().all(|t| !t) && lisa.flops.weights == 0 && lisa.flops.inputs > 0);
    // One image, one class, and an image of one patch: two tokens.
    let config = VitConfig { classes: vec!["only".into()], ..common::config(false) };
    let net = Network::new(config.clone(), random(&config, 2), Pool::new(1), Isa::best()).unwrap();
    let options = AlastOptions { min_tokens: 0, ..still };
    let mut one = Trainer::new(net, TrainerOptions { label_smoothing: 0.0, ..method(Method::Alast(options)) }).unwrap();
    let report = one.step((&[0.3; 3 * 16], (4, 4)), &[0], 1e-3).unwrap();
    assert!(report.tokens[0] == 2 && report.loss.abs() < 1e-6 && report.right == 1);
    let error = one.step((&[0.3; 3 * 9], (3, 3)), &[0], 1e-3);
    assert!(error.is_err(), "an image smaller than a patch");
    for (kind, name) in [
        (Method::Alast(AlastOptions { k: 5, ..still }), "k"),
        (Method::LastK { k: 9 }, "k"),
        (Method::Alast(AlastOptions { target_flops: Some(0.0), ..still }), "target"),
    ] {
        let error = Trainer::new(network(false, 1), method(kind)).err().unwrap().to_string();
        assert!(error.contains(name), "{error}");
    }
}
