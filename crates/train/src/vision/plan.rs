//! What a run will take, before it begins: multiply-adds exactly, memory by counting, and the part of a step that fits.

use std::time::Instant;

use meden_kernels::{Isa, Pool};
use meden_vision::image::{Labelled, Preprocess};
use meden_vision::vit::{VitConfig, VitFiles};
use serde::Serialize;

use super::alast::{Flops, keep_count, step_flops};
use super::data::{batch, order};
use super::error::TrainError;
use super::method::Method;
use super::network::Trained;
use super::run::{RunOptions, prepare};
use super::trainer::{Trainer, tape_flops};

/// Bytes that the program itself takes: code, threads, buffers of files.
const PROGRAM: u64 = 24 << 20;

/// Bytes of a run, by what they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights, and their running mean where one is kept.
    pub weights: u64,
    /// Both moments of every weight that some step trains.
    pub moments: u64,
    /// Gradients of the weights that a step trains.
    pub gradients: u64,
    /// Activations kept for the way back, of one part of a step.
    pub activations: u64,
    /// Pixels of a batch.
    pub data: u64,
    /// Buffers of a block, which all blocks share.
    pub scratch: u64,
    /// What judging or saving, which do not happen during a step, take beside weights and moments.
    pub between: u64,
}

impl Memory {
    /// The most at once: during a step, or between steps.
    pub fn peak(&self) -> u64 {
        let step = self.gradients + self.activations + self.data + self.scratch;
        PROGRAM + self.weights + self.moments + step.max(self.between)
    }
}

/// What one step takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Multiply-adds for one image in the first step, with budgets as they are at the beginning.
    pub flops: Flops,
    /// The same for full tuning.
    pub full_flops: Flops,
    /// Tokens that enter each block.
    pub tokens: Vec<usize>,
    /// Weights that the first step trains.
    pub trainable: usize,
    /// Weights that some step trains.
    pub ever_trainable: usize,
    /// All weights.
    pub parameters: usize,
    /// Bytes.
    pub memory: Memory,
    /// [`Memory::peak`].
    pub peak_bytes: u64,
    /// Images that go forward and back at once.
    pub micro_batch: usize,
    /// Parts of a step.
    pub parts: usize,
}

/// What a step of `trainer`, which is at its beginning, takes with images of `size` pixels, `batch` at once.
pub fn plan(trainer: &Trainer, size: (usize, usize), batch: usize) -> Plan {
    let micro = match trainer.options().micro_batch {
        0 => batch,
        n => n.min(batch),
    };
    plan_parts(trainer, size, (batch, micro))
}

fn plan_parts(trainer: &Trainer, size: (usize, usize), (batch, micro): (usize, usize)) -> Plan {
    let (config, options) = (&trainer.network.config, trainer.options());
    let trained = trainer.next_trained();
    let tokens = tokens(config, &options.method, size);
    let whole = vec![tokens[0]; config.layers];
    let count = |t: &Trained| -> usize { t.0.iter().map(|p| config.shape(*p).iter().product::<usize>()).sum() };
    let (trainable, ever) = (count(&trained), count(&options.method.ever_trained(config)));
    let (d, mlp, parameters) = (config.width, config.mlp, config.parameters());
    let rows = micro * tokens[0];
    let pixels = 3 * size.0 * size.1;
    let largest = (3 * d * d).max(d * mlp);
    let floats = |n: usize| 4 * n as u64;
    let copies = if options.ema > 0.0 { 2 } else { 1 };
    let (weights, moments) = (floats(copies * parameters), floats(2 * ever));
    let forward = rows * (3 * d + config.patch_values() + mlp);
    let memory = Memory {
        weights,
        moments,
        gradients: floats(trainable),
        activations: activations(config, &trained, &tokens, micro),
        data: floats(2 * batch * pixels),
        scratch: floats(forward.max(rows * (8 * d + mlp)) + 3 * largest),
        // Judging packs the matrices beside a copy of the weights; saving writes weights and moments out of memory.
        between: (2 * floats(parameters) + floats(8 * (tokens[0] * (6 * d + mlp) + pixels))).max(weights + moments),
    };
    Plan {
        flops: tape_flops(config, &tokens, &trained),
        full_flops: step_flops((d, mlp), &whole, &vec![true; config.layers], 0),
        tokens,
        trainable,
        ever_trainable: ever,
        parameters,
        memory,
        peak_bytes: memory.peak(),
        micro_batch: micro,
        parts: batch.div_ceil(micro),
    }
}

/// Tokens that enter each block while budgets are where they begin.
fn tokens(config: &VitConfig, method: &Method, size: (usize, usize)) -> Vec<usize> {
    let prefix = config.prefix_tokens();
    let mut n = prefix + size.0 / config.patch * (size.1 / config.patch);
    let mut all = vec![n];
    for _ in 1..config.layers {
        if let Method::Alast(o) = method
            && o.tokens
        {
            n = prefix + keep_count(o.b0, (n, prefix), o.min_tokens, o.token_bucket);
        }
        all.push(n);
    }
    all
}

/// Bytes of kept activations, as [`super::Tape::bytes`] counts them.
fn activations(config: &VitConfig, trained: &Trained, tokens: &[usize], images: usize) -> u64 {
    let (d, mlp, first) = (config.width, config.mlp, trained.first(config.layers));
    let mut floats = 0;
    for (layer, n) in tokens.iter().enumerate().skip(first) {
        // Input, queries, keys, values, stream after attention, feed-forward, two numbers a row for each norm.
        let own = 5 * d + mlp + 4 + if trained.matrices(layer) { d } else { 0 };
        floats += images * n * own;
    }
    if trained.embedding() {
        floats += images * (tokens[0] - config.prefix_tokens()) * config.patch_values();
    }
    4 * floats as u64
}

/// The largest part of a batch that keeps the run within `bytes`; answers its plan.
///
/// # Errors
/// A limit that one image exceeds: the message says how much that needs.
pub fn fit(trainer: &Trainer, size: (usize, usize), batch: usize, bytes: u64) -> Result<Plan, TrainError> {
    // Parts that divide the batch evenly waste no time on a small last one.
    let parts = (1..=batch).map(|parts| batch.div_ceil(parts));
    let mut smallest = 0;
    for micro in parts {
        let plan = plan_parts(trainer, size, (batch, micro));
        if plan.peak_bytes <= bytes {
            return Ok(plan);
        }
        smallest = plan.peak_bytes;
    }
    let mib = |b: u64| b.div_ceil(1 << 20);
    let why = format!(
        "{} MiB are not enough: one image at a time needs {} MiB; give more, or take smaller images or a method that \
         trains less",
        mib(bytes),
        mib(smallest)
    );
    Err(TrainError::setting("memory", why))
}

/// What a run took in two steps that left nothing behind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rehearsal {
    /// Seconds of the second step, reading its images included.
    pub seconds_per_step: f64,
    /// Seconds of a validation image, roughly: a forward pass takes a third of full tuning's multiply-adds.
    pub seconds_per_judged: f64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Seconds of the whole run.
    pub seconds: f64,
    /// Bytes of activations that the second step kept.
    pub activation_bytes: usize,
}

/// A trainer at the run's beginning, for [`plan`] and [`fit`]; nothing is written.
///
/// # Errors
/// As [`super::Run::open`].
pub fn trainer_for(
    files: &VitFiles,
    classes: &[String],
    options: &RunOptions,
    (threads, isa): (usize, Isa),
) -> Result<Trainer, TrainError> {
    prepare(files, classes, options, (threads, isa))
}

/// Two steps on the run's first images; nothing is written.
///
/// # Errors
/// As a run's first steps.
pub fn rehearse(
    trainer: &mut Trainer,
    preprocess: &Preprocess,
    (train, validation): (&Labelled, usize),
    o: &RunOptions,
    pool: &Pool,
) -> Result<Rehearsal, TrainError> {
    let order = order(train.paths.len(), o.trainer.seed, 0);
    let (mut seconds, mut activation_bytes, mut share) = (0.0, 0, 0.0);
    for step in 0..2usize {
        let start = Instant::now();
        let from = if order.len() >= 2 * o.batch { step * o.batch } else { 0 };
        let some = &order[from..order.len().min(from + o.batch)];
        let batch = batch(pool, (train, some), preprocess, Some((o.augment, o.trainer.seed, 0)), o.skip_bad)?;
        if batch.labels.is_empty() {
            return Err(TrainError::setting("data", "no image of a batch could be decoded"));
        }
        let report = trainer.step((&batch.pixels, preprocess.size), &batch.labels, o.rate)?;
        seconds = start.elapsed().as_secs_f64();
        activation_bytes = report.activation_bytes;
        share = report.flops.total() as f64;
    }
    let config = &trainer.network.config;
    let whole = trainer_tokens(config, preprocess.size);
    let forward = step_flops((config.width, config.mlp), &whole, &vec![false; config.layers], config.layers);
    let judged = seconds / o.batch as f64 * forward.total() as f64 / share.max(1.0);
    let steps = train.paths.len().div_ceil(o.batch) as u64 * o.epochs;
    let seconds_in_all = steps as f64 * seconds + (o.epochs * validation as u64) as f64 * judged;
    Ok(Rehearsal {
        seconds_per_step: seconds,
        seconds_per_judged: judged,
        steps,
        seconds: seconds_in_all,
        activation_bytes,
    })
}

fn trainer_tokens(config: &VitConfig, size: (usize, usize)) -> Vec<usize> {
    tokens(config, &Method::Full, size)
}
