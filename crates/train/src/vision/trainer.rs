//! One step, the same for every method.

use meden_stats::Rng;
use meden_vision::vit::{BlockPart, Params, Part};

use super::alast::{AlastOptions, Budgets, Flops, delta, draw, keep_count, select, step_flops};
use super::error::TrainError;
use super::loss::cross_entropy;
use super::network::{Kept, Network, Observed, Trained};
use super::optimizer::{Optimizer, OptimizerOptions};

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Method {
    /// Everything.
    Full,
    /// The classifier alone.
    Probe,
    /// The last blocks, the last norm and the classifier.
    LastK {
        /// Blocks.
        k: usize,
    },
    /// Biases and the classifier (Ben Zaken et al., 2021).
    Bitfit,
    /// Some blocks drawn evenly, held for some steps; embeddings, last norm and classifier always (LISA, arXiv 2403.17919).
    Lisa {
        /// Blocks.
        k: usize,
        /// Steps between draws.
        interval: u64,
    },
    /// Adaptive layer and token selection.
    Alast(AlastOptions),
}

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
    /// Tokens that entered each block.
    pub tokens: Vec<usize>,
    /// Tokens of each image that left each block, where some were dropped.
    #[serde(skip)]
    pub kept: Vec<Kept>,
    /// Change of the class token in each block; empty but for ALaST.
    pub deltas: Vec<f64>,
    /// Budgets after the step; empty but for ALaST.
    pub budgets: Vec<f64>,
    /// Multiply-adds for one image.
    pub flops: Flops,
    /// Bytes of activations that were kept for the way back.
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
    /// Steps done.
    pub step: u64,
    options: TrainerOptions,
}

/// The stream that LISA draws from.
const LISA: u64 = 0x6c69_7361;

impl Trainer {
    /// A trainer at its beginning.
    ///
    /// # Errors
    /// Settings that make no sense for this model.
    pub fn new(network: Network, options: TrainerOptions) -> Result<Trainer, TrainError> {
        let layers = network.config.layers;
        let mut budgets = None;
        match options.method {
            Method::LastK { k } | Method::Lisa { k, .. } if k > layers => {
                return Err(TrainError::setting("k", format!("{k} blocks of a model that has {layers}")));
            }
            Method::Lisa { interval: 0, .. } => return Err(TrainError::setting("interval", "0 steps; at least 1")),
            Method::Alast(o) => {
                if o.k > layers {
                    return Err(TrainError::setting("k", format!("{} blocks of a model that has {layers}", o.k)));
                }
                if !(o.temperature > 0.0 && o.temperature.is_finite()) {
                    return Err(TrainError::setting("temperature", format!("{} is no positive number", o.temperature)));
                }
                budgets = Some(Budgets::new(layers, o.b0, o.clip, o.alpha, o.first_delta)?);
            }
            _ => {}
        }
        Ok(Trainer { network, optimizer: Optimizer::default(), budgets, step: 0, options })
    }

    /// The settings.
    pub fn options(&self) -> &TrainerOptions {
        &self.options
    }

    /// The weights that the next step trains.
    pub fn next_trained(&self) -> Trained {
        let config = &self.network.config;
        let head = |p: Part| matches!(p, Part::HeadWeight | Part::HeadBias);
        let last = |p: Part| matches!(p, Part::NormWeight | Part::NormBias) || head(p);
        let blocks = |chosen: Vec<bool>, embedding: bool| {
            Trained::of(config, |p| p.layer().map_or(last(p) || embedding, |l| chosen[l]))
        };
        match self.options.method {
            Method::Full => Trained::of(config, |_| true),
            Method::Probe => Trained::of(config, head),
            Method::LastK { k } => blocks((0..config.layers).map(|l| l + k >= config.layers).collect(), false),
            Method::Bitfit => Trained::of(config, |p| head(p) || is_bias(p)),
            Method::Lisa { k, interval } => {
                let mut order: Vec<usize> = (0..config.layers).collect();
                Rng::new(self.options.seed, LISA ^ (self.step / interval) << 32).shuffle(&mut order);
                let mut chosen = vec![false; config.layers];
                order[..k].iter().for_each(|l| chosen[*l] = true);
                blocks(chosen, true)
            }
            Method::Alast(o) => {
                let budgets = self.budgets.as_ref().map_or(&[][..], |b| &b.values);
                let k = o.trained(config.layers);
                blocks(draw(o.layers, budgets, k, o.temperature, (self.options.seed, self.step)), !o.freeze_embed)
            }
        }
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
        pixels: (&[f32], (usize, usize)),
        labels: &[usize],
        rate: f64,
        trained: &Trained,
    ) -> Result<StepReport, TrainError> {
        let (step, config) = (self.step, &self.network.config);
        let (layers, shape, classes) = (config.layers, (config.width, config.mlp), config.classes.len());
        let mut deltas = Vec::new();
        let mut budgets = self.budgets.clone();
        let mut after = |seen: Observed| -> Result<Kept, TrainError> {
            let (Method::Alast(o), Some(budgets)) = (&self.options.method, &mut budgets) else { return Ok(None) };
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
        let watches = matches!(self.options.method, Method::Alast(_));
        let tape = self.network.forward(pixels, trained, if watches { Some(&mut after) } else { None })?;
        let logits = self.network.logits(&tape.class);
        let loss = cross_entropy(&logits, labels, classes, self.options.label_smoothing)?;
        if !loss.value.is_finite() {
            return Err(TrainError::NotFinite { step, what: "the loss".into(), value: loss.value });
        }
        let trained_blocks: Vec<bool> = (0..layers).map(|l| trained.block(l)).collect();
        let flops = step_flops(shape, &tape.tokens, &trained_blocks, trained.first(layers));
        let (tokens, kept, activation_bytes) = (tape.tokens.clone(), tape.kept.clone(), tape.bytes());
        let mut gradients = Params::zeros(&self.network.config, |p| trained.0.contains(&p));
        self.network.backward(tape, &loss.gradient, &mut gradients);
        let mut params = std::mem::take(&mut self.network.params);
        let constants = (&self.options.optimizer, rate, step);
        let applied = self.optimizer.apply(self.network.place(), &mut params, &gradients, constants);
        self.network.params = params;
        let gradient_norm = applied?;
        self.budgets = budgets;
        self.step += 1;
        Ok(StepReport {
            step,
            loss: loss.value,
            right: loss.right,
            gradient_norm,
            trained: trained_blocks,
            tokens,
            kept,
            deltas,
            budgets: self.budgets.as_ref().map(|b| b.values.clone()).unwrap_or_default(),
            flops,
            activation_bytes,
        })
    }
}

fn is_bias(part: Part) -> bool {
    use BlockPart::{Fc1Bias, Fc2Bias, Norm1Bias, Norm2Bias, ProjBias, QkvBias};
    match part {
        Part::PatchBias | Part::NormBias | Part::HeadBias => true,
        Part::Block(_, part) => matches!(part, Norm1Bias | QkvBias | ProjBias | Norm2Bias | Fc1Bias | Fc2Bias),
        _ => false,
    }
}
