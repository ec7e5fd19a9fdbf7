//! Rows per second of a training step, for comparison with `benches/sae_torch.py`, which makes the same step with
//! PyTorch: `cargo run --release -p meden-train --example step_rate -- [steps] [threads]`.
//!
//! On a machine that others use, the rate by processor time of one thread is the one to compare.
#![allow(clippy::unwrap_used, reason = "a measurement")]

use std::time::Instant;

use meden_kernels::Pool;
use meden_stats::Rng;
use meden_train::sae::{Aux, Recipe, State, gradients};

const D: usize = 576;
const WIDTH: usize = 4608;
const K: usize = 32;
const BATCH: usize = 4096;

/// Seconds of processor time of this process so far (hundredths, from the kernel's own count).
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (steps, threads) = (numbers.first().copied().unwrap_or(5), numbers.get(1).copied().unwrap_or(1));
    let pool = Pool::new(threads);
    let recipe = Recipe::new(WIDTH, K, 1_000_000);
    let mut rng = Rng::new(1, 0);
    // a few directions and noise, so that latents fire as they do on activations
    let parts: Vec<f32> = (0..64 * D).map(|_| rng.normal() as f32).collect();
    let x: Vec<f32> = (0..BATCH)
        .flat_map(|_| {
            let (a, b) = (rng.below(64) as usize, rng.below(64) as usize);
            (0..D).map(|c| parts[a * D + c] + parts[b * D + c] + 0.3 * rng.normal() as f32).collect::<Vec<f32>>()
        })
        .collect();
    let mut state = State::new(&recipe, vec![0.0; D]);
    let aux = Aux { dead: &[], k: D / 2, weight: recipe.aux };
    let step = |state: &mut State| {
        let (measured, gradient) = gradients(&state.weights, &x, (K, aux), &pool).unwrap();
        state.apply((&measured, gradient), (&recipe, 1e-4), BATCH, &pool);
        measured.fvu
    };
    step(&mut state);
    let (wall, cpu) = (Instant::now(), processor());
    let mut fvu = 0.0;
    for _ in 0..steps {
        fvu = step(&mut state);
    }
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), processor() - cpu);
    let rows = (steps * BATCH) as f64;
    println!(
        "{threads} threads: {:.0} rows/s by the clock, {:.0} rows per second of processor time (FVU {fvu:.3})",
        rows / wall,
        rows / cpu
    );
}
