//! Which image model, which images, and the way from files through batches.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Context;
use meden_engine::Isa;
use meden_files::source::DEFAULT_ENCODER;
use meden_kernels::Pool;
use meden_report::human;
use meden_vision::VisionError;
use meden_vision::image::{Fit, Limits, Preprocess, decode};
use meden_vision::vit::{Pooling, Vit, VitFiles};
use serde::Serialize;

use crate::cli::Global;
use crate::exit::{Exit, failure, usage};
use crate::progress::{Bar, say};
use crate::{load, signals};

/// Flags that choose an image model and how images reach it.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Model and images")]
pub struct ImageArgs {
    /// The folder of an image model (config.json, model.safetensors), or a built-in name
    #[arg(long, short, default_value = DEFAULT_ENCODER, value_name = "NAME|PATH")]
    model: String,
    /// Pixels of the model's input: N or ROWSxCOLUMNS [default: what the model says]
    #[arg(long, value_name = "N|RxC")]
    image_size: Option<ImageSize>,
    /// How images of another shape are fitted: crop, squash, pad [default: what the model says]
    #[arg(long, value_name = "crop|squash|pad")]
    resize: Option<Resize>,
    /// Images that are run at once
    #[arg(long, default_value_t = 8, value_name = "N")]
    batch: usize,
    /// Leave out images that cannot be decoded, and list them, instead of failing
    #[arg(long)]
    skip_bad: bool,
    /// Threads; 0 means one for each physical core this process may use
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Instruction set of the kernels (scalar, avx2, avx512, amx); default: the best of this processor
    #[arg(long, value_name = "SET")]
    isa: Option<Isa>,
}

/// Rows and columns.
#[derive(Clone, Copy, Debug)]
pub struct ImageSize(usize, usize);

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rows, columns) = text.split_once('x').unwrap_or((text, text));
        let side = |s: &str| s.parse().ok().filter(|n| (1..=16_384).contains(n));
        match (side(rows), side(columns)) {
            (Some(rows), Some(columns)) => Ok(ImageSize(rows, columns)),
            _ => Err(format!("{text:?} is no size; write 224 or 224x280, at most 16384")),
        }
    }
}

/// How other shapes are fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    Crop,
    Squash,
    Pad,
}

impl FromStr for Resize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "crop" => Ok(Resize::Crop),
            "squash" => Ok(Resize::Squash),
            "pad" => Ok(Resize::Pad),
            other => Err(format!("{other:?} is not known; write crop, squash or pad")),
        }
    }
}

/// Which vector stands for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolArg(pub Pooling);

impl FromStr for PoolArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cls" => Ok(PoolArg(Pooling::Class)),
            "mean" => Ok(PoolArg(Pooling::Mean)),
            "cls+mean" => Ok(PoolArg(Pooling::ClassAndMean)),
            other => Err(format!("{other:?} is not known; write cls, mean or cls+mean")),
        }
    }
}

/// A model that is ready, and its transforms.
pub struct Ready {
    /// As it was asked for.
    pub name: String,
    /// The model.
    pub model: Vit,
    /// From images to pixels.
    pub preprocess: Preprocess,
    batch: usize,
    skip_bad: bool,
    quiet: bool,
    decoder: Pool,
}

/// An image that was left out.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    /// File.
    pub path: PathBuf,
    /// Why.
    pub problem: String,
}

/// Images and the numbers that the model gave for each.
#[derive(Default)]
pub struct Outputs {
    /// Which of the paths they are.
    pub indices: Vec<usize>,
    /// One row each.
    pub values: Vec<f32>,
    /// Left out.
    pub skipped: Vec<Skipped>,
    /// Time in all.
    pub time: Duration,
}

impl Outputs {
    /// Width of a row.
    pub fn width(&self) -> usize {
        self.values.len() / self.indices.len().max(1)
    }

    /// Images a second.
    pub fn rate(&self) -> f64 {
        self.indices.len() as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl ImageArgs {
    /// The same with another model.
    pub fn with_model(&self, folder: &Path) -> ImageArgs {
        ImageArgs { model: folder.to_string_lossy().into_owned(), ..self.clone() }
    }

    /// These as flags of another process.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--model".to_owned(), self.model.clone()];
        let mut add = |name: &str, value: String| flags.extend([name.to_owned(), value]);
        if let Some(ImageSize(rows, columns)) = self.image_size {
            add("--image-size", format!("{rows}x{columns}"));
        }
        if let Some(resize) = self.resize {
            let name = match resize {
                Resize::Crop => "crop",
                Resize::Squash => "squash",
                Resize::Pad => "pad",
            };
            add("--resize", name.to_owned());
        }
        add("--batch", self.batch.to_string());
        add("--threads", self.threads.to_string());
        if let Some(isa) = self.isa {
            add("--isa", isa.to_string());
        }
        flags
    }

    /// The model as it was asked for.
    pub fn name(&self) -> &str {
        &self.model
    }

    /// Images that are run at once.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Whether images that cannot be decoded are left out.
    pub fn skip_bad(&self) -> bool {
        self.skip_bad
    }

    /// Threads (0: one for each core) and instruction set.
    pub fn place(&self) -> (usize, Isa) {
        (self.threads, self.isa.unwrap_or_else(Isa::best))
    }

    /// Finds and opens the model; answers it with its transforms.
    pub fn open(&self, global: Global) -> anyhow::Result<(VitFiles, Preprocess)> {
        if self.batch == 0 {
            return Err(usage("--batch 0: at least one image has to be run at once"));
        }
        let path = load::find(&self.model, global.quiet)?;
        let files = VitFiles::open(&path)?;
        let mut preprocess = files.preprocess.clone();
        if let Some(ImageSize(rows, columns)) = self.image_size {
            let patch = files.config.patch;
            if rows % patch != 0 || columns % patch != 0 {
                let fits = |n: usize| (n / patch).max(1) * patch;
                return Err(usage(format!(
                    "--image-size {rows}x{columns}: a multiple of the patch size {patch} is needed, such as {}x{}",
                    fits(rows),
                    fits(columns)
                )));
            }
            preprocess = preprocess.resized((rows, columns));
        }
        match self.resize {
            Some(Resize::Squash) => preprocess.fit = Fit::Squash,
            Some(Resize::Pad) => preprocess.fit = Fit::Pad,
            Some(Resize::Crop) if !matches!(preprocess.fit, Fit::Crop { .. }) => {
                preprocess.fit = Preprocess::new(preprocess.size).fit;
            }
            Some(Resize::Crop) | None => {}
        }
        if files.preprocess_assumed && !global.quiet {
            say("note: the model does not say how images become pixels; ImageNet's mean and deviation are assumed");
        }
        Ok((files, preprocess))
    }

    /// Finds, opens and reads the model.
    pub fn ready(&self, global: Global) -> anyhow::Result<Ready> {
        let (files, preprocess) = self.open(global)?;
        let model = Vit::load(&files, self.threads, self.isa).with_context(|| format!("loading {}", self.model))?;
        Ok(Ready {
            name: self.model.clone(),
            model,
            preprocess,
            batch: self.batch,
            skip_bad: self.skip_bad,
            quiet: global.quiet,
            decoder: Pool::new(self.threads),
        })
    }
}

impl Ready {
    /// Decodes images in batches and gives each batch's pixels to `f`, which answers a row an image.
    pub fn run(
        &self,
        what: &str,
        paths: &[PathBuf],
        f: impl Fn(&Vit, &[f32], (usize, usize)) -> Result<Vec<f32>, VisionError>,
    ) -> anyhow::Result<Outputs> {
        let (start, mut bar) = (Instant::now(), Bar::new(self.quiet));
        let mut all = Outputs::default();
        let one = self.preprocess.values();
        for (number, some) in paths.chunks(self.batch).enumerate() {
            if signals::interrupted() {
                return Err(failure(Exit::Interrupted, format!("interrupted after {} images", all.indices.len())));
            }
            bar.images(what, number * self.batch, paths.len());
            let mut pixels = Vec::with_capacity(some.len() * one);
            for (i, (path, decoded)) in some.iter().zip(self.decode(some)).enumerate() {
                match decoded {
                    Ok(image) => {
                        pixels.extend_from_slice(&image);
                        all.indices.push(number * self.batch + i);
                    }
                    Err(error) if self.skip_bad => {
                        all.skipped.push(Skipped { path: path.clone(), problem: error.to_string() });
                    }
                    Err(error) => {
                        return Err(anyhow::Error::new(error).context("use --skip-bad to leave such images out"));
                    }
                }
            }
            if !pixels.is_empty() {
                all.values.extend(f(&self.model, &pixels, self.preprocess.size)?);
            }
        }
        bar.clear();
        all.time = start.elapsed();
        if !self.quiet && !all.skipped.is_empty() {
            say(&format!("note: {} images were left out:", human::count(all.skipped.len() as u64)));
            all.skipped.iter().for_each(|s| say(&format!("  {}", s.problem)));
        }
        Ok(all)
    }

    /// Files to pixels, side by side on the threads.
    fn decode(&self, paths: &[PathBuf]) -> Vec<Result<Vec<f32>, VisionError>> {
        let mut slots: Vec<Option<Result<Vec<f32>, VisionError>>> = paths.iter().map(|_| None).collect();
        self.decoder.chunks(&mut slots, 1, |i, slot| slot[0] = Some(self.decode_one(&paths[i])));
        slots.into_iter().flatten().collect()
    }

    fn decode_one(&self, path: &Path) -> Result<Vec<f32>, VisionError> {
        let image = decode(path, &Limits::default())?;
        let mut out = vec![0.0; self.preprocess.values()];
        self.preprocess.apply(&image, &mut out)?;
        Ok(out)
    }
}
