//! Flags of `meden vision finetune`, and what they mean to a run.

use std::path::PathBuf;
use std::str::FromStr;

use meden_train::vision::alast::{AlastOptions, Alpha, Delta, FirstDelta, Layers};
use meden_train::vision::{
    Augment, LoraOptions, Method, OptimizerOptions, RunOptions, Schedule, TrainerOptions, split,
};
use meden_vision::image::{Labelled, labelled};
use serde::de::DeserializeOwned;

use crate::exit::usage;
use crate::verbs::vision::images::ImageArgs;

/// Tune a pretrained vision transformer to a folder of images: FOLDER/train/<class>/* and FOLDER/validation/<class>/*,
/// or FOLDER/<class>/*, a part of which is then held out. In place of a folder of classes there may be a list: train.csv,
/// validation.csv, or a file alone, with the columns path and label.
///
/// The folder of the run gets `best` and `model` (they load in transformers, or in timm where the model came from there),
/// metrics.jsonl (a line a step) and a state from which --resume goes on. Ctrl-C finishes the step and saves.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden vision finetune --data clothing/ --out runs/alast --method alast --epochs 5
  meden vision finetune --data clothing/ --out runs/probe --method probe --lr 1e-3 --image-size 112")]
pub struct Args {
    /// Labelled images
    #[arg(long, value_name = "FOLDER|CSV")]
    pub(super) data: PathBuf,
    /// The folder of the run
    #[arg(long, short, value_name = "FOLDER")]
    pub(super) out: PathBuf,
    /// What is trained: full, probe (classifier alone), last-k, bitfit, lora, lisa, alast, static (alast
    /// with blocks drawn evenly and budgets that stay)
    #[arg(long, default_value = "alast", value_name = "METHOD")]
    pub(super) method: MethodName,
    /// Go on with the run in the folder
    #[arg(long)]
    pub(super) resume: bool,
    /// Begin the classifier anew where the model has one of other classes
    #[arg(long)]
    pub(super) reset_head: bool,
    /// Share of the images of each class that is held out, where the data has no validation folder
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    pub(super) val_split: f64,
    #[command(flatten)]
    pub(super) training: Training,
    #[command(flatten)]
    pub(super) alast: AlastArgs,
    #[command(flatten)]
    pub(super) lora: LoraArgs,
    #[command(flatten)]
    pub(super) images: ImageArgs,
    /// Say what the run will take (multiply-adds, memory, time by two steps that leave nothing behind), and end
    #[arg(long, visible_alias = "dry-run")]
    pub(super) plan: bool,
    /// Bytes that the process may take, such as 2G: a batch goes forward and back in parts that fit
    #[arg(long, value_name = "BYTES")]
    pub(super) memory: Option<Bytes>,
}

/// How long, how fast, with what.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Training")]
pub struct Training {
    /// Times that every image is seen
    #[arg(long, default_value_t = 5, value_name = "N")]
    epochs: u64,
    /// Largest learning rate [default: 1e-3 for probe, 3e-4 for bitfit, 5e-3 for lora, else 1e-5]
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
    /// The rate of each block is this times that of the block behind it
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    layer_decay: f64,
    /// Share of images that leave out a branch of the last block (stochastic depth)
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    drop_path: f64,
    /// What a running mean of the weights keeps of itself at each step; it is what is judged and written. 0 for none
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    ema: f64,
    /// Images that go forward and back at once, gradients being added up over a batch; 0 for the batch
    #[arg(long, default_value_t = 0, value_name = "N")]
    micro_batch: usize,
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
pub struct AlastArgs {
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
    /// Train the last K blocks and leave embeddings alone, so that the way back ends early
    #[arg(long)]
    contiguous: bool,
    /// Steer budgets slowly to this share of full tuning's multiply-adds
    #[arg(long, value_name = "SHARE")]
    target_flops: Option<f64>,
    /// Let the chosen blocks train low-rank additions instead of their weights
    #[arg(long, value_name = "lora")]
    alast_over: Option<Over>,
}

/// Low-rank additions, for lora and --alast-over lora.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "LoRA")]
pub struct LoraArgs {
    /// Rank
    #[arg(long, default_value_t = 16, value_name = "R")]
    rank: usize,
    /// The additions are multiplied by this over the rank
    #[arg(long, default_value_t = 16.0, value_name = "X")]
    lora_alpha: f64,
    /// Share of their inputs that a step leaves out
    #[arg(long, default_value_t = 0.1, value_name = "X")]
    lora_dropout: f64,
}

/// A name as JSON spells it.
fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|e| e.to_string())
}

macro_rules! choices {
    ($(#[$about:meta])* $name:ident { $($variant:ident = $text:literal),+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variant),+ }
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

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim_end_matches("iB").trim_end_matches('B');
        let units = [('K', 1u64 << 10), ('M', 1 << 20), ('G', 1 << 30)];
        let found = units.into_iter().find_map(|(name, n)| Some((trimmed.strip_suffix(name)?, n)));
        let (number, unit) = found.unwrap_or((trimmed, 1));
        let amount = number.parse::<f64>().ok().filter(|n| *n > 0.0 && n.is_finite());
        amount
            .map(|n| Bytes((n * unit as f64) as u64))
            .ok_or_else(|| format!("{text:?} is no amount; write 800M or 2G"))
    }
}

choices!(
    /// Methods.
    MethodName { Full = "full", Probe = "probe", LastK = "last-k", Bitfit = "bitfit", Lora = "lora", Lisa = "lisa", Alast = "alast",
        Static = "static" }
);
choices!(
    /// What chosen blocks train.
    Over { Lora = "lora" }
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

impl Args {
    fn lora(&self) -> LoraOptions {
        LoraOptions { rank: self.lora.rank, alpha: self.lora.lora_alpha, dropout: self.lora.lora_dropout }
    }

    fn method(&self, layers: usize) -> Method {
        let k = self.training.blocks.unwrap_or(layers.div_ceil(4));
        match self.method {
            MethodName::Full => Method::Full,
            MethodName::Probe => Method::Probe,
            MethodName::LastK => Method::LastK { k },
            MethodName::Bitfit => Method::Bitfit,
            MethodName::Lisa => Method::Lisa { k, interval: self.training.interval },
            MethodName::Lora => Method::Lora(self.lora()),
            MethodName::Alast | MethodName::Static => {
                let a = &self.alast;
                let options = AlastOptions {
                    alpha: a.alpha.0,
                    b0: a.b0,
                    clip: (a.b_min, 1.0),
                    delta: a.delta,
                    first_delta: a.first_delta,
                    layers: if a.contiguous { Layers::Suffix } else { a.layers },
                    k: a.k,
                    temperature: 1.0,
                    tokens: a.tokens == OnOff::On,
                    min_tokens: a.min_tokens,
                    token_bucket: a.token_bucket,
                    freeze_embed: a.freeze_embed || a.contiguous,
                    lora: a.alast_over.map(|_| self.lora()),
                    target_flops: a.target_flops,
                };
                Method::Alast(if self.method == MethodName::Static { options.fixed() } else { options })
            }
        }
    }

    pub(super) fn options(&self, layers: usize) -> RunOptions {
        let t = &self.training;
        let usual = match self.method {
            MethodName::Probe => 1e-3,
            MethodName::Bitfit => 3e-4,
            MethodName::Lora => 5e-3,
            _ => 1e-5,
        };
        RunOptions {
            trainer: TrainerOptions {
                method: self.method(layers),
                optimizer: OptimizerOptions {
                    decay: t.weight_decay,
                    clip: t.clip_grad,
                    layer_decay: t.layer_decay,
                    ..OptimizerOptions::default()
                },
                label_smoothing: t.label_smoothing,
                seed: t.seed,
                micro_batch: t.micro_batch,
                drop_path: t.drop_path,
                ema: t.ema,
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

/// Training and validation images: folders or lists.
pub(super) fn data(args: &Args) -> anyhow::Result<(Labelled, Labelled)> {
    if !(args.val_split > 0.0 && args.val_split < 1.0) {
        return Err(usage(format!("--val-split {}: a share between 0 and 1 is needed", args.val_split)));
    }
    let part = |name: &str| {
        let lists = ["csv", "tsv"].map(|end| args.data.join(format!("{name}.{end}")));
        [args.data.join(name)]
            .into_iter()
            .filter(|p| p.is_dir())
            .chain(lists.into_iter().filter(|p| p.is_file()))
            .next()
    };
    let Some(train) = part("train") else {
        return Ok(split(&labelled(&args.data)?, args.val_split, args.training.seed));
    };
    let train = labelled(&train)?;
    match ["validation", "val", "valid"].into_iter().find_map(part) {
        Some(held) => Ok((train, labelled(&held)?)),
        None => Ok(split(&train, args.val_split, args.training.seed)),
    }
}
