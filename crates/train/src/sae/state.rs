//! Weights, their moments, and the step of Adam.

use meden_kernels::sparse::{self, Adam};
use meden_kernels::{Isa, Pool};
use meden_lens::sae::{Activation, Normalize, Origin, Parts};
use meden_stats::Rng;

use super::recipe::Recipe;
use super::step::{Gradients, Measured, Weights};

/// Ages beyond this are not told apart; f32 counts exactly up to it, and checkpoints hold f32.
const OLD: u32 = 1 << 24;
/// Largest decay of the mean that becomes the threshold.
const THRESHOLD: f64 = 0.999;
/// Until then the mean is over about the last tenth of the steps: what the first ones kept is of another autoencoder.
const RECENT: f64 = 10.0;
/// Values that a task of Adam handles.
const TASK: usize = 1 << 16;

/// Everything that training changes.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Weights.
    pub weights: Weights,
    /// Means of gradients.
    pub first: Gradients,
    /// Means of squared gradients.
    pub second: Gradients,
    /// Rows since each latent fired, at most 2^24.
    pub age: Vec<u32>,
    /// Steps done.
    pub step: usize,
    /// Rows seen.
    pub rows: u64,
    /// Running mean of the least active value of a row.
    pub threshold: f64,
}

fn zeros(d: usize, width: usize) -> Gradients {
    let all = |n: usize| vec![0f32; n];
    Gradients { encoder: all(width * d), decoder: all(width * d), b_enc: all(width), b_dec: all(d) }
}

impl State {
    /// Random directions of length one, an encoder that is their transpose, and `b_dec` as given (the mean of some rows).
    pub fn new(recipe: &Recipe, b_dec: Vec<f32>) -> State {
        let (d, width) = (b_dec.len(), recipe.width);
        let mut decoder = vec![0f32; width * d];
        for (latent, row) in decoder.chunks_exact_mut(d).enumerate() {
            let mut rng = Rng::new(recipe.seed, latent as u64);
            row.iter_mut().for_each(|w| *w = rng.normal() as f32);
            unit(row);
        }
        let encoder = decoder.clone();
        let weights = Weights { d, width, encoder, decoder, b_enc: vec![0.0; width], b_dec };
        State {
            weights,
            first: zeros(d, width),
            second: zeros(d, width),
            age: vec![0; width],
            step: 0,
            rows: 0,
            threshold: 0.0,
        }
    }

    /// Latents that have not fired for so many rows, ascending.
    pub fn dead(&self, after: u64) -> Vec<u32> {
        let after = after.min(u64::from(OLD)) as u32;
        (0..self.age.len() as u32).filter(|&l| self.age[l as usize] >= after).collect()
    }

    /// One step: takes off the decoder's gradient what lies along its rows, clips, lets Adam move everything, and makes
    /// the decoder's rows one long again. Returns the gradient's length before it was clipped.
    pub fn apply(
        &mut self,
        (measured, mut gradients): (&Measured, Gradients),
        (recipe, rate): (&Recipe, f64),
        rows: usize,
        pool: &Pool,
    ) -> f64 {
        let d = self.weights.d;
        let decoder = &self.weights.decoder;
        pool.chunks(&mut gradients.decoder, d, |latent, gradient| {
            project(&decoder[latent * d..][..d], gradient);
        });
        let norm = length(&gradients);
        let factor = if norm > recipe.clip { (recipe.clip / norm) as f32 } else { 1.0 };
        self.step += 1;
        let correct = |beta: f64| (1.0 / (1.0 - beta.powi(self.step.min(1 << 30) as i32))) as f32;
        let adam = Adam {
            rate: rate as f32,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            correct1: correct(0.9),
            correct2: correct(0.999),
        };
        let (w, g) = (&mut self.weights, &mut gradients);
        let (m, v) = (&mut self.first, &mut self.second);
        let lists = [
            (&mut w.encoder, &mut g.encoder, &mut m.encoder, &mut v.encoder),
            (&mut w.decoder, &mut g.decoder, &mut m.decoder, &mut v.decoder),
            (&mut w.b_enc, &mut g.b_enc, &mut m.b_enc, &mut v.b_enc),
            (&mut w.b_dec, &mut g.b_dec, &mut m.b_dec, &mut v.b_dec),
        ];
        let mut tasks = Vec::new();
        for (w, g, m, v) in lists {
            let parts = w.chunks_mut(TASK).zip(g.chunks_mut(TASK)).zip(m.chunks_mut(TASK)).zip(v.chunks_mut(TASK));
            tasks.extend(parts.map(|(((w, g), m), v)| (w, g, m, v)));
        }
        let isa = Isa::best();
        pool.chunks(&mut tasks, 1, |_, task| {
            let (w, g, m, v) = &mut task[0];
            if factor != 1.0 {
                g.iter_mut().for_each(|g| *g *= factor);
            }
            sparse::adam(isa, &adam, (w, g), (m, v));
        });
        pool.chunks(&mut self.weights.decoder, d, |_, row| unit(row));
        for (age, &fired) in self.age.iter_mut().zip(&measured.fired) {
            *age = if fired > 0 { 0 } else { age.saturating_add(rows as u32).min(OLD) };
        }
        self.rows += rows as u64;
        let steps = (self.step - 1) as f64;
        let mix = (steps / (steps + RECENT)).min(THRESHOLD);
        self.threshold = mix * self.threshold + (1.0 - mix) * measured.least;
        norm
    }

    /// The autoencoder as it is now, for rows that were scaled by `scale`. With `jump`, the running mean of the least
    /// active value becomes the threshold of a JumpReLU autoencoder instead.
    pub fn parts(&self, recipe: &Recipe, (scale, jump): (f32, bool), origin: Origin) -> Parts {
        let w = self.weights.clone();
        let activation = match jump {
            false => Activation::TopK { k: recipe.k },
            true => Activation::JumpRelu { threshold: vec![self.threshold.max(0.0) as f32; w.width] },
        };
        Parts {
            d_in: w.d,
            d_out: w.d,
            width: w.width,
            encoder: w.encoder,
            decoder: w.decoder,
            b_enc: w.b_enc,
            b_dec: w.b_dec,
            skip: None,
            activation,
            normalize: Normalize::ExpectedAverageOnlyIn { scale },
            subtract_b_dec: true,
            rescale_by_decoder_norm: false,
            origin,
        }
    }
}

fn unit(row: &mut [f32]) {
    let length = row.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>().sqrt();
    if length > 0.0 {
        let by = (1.0 / length) as f32;
        row.iter_mut().for_each(|w| *w *= by);
    }
}

/// Takes the part of a gradient off that lies along a row.
pub(super) fn project(row: &[f32], gradient: &mut [f32]) {
    let square: f64 = row.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
    let along: f64 = row.iter().zip(gradient.iter()).map(|(&w, &g)| f64::from(w) * f64::from(g)).sum();
    let by = (along / square.max(f64::MIN_POSITIVE)) as f32;
    gradient.iter_mut().zip(row).for_each(|(g, w)| *g -= by * w);
}

/// Length of all gradients together.
fn length(g: &Gradients) -> f64 {
    let square = |values: &[f32]| values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    (square(&g.encoder) + square(&g.decoder) + square(&g.b_enc) + square(&g.b_dec)).sqrt()
}
