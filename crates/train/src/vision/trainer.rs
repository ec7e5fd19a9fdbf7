//! One step, the same for every method.

use meden_vision::vit::{Params, VitConfig};

use super::alast::{AlastOptions, Budgets, Flops, adapter_flops, delta, keep_count, select, step_flops};
use super::error::TrainError;
use super::lora;
use super::loss::cross_entropy;
use super::method::Method;
use super::network::{Kept, Network, Observed, Trained};
use super::noise::Noise;
use super::optimizer::{Optimizer, OptimizerOptions};

/// Settings of a step.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TrainerOptions {
    /// What is trained.
    pub method: Method,
    /// Constants of the optimiser.
    pub optimizer: OptimizerOptions,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// Images that go forward and back at once; a step adds up the gradients of its parts. 0 means all.
    pub micro_batch: usize,
    /// Share of images that leave out a branch of the last block (stochastic depth).
    pub drop_path: f64,
    /// Share of the old value that a running mean of the weights keeps at each step; 0 for none. Where there is one, it is
    /// what is judged and written.
    pub ema: f64,
}

impl Default for TrainerOptions {
    fn default() -> Self {
        TrainerOptions {
            method: Method::Full,
            optimizer: OptimizerOptions::default(),
            label_smoothing: 0.0,
            seed: 0,
            micro_batch: 0,
            drop_path: 0.0,
            ema: 0.0,
        }
    }
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StepReport {
    /// Which step, from 0 on.
    pub step: u64,
    /// Mean loss.
    pub loss: f64,
    /// Images whose highest logit was their class.
    pub right: usize,
    /// Norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// Blocks that were trained.
    pub trained: Vec<bool>,
    /// Tokens that entered each block, in the last part of the step.
    pub tokens: Vec<usize>,
    /// Tokens of each image that left each block, where some were dropped.
    #[serde(skip)]
    pub kept: Vec<Kept>,
    /// Change of the class token in each block; empty but for ALaST.
    pub deltas: Vec<f64>,
    /// Budgets after the step; empty but for ALaST.
    pub budgets: Vec<f64>,
    /// What budgets are multiplied by to meet a target of multiply-adds.
    pub budget_scale: f64,
    /// Multiply-adds for one image; the mean, rounded down, where parts of the step differ.
    pub flops: Flops,
    /// Most bytes of activations that were kept for the way back.
    pub activation_bytes: usize,
}

/// A network with its optimiser and the state of its method.
pub struct Trainer {
    /// The network.
    pub network: Network,
    /// Moments.
    pub optimizer: Optimizer,
    /// Budgets, for ALaST.
    pub budgets: Option<Budgets>,
    /// The running mean of the weights, where one is kept.
    pub average: Option<Params>,
    /// Steps done.
    pub step: u64,
    options: TrainerOptions,
}

/// What the parts of a step leave.
#[derive(Default)]
struct Sums {
    loss: f64,
    right: usize,
    tokens: Vec<usize>,
    kept: Vec<Kept>,
    deltas: Vec<f64>,
    flops: Flops,
    activation_bytes: usize,
}

impl Trainer {
    /// A trainer at its beginning.
    ///
    /// # Errors
    /// Settings that make no sense for this model.
    pub fn new(mut network: Network, options: TrainerOptions) -> Result<Trainer, TrainError> {
        let budgets = options.method.check(&network.config)?;
        for (name, share) in [("drop path", options.drop_path), ("ema", options.ema)] {
            if !(0.0..1.0).contains(&share) {
                return Err(TrainError::setting(name, format!("{share} is outside [0, 1)")));
            }
        }
        if let Some(lora) = options.method.adapters() {
            lora::begin(&mut network.config, &mut network.params, &lora, options.seed);
            network.adapter_scale = lora.scale();
        }
        let average = (options.ema > 0.0).then(|| network.params.clone());
        Ok(Trainer { network, optimizer: Optimizer::default(), budgets, average, step: 0, options })
    }

    /// The settings.
    pub fn options(&self) -> &TrainerOptions {
        &self.options
    }

    /// The weights that the next step trains.
    pub fn next_trained(&self) -> Trained {
        self.options.method.trained(&self.network.config, self.budgets.as_ref(), (self.options.seed, self.step))
    }

    /// The model as it is judged and written: the running mean of the weights where one is kept, with low-rank additions
    /// in the weights.
    pub fn plain(&self) -> (VitConfig, Params) {
        let params = self.average.as_ref().unwrap_or(&self.network.params);
        lora::merged(&self.network.config, params, self.network.adapter_scale)
    }

    /// One step on a batch: `pixels` (images, 3, rows, columns) of `size`, a label each.
    ///
    /// # Errors
    /// A batch that does not fit, or numbers that are not finite; weights and moments are unchanged then.
    pub fn step(
        &mut self,
        pixels: (&[f32], (usize, usize)),
        labels: &[usize],
        rate: f64,
    ) -> Result<StepReport, TrainError> {
        let trained = self.next_trained();
        self.step_with(pixels, labels, rate, &trained)
    }

    /// [`Trainer::step`] with the trained weights given.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_with(
        &mut self,
        (pixels, size): (&[f32], (usize, usize)),
        labels: &[usize],
        rate: f64,
        trained: &Trained,
    ) -> Result<StepReport, TrainError> {
        let (step, layers) = (self.step, self.network.config.layers);
        let micro = if self.options.micro_batch == 0 { labels.len() } else { self.options.micro_batch };
        let image = 3 * size.0 * size.1;
        if pixels.len() != labels.len() * image {
            let why = format!("{} labels for {} images", labels.len(), pixels.len() / image.max(1));
            return Err(TrainError::setting("labels", why));
        }
        let mut budgets = self.budgets.clone();
        let mut gradients = Params::zeros(&self.network.config, |p| trained.0.contains(&p));
        let mut sums = Sums::default();
        let parts = labels.chunks(micro.max(1)).zip(pixels.chunks((micro * image).max(1)));
        for (number, (labels_part, pixels)) in parts.enumerate() {
            let seed = self.options.seed;
            let dropout = self.options.method.adapters().map_or(0.0, |l| l.dropout);
            // No step has so many parts.
            let pass = step << 12 | number as u64;
            self.network.noise = Noise { drop_path: self.options.drop_path, dropout, seed, pass };
            let share = labels_part.len() as f64 / labels.len() as f64;
            let batch = (pixels, size, labels_part);
            self.part(batch, share, trained, (&mut budgets, &mut gradients, &mut sums))?;
        }
        sums.flops = sums.flops.divided(labels.len() as u64);
        let mut params = std::mem::take(&mut self.network.params);
        let constants = (&self.options.optimizer, rate, step);
        let applied = self.optimizer.apply(self.network.place(), &mut params, &gradients, (constants, layers));
        self.network.params = params;
        let gradient_norm = applied?;
        if let (Method::Alast(AlastOptions { target_flops: Some(target), .. }), Some(budgets)) =
            (&self.options.method, &mut budgets)
        {
            let whole = sums.tokens.first().copied().unwrap_or_default();
            let shape = (self.network.config.width, self.network.config.mlp);
            let full = step_flops(shape, &vec![whole; layers], &vec![true; layers], 0);
            budgets.steer(*target, sums.flops.total() as f64 / full.total() as f64);
        }
        self.budgets = budgets;
        self.step += 1;
        self.follow();
        let trained = (0..layers).map(|l| trained.block(l)).collect();
        let budgets = self.budgets.as_ref().map(|b| b.values.clone()).unwrap_or_default();
        let Sums { loss, right, tokens, kept, deltas, flops, activation_bytes } = sums;
        let scale = self.budgets.as_ref().map_or(1.0, |b| b.scale);
        Ok(StepReport {
            step,
            loss,
            right,
            gradient_norm,
            trained,
            tokens,
            kept,
            deltas,
            budgets,
            budget_scale: scale,
            flops,
            activation_bytes,
        })
    }

    /// Forward and back for one part of a step, whose loss counts for `share` of the step's.
    fn part(
        &mut self,
        (pixels, size, labels): (&[f32], (usize, usize), &[usize]),
        share: f64,
        trained: &Trained,
        (budgets, gradients, sums): (&mut Option<Budgets>, &mut Params, &mut Sums),
    ) -> Result<(), TrainError> {
        let (step, config) = (self.step, &self.network.config);
        let (layers, classes) = (config.layers, config.classes.len());
        sums.deltas.clear();
        let (method, deltas) = (self.options.method, &mut sums.deltas);
        let mut after = |seen: Observed| -> Result<Kept, TrainError> {
            let (Method::Alast(o), Some(budgets)) = (&method, &mut *budgets) else { return Ok(None) };
            let moved = delta(o.delta, seen.class, seen.images);
            deltas.push(moved);
            let budget = budgets.update(seen.layer, moved, step)?;
            // After the last block only the class token is read.
            if !o.tokens || seen.layer + 1 == layers {
                return Ok(None);
            }
            let count = keep_count(budget, (seen.tokens, seen.prefix), o.min_tokens, o.token_bucket);
            if count + seen.prefix == seen.tokens {
                return Ok(None);
            }
            let rows = seen.attention.chunks_exact(seen.tokens);
            Ok(Some(rows.map(|scores| select(scores, seen.prefix, count)).collect()))
        };
        let watches = matches!(method, Method::Alast(_));
        let tape = self.network.forward((pixels, size), trained, if watches { Some(&mut after) } else { None })?;
        let logits = self.network.logits(&tape.class);
        let mut loss = cross_entropy(&logits, labels, classes, self.options.label_smoothing)?;
        if !loss.value.is_finite() {
            return Err(TrainError::NotFinite { step, what: "the loss".into(), value: loss.value });
        }
        sums.loss += loss.value * share;
        sums.right += loss.right;
        let one = tape_flops(&self.network.config, &tape.tokens, trained);
        sums.flops = sums.flops.plus(one.times(labels.len() as u64));
        sums.activation_bytes = sums.activation_bytes.max(tape.bytes());
        (sums.tokens, sums.kept) = (tape.tokens.clone(), tape.kept.clone());
        loss.gradient.iter_mut().for_each(|g| *g *= share as f32);
        self.network.backward(tape, &loss.gradient, gradients);
        Ok(())
    }

    /// Moves the running mean towards the weights.
    fn follow(&mut self) {
        let Some(average) = &mut self.average else { return };
        let keep = self.options.ema as f32;
        for (part, mean) in average.iter_mut() {
            mean.iter_mut().zip(self.network.params.get(part)).for_each(|(m, v)| *m = keep * *m + (1.0 - keep) * v);
        }
    }
}

/// Multiply-adds for one image whose blocks are entered by so many tokens.
pub fn tape_flops(config: &VitConfig, tokens: &[usize], trained: &Trained) -> Flops {
    let first = trained.first(config.layers);
    let matrices: Vec<bool> = (0..config.layers).map(|l| trained.matrices(l)).collect();
    let mut sum = step_flops((config.width, config.mlp), tokens, &matrices, first);
    for (layer, &n) in tokens.iter().enumerate() {
        let own = trained.wanted(layer).adapters;
        sum = sum.plus(adapter_flops(config.width, config.adapter_rank, n, (layer >= first, own)));
    }
    sum
}
