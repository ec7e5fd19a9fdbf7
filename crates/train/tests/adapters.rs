//! Low-rank additions, what is left out at random, parts of a step, the running mean.
#![allow(clippy::unwrap_used)]

mod common;

use common::{SIDE, method, network, pixels, steps, trainer};
use meden_kernels::{Isa, Pool};
use meden_stats::Rng;
use meden_train::vision::alast::{AlastOptions, Alpha, Layers};
use meden_train::vision::{
    LoraOptions, Method, Network, Noise, OptimizerOptions, Trained, Trainer, TrainerOptions, cross_entropy, fit, plan,
    save_adapter, tape_flops,
};
use meden_vision::vit::{BlockPart, Params, Part, Vit};

fn lora() -> LoraOptions {
    LoraOptions { rank: 4, alpha: 8.0, dropout: 0.1 }
}

/// A network whose additions are no longer zero, with noise.
fn noisy(layer_scale: bool) -> Network {
    let options = TrainerOptions { method: Method::Lora(lora()), ..TrainerOptions::default() };
    let mut net = Trainer::new(network(layer_scale, 2), options).unwrap().network;
    let mut rng = Rng::new(17, 0);
    for (part, values) in net.params.iter_mut() {
        if matches!(part, Part::Block(_, BlockPart::QueryUp | BlockPart::ValueUp)) {
            values.iter_mut().for_each(|v| *v = (rng.normal() * 0.1) as f32);
        }
    }
    net.noise = Noise { drop_path: 0.4, dropout: 0.2, seed: 5, pass: 3 };
    net
}

fn loss(net: &mut Network) -> f64 {
    let (x, y) = pixels(0);
    let tape = net.forward((&x, (SIDE, SIDE)), &Trained::default(), None).unwrap();
    cross_entropy(&net.logits(&tape.class), &y, 4, 0.0).unwrap().value
}

#[test]
fn gradients_are_slopes_through_additions_and_with_branches_left_out() {
    for layer_scale in [false, true] {
        let mut net = noisy(layer_scale);
        let (x, y) = pixels(0);
        let trained = Trained::of(&net.config, |_| true);
        let tape = net.forward((&x, (SIDE, SIDE)), &trained, None).unwrap();
        let d = cross_entropy(&net.logits(&tape.class), &y, 4, 0.0).unwrap().gradient;
        let mut gradients = Params::zeros(&net.config, |_| true);
        net.backward(tape, &d, &mut gradients);
        for (part, gradient) in gradients.iter() {
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            if norm < 1e-4 {
                continue;
            }
            // Along the gradient the slope is its norm.
            let (before, reach) = (net.params.get(part).to_vec(), 1e-2);
            let mut at = |side: f64| {
                let moved = before.iter().zip(gradient).map(|(v, g)| v + (side * reach * f64::from(*g) / norm) as f32);
                net.params.insert(part, moved.collect());
                loss(&mut net)
            };
            let slope = (at(1.0) - at(-1.0)) / (2.0 * reach);
            net.params.insert(part, before);
            assert!((slope - norm).abs() < 0.02 * norm + 2e-4, "{part:?}: slope {slope}, gradient {norm}");
        }
        let some = Trained::of(&net.config, |p| matches!(p, Part::Block(2, kind) if kind.is_adapter()));
        let mut alone = Params::zeros(&net.config, |p| some.0.contains(&p));
        let tape = net.forward((&x, (SIDE, SIDE)), &some, None).unwrap();
        net.backward(tape, &d, &mut alone);
        assert!(alone.iter().count() == 4 && alone.iter().all(|(p, g)| g == gradients.get(p)));
    }
}

#[test]
fn merged_weights_give_the_same_logits_and_the_rest_is_untouched() {
    let mut t = trainer(method(Method::Lora(lora())), 2);
    let before = t.network.params.clone();
    let reports = steps(&mut t, 8);
    assert!(reports[7].trained.iter().all(|b| *b));
    for (part, values) in before.iter() {
        let head = matches!(part, Part::HeadWeight | Part::HeadBias);
        let adapter = matches!(part, Part::Block(_, kind) if kind.is_adapter());
        assert_eq!(values != t.network.params.get(part), head || adapter, "{part:?}");
    }
    let (x, _) = pixels(99);
    t.network.noise = Noise::default();
    let tape = t.network.forward((&x, (SIDE, SIDE)), &Trained::default(), None).unwrap();
    let logits = t.network.logits(&tape.class);
    let (config, params) = t.plain();
    assert_eq!(config.adapter_rank, 0);
    let found = Vit::new(config, params, Pool::new(1), Isa::best()).logits(&x, (SIDE, SIDE)).unwrap();
    assert!(logits.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-5));

    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("adapter");
    save_adapter(&folder, (&t.network.config, &t.network.params), &lora(), "vit.").unwrap();
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "base_model.model.vit.encoder.layer.3.attention.attention.value.lora_A.weight";
    assert_eq!(file.tensor(name).unwrap().shape(), [4, 32]);
    assert_eq!(file.names().len(), 4 * 4 + 2);
}

#[test]
fn additions_cost_what_the_hand_counts_and_keep_less() {
    let (mut t, mut full) = (trainer(method(Method::Lora(lora())), 1), trainer(method(Method::Full), 1));
    let (report, whole) = (steps(&mut t, 1).remove(0), steps(&mut full, 1).remove(0));
    let (n, d, r) = (17u64, 32u64, 4u64);
    let (linear, attention) = (12 * n * d * d, 2 * n * n * d);
    assert_eq!(report.flops.weights, 4 * 4 * n * d * r);
    assert_eq!(report.flops.forward, 4 * (linear + attention + 4 * n * d * r));
    // Nothing of the first block's weights but its additions is trained, yet the gradient has to reach them.
    assert_eq!(report.flops.inputs, 4 * (linear + 2 * attention + 4 * n * d * r));
    assert!(report.activation_bytes < whole.activation_bytes);
    let trained = Trained::of(&full.network.config, |_| true);
    assert_eq!(tape_flops(&full.network.config, &[17; 4], &trained), whole.flops);
}

#[test]
fn parts_of_a_step_add_up_to_the_step() {
    for micro in [1, 2, 4] {
        let whole = TrainerOptions { method: Method::Full, ..TrainerOptions::default() };
        let parts = TrainerOptions { micro_batch: micro, ..whole };
        let (mut a, mut b) = (trainer(whole, 2), trainer(parts, 2));
        let (one, two) = (steps(&mut a, 3), steps(&mut b, 3));
        assert!(one.iter().zip(&two).all(|(a, b)| (a.loss - b.loss).abs() < 1e-5 && a.right == b.right));
        assert!((one[0].gradient_norm - two[0].gradient_norm).abs() < 1e-4 * one[0].gradient_norm);
        assert!(two[0].activation_bytes < one[0].activation_bytes && one[0].flops == two[0].flops);
    }
}

#[test]
fn the_running_mean_follows_and_layer_decay_slows_early_blocks() {
    let ema = TrainerOptions { ema: 0.5, ..method(Method::Full) };
    let (mut with, mut without) = (trainer(ema, 1), trainer(method(Method::Full), 1));
    let start = with.network.params.get(Part::HeadBias).to_vec();
    steps(&mut with, 1);
    steps(&mut without, 1);
    assert!(with.network.params == without.network.params, "the mean changes no step");
    let expected = start.iter().zip(without.network.params.get(Part::HeadBias)).map(|(a, b)| 0.5 * a + 0.5 * b);
    assert!(with.plain().1.get(Part::HeadBias).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-7));

    let decayed = |layer_decay| {
        let optimizer = OptimizerOptions { layer_decay, decay: 0.0, ..OptimizerOptions::default() };
        let mut t = trainer(TrainerOptions { optimizer, ..method(Method::Full) }, 1);
        let before = t.network.params.clone();
        steps(&mut t, 1);
        let part = |p| before.get(p).iter().zip(t.network.params.get(p)).map(|(a, b)| (a - b).abs()).sum::<f32>();
        [part(Part::Block(0, BlockPart::Fc1Weight)), part(Part::HeadWeight), part(Part::PatchWeight)]
    };
    let (plain, slow) = (decayed(1.0), decayed(0.5));
    assert!((slow[0] / plain[0] - 0.0625).abs() < 2e-3 && slow[1] == plain[1], "{plain:?} {slow:?}");
    assert!((slow[2] / plain[2] - 0.03125).abs() < 2e-3);
}

#[test]
fn a_target_of_multiply_adds_is_steered_to() {
    let options = AlastOptions {
        alpha: Alpha::Fixed(0.0),
        layers: Layers::All,
        min_tokens: 1,
        target_flops: Some(0.6),
        ..AlastOptions::default()
    };
    let reports = steps(&mut trainer(method(Method::Alast(options)), 2), 80);
    let full = steps(&mut trainer(method(Method::Full), 2), 1)[0].flops.total() as f64;
    let mean = reports[40..].iter().map(|r| r.flops.total() as f64 / full).sum::<f64>() / 40.0;
    assert!((mean - 0.6).abs() < 0.05, "{mean}");
    assert!(reports[79].budgets.iter().all(|b| *b == 0.9), "budgets themselves stay");
}

#[test]
fn a_plan_is_what_the_first_step_does_and_memory_chooses_the_part() {
    let fixed = AlastOptions { min_tokens: 1, k: 2, ..AlastOptions::default() }.fixed();
    let over = AlastOptions { lora: Some(lora()), ..fixed };
    let suffix = AlastOptions { layers: Layers::Suffix, freeze_embed: true, ..fixed };
    for kind in [
        Method::Full,
        Method::Probe,
        Method::LastK { k: 1 },
        Method::Bitfit,
        Method::Lora(lora()),
        Method::Lisa { k: 1, interval: 2 },
        Method::Alast(fixed),
        Method::Alast(over),
        Method::Alast(suffix),
    ] {
        let mut t = trainer(method(kind), 1);
        let found = plan(&t, (SIDE, SIDE), 6);
        let trained = t.next_trained();
        let report = steps(&mut t, 1).remove(0);
        assert_eq!(found.flops, report.flops, "{kind:?}");
        assert_eq!(found.memory.activations, report.activation_bytes as u64, "{kind:?}");
        assert_eq!(found.tokens, report.tokens, "{kind:?}");
        let count = |t: &Trained| t.0.len();
        assert!(count(&trained) <= count(&kind.ever_trained(&t.network.config)), "{kind:?}");
        assert_eq!(found.trainable, trained.0.iter().map(|p| t.network.params.get(*p).len()).sum::<usize>());
    }
    let t = trainer(method(Method::Full), 1);
    let (all, one) = (plan(&t, (SIDE, SIDE), 600), fit(&t, (SIDE, SIDE), 1, u64::MAX).unwrap());
    assert_eq!(fit(&t, (SIDE, SIDE), 600, all.peak_bytes).unwrap().micro_batch, 600);
    let some = fit(&t, (SIDE, SIDE), 600, (all.peak_bytes + one.peak_bytes) / 2).unwrap();
    assert!(some.parts > 1 && some.micro_batch * some.parts >= 600 && some.peak_bytes < all.peak_bytes);
    let error = fit(&t, (SIDE, SIDE), 600, 1 << 20).unwrap_err().to_string();
    assert!(error.contains("MiB"), "{error}");
}
