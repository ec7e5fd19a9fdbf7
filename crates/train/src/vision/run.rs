//! A whole run: epochs over a folder of images, validation, and what is left on disk.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use meden_files::{AtomicFile, FileError};
use meden_kernels::{Isa, Pool};
use meden_vision::image::{Labelled, Preprocess};
use meden_vision::vit::{Vit, VitFiles, save};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::data::{Augment, batch, order};
use super::error::TrainError;
use super::head::{export, take_head, tuned_config};
use super::lora::save_adapter;
use super::network::Network;
use super::schedule::Schedule;
use super::state::{load_state, save_state};
use super::trainer::{StepReport, Trainer, TrainerOptions};

/// Settings of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunOptions {
    /// Settings of a step.
    pub trainer: TrainerOptions,
    /// Times that every image is seen.
    pub epochs: u64,
    /// Images of a step.
    pub batch: usize,
    /// Largest learning rate.
    pub rate: f64,
    /// Steps in which the rate rises.
    pub warmup: u64,
    /// How it falls.
    pub schedule: Schedule,
    /// Changes to training images.
    pub augment: Augment,
    /// Leave out images that cannot be decoded.
    pub skip_bad: bool,
    /// Begin the classifier anew, whatever the model has.
    pub reset_head: bool,
}

/// What is told while a run goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step is done, of so many in all.
    Step(&'a StepReport, u64),
    /// So many validation images of so many are judged.
    Judging(usize, usize),
    /// An epoch is done.
    Epoch {
        /// Epochs done.
        epoch: u64,
        /// Accuracy on the validation images.
        accuracy: f64,
        /// Images that were judged right, and all.
        right: (usize, usize),
    },
    /// An image was left out, and why.
    Bad(&'a str),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// All steps were done.
    pub finished: bool,
    /// Steps done.
    pub steps: u64,
    /// Best accuracy on the validation images, and the step after which it was reached.
    pub best: Option<(f64, u64)>,
    /// Accuracy after the last epoch.
    pub last: Option<f64>,
    /// Images left out.
    pub bad: usize,
}

/// What a run needs to be the same when it is resumed.
#[derive(Serialize)]
struct Record<'a> {
    options: &'a RunOptions,
    classes: &'a [String],
    train_images: usize,
    validation_images: usize,
    model: &'a Path,
}

/// A run.
pub struct Run {
    folder: PathBuf,
    options: RunOptions,
    trainer: Trainer,
    sets: (Labelled, Labelled),
    preprocess: Preprocess,
    raw_config: Value,
    threads: usize,
    isa: Isa,
    decoder: Pool,
    best: Option<(f64, u64)>,
}

impl Run {
    /// Opens a run in `folder`: a new one, or, with `resume`, the one that is there.
    ///
    /// # Errors
    /// Settings or data that do not fit the model, a folder that holds another run, or one that holds a run already when
    /// none is to be resumed.
    pub fn open(
        folder: &Path,
        (files, preprocess): (&VitFiles, Preprocess),
        sets: (Labelled, Labelled),
        options: RunOptions,
        (resume, threads, isa): (bool, usize, Isa),
    ) -> Result<Run, TrainError> {
        let (train, validation) = &sets;
        if train.paths.is_empty() || train.classes != validation.classes {
            let why = format!("train has {:?}, validation {:?}", train.classes, validation.classes);
            return Err(TrainError::setting("classes", why));
        }
        let mut trainer = prepare(files, &train.classes, &options, (threads, isa))?;
        let record = Record {
            options: &options,
            classes: &train.classes,
            train_images: train.paths.len(),
            validation_images: validation.paths.len(),
            model: &files.folder,
        };
        let best = begin(folder, &record, &mut trainer, resume)?;
        Ok(Run {
            folder: folder.to_owned(),
            options,
            trainer,
            sets,
            preprocess,
            raw_config: files.raw_config.clone(),
            threads,
            isa,
            decoder: Pool::new(threads),
            best,
        })
    }

    /// Steps of an epoch.
    pub fn steps_an_epoch(&self) -> u64 {
        self.sets.0.paths.len().div_ceil(self.options.batch) as u64
    }

    /// The trainer, to look at.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// Trains to the end, or until `cancel` is set: then the step is finished and the state saved. The best model is in
    /// the folder `best`, the last one in `model`.
    ///
    /// # Errors
    /// A batch that cannot be decoded, numbers that are not finite, or a folder that cannot be written.
    pub fn train(&mut self, watch: &mut dyn FnMut(Event), cancel: &AtomicBool) -> Result<Outcome, TrainError> {
        let (per_epoch, o) = (self.steps_an_epoch(), self.options);
        let total = per_epoch * o.epochs;
        let metrics_path = self.folder.join("metrics.jsonl");
        keep_lines(&metrics_path, self.trainer.step)?;
        let fail = |e| FileError::Io { path: metrics_path.clone(), action: "write".into(), source: e };
        let mut metrics = OpenOptions::new().append(true).create(true).open(&metrics_path).map_err(fail)?;
        let (mut bad, mut last) = (0, None);
        while self.trainer.step < total {
            let (epoch, at) = (self.trainer.step / per_epoch, self.trainer.step % per_epoch);
            let order = order(self.sets.0.paths.len(), o.trainer.seed, epoch);
            let from = at as usize * o.batch;
            let indices = &order[from..order.len().min(from + o.batch)];
            let augment = Some((o.augment, o.trainer.seed, epoch));
            let batch = batch(&self.decoder, (&self.sets.0, indices), &self.preprocess, augment, o.skip_bad)?;
            batch.bad.iter().for_each(|b| watch(Event::Bad(b)));
            bad += batch.bad.len();
            if batch.labels.is_empty() {
                return Err(TrainError::setting("data", "no image of a batch could be decoded"));
            }
            let rate = o.schedule.rate(o.rate, self.trainer.step, o.warmup, total);
            let report = self.trainer.step((&batch.pixels, self.preprocess.size), &batch.labels, rate)?;
            let line = serde_json::to_string(&report).unwrap_or_default();
            writeln!(metrics, "{line}").map_err(fail)?;
            watch(Event::Step(&report, total));
            let ended = self.trainer.step.is_multiple_of(per_epoch);
            let mut judged = None;
            if ended {
                let right = self.judge(watch)?;
                let accuracy = right.0 as f64 / right.1.max(1) as f64;
                last = Some(accuracy);
                if right.1 > 0 && self.best.is_none_or(|(best, _)| accuracy > best) {
                    self.best = Some((accuracy, self.trainer.step));
                    self.save_model("best")?;
                }
                judged = Some((accuracy, right));
            }
            if ended || cancel.load(Ordering::Relaxed) {
                save_state(&self.folder.join("state"), &self.trainer, self.best)?;
            }
            // Told last: who measures steps can leave out what judging and saving took.
            if let Some((accuracy, right)) = judged {
                watch(Event::Epoch { epoch: epoch + 1, accuracy, right });
            }
            if cancel.load(Ordering::Relaxed) && self.trainer.step < total {
                return Ok(Outcome { finished: false, steps: self.trainer.step, best: self.best, last, bad });
            }
        }
        self.save_model("model")?;
        Ok(Outcome { finished: true, steps: self.trainer.step, best: self.best, last, bad })
    }

    /// Right answers on the validation images, by the model as inference runs it: all tokens, no budget touched.
    fn judge(&self, watch: &mut dyn FnMut(Event)) -> Result<(usize, usize), TrainError> {
        let set = &self.sets.1;
        let (config, params) = self.trainer.plain();
        let model = Vit::new(config, params, Pool::new(self.threads), self.isa);
        let (mut right, mut all) = (0, 0);
        let indices: Vec<usize> = (0..set.paths.len()).collect();
        for some in indices.chunks(8) {
            let batch = batch(&self.decoder, (set, some), &self.preprocess, None, self.options.skip_bad)?;
            if batch.labels.is_empty() {
                continue;
            }
            let logits = model.logits(&batch.pixels, self.preprocess.size)?;
            for (row, label) in logits.chunks_exact(set.classes.len()).zip(&batch.labels) {
                let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
                right += usize::from(best.is_some_and(|(class, _)| class == *label));
                all += 1;
            }
            watch(Event::Judging(all, set.paths.len()));
        }
        Ok((right, all))
    }

    fn save_model(&self, name: &str) -> Result<(), TrainError> {
        let (config, params) = self.trainer.plain();
        let (config, params, raw) = export(&config, &params, &self.raw_config);
        let folder = self.folder.join(name);
        if let Some(lora) = self.options.trainer.method.adapters() {
            let network = &self.trainer.network;
            let all = self.trainer.average.as_ref().unwrap_or(&network.params);
            save_adapter(&folder.join("adapter"), (&network.config, all), &lora, &config.prefix)?;
        }
        Ok(save(&folder, &config, &params, &raw, &self.preprocess)?)
    }
}

/// A trainer at the beginning of a run.
pub(super) fn prepare(
    files: &VitFiles,
    classes: &[String],
    options: &RunOptions,
    (threads, isa): (usize, Isa),
) -> Result<Trainer, TrainError> {
    if options.batch == 0 || options.epochs == 0 {
        return Err(TrainError::setting("batch and epochs", "both have to be at least 1"));
    }
    if !(options.rate > 0.0 && options.rate.is_finite()) {
        return Err(TrainError::setting("learning rate", format!("{} is no positive number", options.rate)));
    }
    if let Augment::Crop { scale } = options.augment
        && !(scale > 0.0 && scale <= 1.0)
    {
        return Err(TrainError::setting("crop scale", format!("{scale} is outside (0, 1]")));
    }
    let config = tuned_config(&files.config, classes)?;
    let mut params = files.params()?;
    take_head(&files.config, &config, &mut params, options)?;
    Trainer::new(Network::new(config, params, Pool::new(threads), isa)?, options.trainer)
}

/// Starts or resumes: run.json says what the run is, and has to say the same when it is resumed.
fn begin(
    folder: &Path,
    record: &Record,
    trainer: &mut Trainer,
    resume: bool,
) -> Result<Option<(f64, u64)>, TrainError> {
    let path = folder.join("run.json");
    let fail = |e| FileError::Io { path: path.clone(), action: "write".into(), source: e };
    let text = serde_json::to_string_pretty(record).map_err(|source| FileError::Json { path: path.clone(), source })?;
    let refuse = |why: &str| Err(TrainError::State { path: folder.to_owned(), why: why.to_owned() });
    if path.exists() {
        if !resume {
            return refuse("there is a run in this folder; continue it with --resume, or name another folder");
        }
        if std::fs::read_to_string(&path).map_err(fail)? != text {
            return refuse(
                "the run in this folder has other settings, classes, images or another model; resume it with its own",
            );
        }
        return Ok(load_state(&folder.join("state"), trainer)?.flatten());
    }
    if resume {
        return refuse("there is no run in this folder to resume");
    }
    std::fs::create_dir_all(folder).map_err(fail)?;
    let mut file = AtomicFile::create(&path)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    file.commit()?;
    Ok(None)
}

/// Cuts lines of steps that were done after the state was saved, which will be done again.
fn keep_lines(path: &Path, steps: u64) -> Result<(), TrainError> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    let kept: Vec<&str> = text.lines().take(steps as usize).collect();
    let mut file = AtomicFile::create(path)?;
    let fail = |e| FileError::Io { path: path.to_owned(), action: "write".into(), source: e };
    for line in kept {
        writeln!(file, "{line}").map_err(fail)?;
    }
    Ok(file.commit()?)
}
