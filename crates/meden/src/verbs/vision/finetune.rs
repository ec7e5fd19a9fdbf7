//! `meden vision finetune`: a pretrained model, tuned to a folder of images.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use meden_report::{Table, human, memory};
use meden_train::vision::alast::{AlastOptions, Alpha, Delta, FirstDelta, Layers};
use meden_train::vision::{
    Augment, Event, Method, OptimizerOptions, Outcome, Run, RunOptions, Schedule, TrainerOptions, split,
};
use meden_vision::image::{Labelled, image_folder};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::images::ImageArgs;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::{Bar, say};
use crate::{output, signals};

/// Tune a pretrained vision transformer to a folder of images: FOLDER/train/<class>/* and FOLDER/validation/<class>/*,
/// or FOLDER/<class>/*, a part of which is then held out.
///
/// The folder of the run gets `best` and `model` (they load in transformers, or in timm where the model came from there),
/// metrics.jsonl (a line a step) and a state from which --resume goes on. Ctrl-C finishes the step and saves.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden vision finetune --data clothing/ --out runs/alast --method alast --epochs 5
  meden vision finetune --data clothing/ --out runs/probe --method probe --lr 1e-3 --image-size 112")]
pub struct Args {
    /// Labelled images
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// The folder of the run
    #[arg(long, short, value_name = "FOLDER")]
    out: PathBuf,
    /// What is trained: full, probe (classifier alone), last-k, bitfit, lisa, alast
    #[arg(long, default_value = "alast", value_name = "METHOD")]
    method: MethodName,
    /// Go on with the run in the folder
    #[arg(long)]
    resume: bool,
    /// Begin the classifier anew where the model has one of other classes
    #[arg(long)]
    reset_head: bool,
    /// Share of the images of each class that is held out, where the data has no validation folder
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    val_split: f64,
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    alast: AlastArgs,
    #[command(flatten)]
    images: ImageArgs,
}

/// How long, how fast, with what.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Training")]
struct Training {
    /// Times that every image is seen
    #[arg(long, default_value_t = 5, value_name = "N")]
    epochs: u64,
    /// Largest learning rate [default: 1e-3 for probe, 3e-4 for bitfit, else 1e-5]
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Steps in which the rate rises
    #[arg(long, default_value_t = 20, value_name = "N")]
    warmup: u64,
    /// How the rate falls: cosine, linear, constant
    #[arg(long, default_value = "cosine", value_name = "NAME", value_parser = named::<Schedule>)]
    schedule: Schedule,
    /// Weight decay, on matrices
    #[arg(long, default_value_t = 0.05, value_name = "X")]
    weight_decay: f32,
    /// Largest norm of a step's gradients; 0 for no limit
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    clip_grad: f64,
    /// Share of the target that is spread over all classes
    #[arg(long, default_value_t = 0.1, value_name = "X")]
    label_smoothing: f64,
    /// Changes to training images: none, flip, crop (a random part, and flip)
    #[arg(long, default_value = "flip", value_name = "none|flip|crop")]
    augment: AugmentName,
    /// Least share of an image's area that --augment crop takes
    #[arg(long, default_value_t = 0.35, value_name = "SHARE")]
    crop_scale: f64,
    /// Seed of every random choice
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Blocks that last-k and lisa train [default: a quarter]
    #[arg(long, value_name = "K")]
    blocks: Option<usize>,
    /// Steps between the draws of lisa
    #[arg(long, default_value_t = 20, value_name = "N")]
    interval: u64,
}

/// Knobs of ALaST.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "ALaST")]
struct AlastArgs {
    /// How fast budgets follow the class token: a number, or auto
    #[arg(long, default_value = "auto", value_name = "X|auto")]
    alpha: AlphaArg,
    /// Budget of every block at the beginning
    #[arg(long, default_value_t = 0.9, value_name = "B")]
    b0: f64,
    /// Least budget
    #[arg(long, default_value_t = 0.5, value_name = "B")]
    b_min: f64,
    /// How the class token's change is reduced: mean, author (batch sum, as published), relative
    #[arg(long, default_value = "mean", value_name = "NAME", value_parser = named::<Delta>)]
    delta: Delta,
    /// What the first change does: observe, zero (as published)
    #[arg(long, default_value = "observe", value_name = "NAME", value_parser = named::<FirstDelta>)]
    first_delta: FirstDelta,
    /// How trained blocks are chosen: sample, topk, uniform, all
    #[arg(long, default_value = "sample", value_name = "NAME", value_parser = named::<Layers>)]
    layers: Layers,
    /// Blocks that are trained in a step [default: three quarters]
    #[arg(long, default_value_t = 0, value_name = "K", hide_default_value = true)]
    k: usize,
    /// Whether patches are dropped: on, off
    #[arg(long, default_value = "on", value_name = "on|off")]
    tokens: OnOff,
    /// Patches that are kept at least
    #[arg(long, default_value_t = 8, value_name = "N")]
    min_tokens: usize,
    /// Kept patches are rounded up to a multiple of this
    #[arg(long, default_value_t = 1, value_name = "N")]
    token_bucket: usize,
    /// Leave patch embedding, tokens and positions alone
    #[arg(long)]
    freeze_embed: bool,
}

/// A name as JSON spells it.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|e| e.to_string())
}

macro_rules! choices {
    ($(#[$about:meta])* $name:ident { $($variant:ident = $text:literal),+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum $name { $($variant),+ }
        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok($name::$variant),)+
                    other => Err(format!("{other:?} is not known; write one of {}", [$($text),+].join(", "))),
                }
            }
        }
    };
}

choices!(
    /// Methods.
    MethodName { Full = "full", Probe = "probe", LastK = "last-k", Bitfit = "bitfit", Lisa = "lisa", Alast = "alast" }
);
choices!(
    /// Augmentations.
    AugmentName { None = "none", Flip = "flip", Crop = "crop" }
);
choices!(
    /// A switch.
    OnOff { On = "on", Off = "off" }
);

/// A number or auto.
#[derive(Clone, Copy, Debug)]
struct AlphaArg(Alpha);

impl FromStr for AlphaArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(AlphaArg(Alpha::Auto)),
            _ => text
                .parse()
                .map(|a| AlphaArg(Alpha::Fixed(a)))
                .map_err(|_| format!("{text:?} is no number and not auto")),
        }
    }
}

/// The one object of `meden vision finetune --json`.
#[derive(Serialize)]
struct Report {
    out: PathBuf,
    method: Method,
    outcome: Outcome,
    train_images: usize,
    validation_images: usize,
    classes: usize,
    trainable_parameters: usize,
    parameters: usize,
    seconds: f64,
    seconds_per_step: f64,
    images_per_second: f64,
    activation_bytes_peak: usize,
    flops_per_image_mean: f64,
    peak_bytes: Option<u64>,
}

impl Args {
    fn method(&self, layers: usize) -> Method {
        let k = self.training.blocks.unwrap_or(layers.div_ceil(4));
        match self.method {
            MethodName::Full => Method::Full,
            MethodName::Probe => Method::Probe,
            MethodName::LastK => Method::LastK { k },
            MethodName::Bitfit => Method::Bitfit,
            MethodName::Lisa => Method::Lisa { k, interval: self.training.interval },
            MethodName::Alast => {
                let a = &self.alast;
                Method::Alast(AlastOptions {
                    alpha: a.alpha.0,
                    b0: a.b0,
                    clip: (a.b_min, 1.0),
                    delta: a.delta,
                    first_delta: a.first_delta,
                    layers: a.layers,
                    k: a.k,
                    temperature: 1.0,
                    tokens: a.tokens == OnOff::On,
                    min_tokens: a.min_tokens,
                    token_bucket: a.token_bucket,
                    freeze_embed: a.freeze_embed,
                })
            }
        }
    }

    fn options(&self, layers: usize) -> RunOptions {
        let t = &self.training;
        let usual = match self.method {
            MethodName::Probe => 1e-3,
            MethodName::Bitfit => 3e-4,
            _ => 1e-5,
        };
        RunOptions {
            trainer: TrainerOptions {
                method: self.method(layers),
                optimizer: OptimizerOptions { decay: t.weight_decay, clip: t.clip_grad, ..OptimizerOptions::default() },
                label_smoothing: t.label_smoothing,
                seed: t.seed,
            },
            epochs: t.epochs,
            batch: self.images.batch(),
            rate: t.lr.unwrap_or(usual),
            warmup: t.warmup,
            schedule: t.schedule,
            augment: match t.augment {
                AugmentName::None => Augment::None,
                AugmentName::Flip => Augment::Flip,
                AugmentName::Crop => Augment::Crop { scale: t.crop_scale },
            },
            skip_bad: self.images.skip_bad(),
            reset_head: self.reset_head,
        }
    }
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let (train, validation) = data(&args)?;
    let (files, preprocess) = args.images.open(global)?;
    let options = args.options(files.config.layers);
    let counts = (train.paths.len(), validation.paths.len(), train.classes.len());
    let (threads, isa) = args.images.place();
    let mut run =
        Run::open(&args.out, (&files, preprocess), (train, validation), options, (args.resume, threads, isa))?;
    let trainer = run.trainer();
    let parameters = trainer.network.params.len();
    let trained = trainer.next_trained();
    let trainable: usize = trained.0.iter().map(|p| trainer.network.params.get(*p).len()).sum();
    let begun = trainer.step;
    if !global.quiet {
        say(&format!(
            "{} images of {} classes, {} held out; {} of {} parameters trained in the first step",
            human::count(counts.0 as u64),
            counts.2,
            human::count(counts.1 as u64),
            human::count(trainable as u64),
            human::count(parameters as u64)
        ));
    }
    let (start, mut bar) = (Instant::now(), Bar::new(global.quiet));
    let (mut activation, mut flops, mut in_steps, mut last) = (0, 0f64, Duration::ZERO, Instant::now());
    let mut watch = |event: Event| match event {
        Event::Step(report, total) => {
            activation = activation.max(report.activation_bytes);
            flops += report.flops.total() as f64;
            in_steps += last.elapsed();
            last = Instant::now();
            bar.training(&live(report), report.step + 1, total);
        }
        Event::Judging(..) => last = Instant::now(),
        Event::Epoch { epoch, accuracy, right } => {
            bar.clear();
            last = Instant::now();
            if !global.quiet {
                say(&format!("epoch {epoch}: {} right ({} of {})", human::percent(accuracy), right.0, right.1));
            }
        }
        Event::Bad(problem) => say(&format!("left out: {problem}")),
    };
    let outcome = run.train(&mut watch, signals::flag())?;
    bar.clear();
    let steps = (outcome.steps - begun).max(1) as f64;
    let seconds_per_step = in_steps.as_secs_f64() / steps;
    let report = Report {
        out: args.out.clone(),
        method: options.trainer.method,
        outcome,
        train_images: counts.0,
        validation_images: counts.1,
        classes: counts.2,
        trainable_parameters: trainable,
        parameters,
        seconds: start.elapsed().as_secs_f64(),
        seconds_per_step,
        images_per_second: options.batch as f64 / seconds_per_step.max(1e-9),
        activation_bytes_peak: activation,
        flops_per_image_mean: flops / steps,
        peak_bytes: memory::peak(),
    };
    if global.json {
        output::object(&report)?;
    } else {
        output::text(&table(&report))?;
    }
    Ok(if outcome.finished { Exit::Ok } else { Exit::Interrupted })
}

/// What stands beside the bar.
fn live(report: &meden_train::vision::StepReport) -> String {
    let mut text = format!("loss {:.3}", report.loss);
    if !report.budgets.is_empty() {
        let mean = report.budgets.iter().sum::<f64>() / report.budgets.len() as f64;
        text += &format!(", budget {mean:.2}, {} tokens last", report.tokens.last().copied().unwrap_or_default());
    }
    text
}

/// Training and validation images.
fn data(args: &Args) -> anyhow::Result<(Labelled, Labelled)> {
    if !(args.val_split > 0.0 && args.val_split < 1.0) {
        return Err(usage(format!("--val-split {}: a share between 0 and 1 is needed", args.val_split)));
    }
    let folder = |name: &str| Some(args.data.join(name)).filter(|p: &PathBuf| p.is_dir());
    let Some(train) = folder("train") else {
        return Ok(split(&image_folder(&args.data)?, args.val_split, args.training.seed));
    };
    let train = image_folder(&train)?;
    match ["validation", "val", "valid"].into_iter().find_map(folder) {
        Some(held) => {
            let held: &Path = &held;
            Ok((train, image_folder(held)?))
        }
        None => Ok(split(&train, args.val_split, args.training.seed)),
    }
}

fn table(report: &Report) -> String {
    let mut table = Table::new(["", ""]);
    let accuracy = |a: Option<f64>| a.map_or("-".to_owned(), human::percent);
    let mut row = |name: &str, value: String| {
        table.row([name.to_owned(), value]);
    };
    row("accuracy, best", accuracy(report.outcome.best.map(|b| b.0)));
    row("accuracy, last", accuracy(report.outcome.last));
    row("steps", human::count(report.outcome.steps));
    row("seconds a step", human::three_digits(report.seconds_per_step));
    row("images a second", human::three_digits(report.images_per_second));
    row("multiply-adds an image", human::three_digits(report.flops_per_image_mean / 1e9) + " G");
    row("activations kept, peak", human::bytes(report.activation_bytes_peak as u64));
    row("process, peak", report.peak_bytes.map_or("-".to_owned(), human::bytes));
    let end = if report.outcome.finished { "" } else { "interrupted; continue with --resume\n" };
    format!("{table}\n{}\n{end}", report.out.display())
}
