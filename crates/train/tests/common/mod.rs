//! A small random model and pixels for tests.
#![allow(dead_code, clippy::unwrap_used)]

use meden_kernels::{Isa, Pool};
use meden_stats::Rng;
use meden_train::vision::{Method, Network, StepReport, Trainer, TrainerOptions};
use meden_vision::vit::{Head, Naming, Params, VitConfig};

pub const SIDE: usize = 16;

pub fn config(layer_scale: bool) -> VitConfig {
    VitConfig {
        naming: if layer_scale { Naming::Dinov2 } else { Naming::Vit },
        prefix: String::new(),
        layers: 4,
        width: 32,
        heads: 2,
        mlp: 128,
        patch: 4,
        image: (SIDE, SIDE),
        eps: 1e-6,
        qkv_bias: true,
        layer_scale,
        class_token: true,
        distilled: false,
        registers: 0,
        prefix_positions: 1,
        antialias: false,
        head: Head::Class,
        norm_after_pool: false,
        classes: ["a", "b", "c", "d"].map(String::from).to_vec(),
        adapter_rank: 0,
    }
}

pub fn random(config: &VitConfig, seed: u64) -> Params {
    let mut params = Params::zeros(config, |_| true);
    let mut rng = Rng::new(seed, 0);
    for (part, values) in params.iter_mut() {
        let one = format!("{part:?}").contains("Norm") && format!("{part:?}").contains("Weight");
        let about = if one || format!("{part:?}").contains("Scale") { 1.0 } else { 0.0 };
        values.iter_mut().for_each(|v| *v = (about + rng.normal() * 0.1) as f32);
    }
    params
}

pub fn network(layer_scale: bool, threads: usize) -> Network {
    let config = config(layer_scale);
    let params = random(&config, 1);
    Network::new(config, params, Pool::new(threads), Isa::best()).unwrap()
}

pub fn trainer(options: TrainerOptions, threads: usize) -> Trainer {
    Trainer::new(network(false, threads), options).unwrap()
}

pub fn method(method: Method) -> TrainerOptions {
    TrainerOptions { method, label_smoothing: 0.1, seed: 3, ..TrainerOptions::default() }
}

pub fn pixels(step: u64) -> (Vec<f32>, Vec<usize>) {
    let mut rng = Rng::new(9, step);
    ((0..6 * 3 * SIDE * SIDE).map(|_| rng.normal() as f32).collect(), (0..6).map(|i| i % 4).collect())
}

pub fn steps(trainer: &mut Trainer, count: u64) -> Vec<StepReport> {
    let one = |step| {
        let (x, y) = pixels(step);
        trainer.step((&x, (SIDE, SIDE)), &y, 1e-3).unwrap()
    };
    (0..count).map(one).collect()
}
