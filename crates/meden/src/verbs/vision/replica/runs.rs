//! Runs of a replica, each in a process of its own, and their answers on the test photos.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use meden_files::{AtomicFile, read_json};
use meden_vision::image::image_list;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::images::ImageArgs;
use super::arms::Arm;
use crate::cli::Global;
use crate::exit::{Exit, failure};
use crate::signals;

/// How often Ctrl-C is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How long an interrupted run may take to save.
const PATIENCE: Duration = Duration::from_secs(30);
/// Answers on the test photos are small.
const JSON_MAX: u64 = 64 << 20;

/// What all runs share.
pub(super) struct Shared<'a> {
    pub(super) out: &'a Path,
    /// Model and images.
    pub(super) images: &'a ImageArgs,
    pub(super) epochs: u64,
}

impl Shared<'_> {
    /// The folder of a run.
    pub(super) fn folder(&self, arm: &Arm, rate: f64, seed: u64) -> PathBuf {
        self.out.join("runs").join(format!("{}-lr{rate:.1e}-seed{seed}", arm.name))
    }

    fn command(&self, arm: &Arm, rate: f64, seed: u64) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("the program file cannot be found")?);
        command.args(["vision", "finetune", "--json", "--quiet", "--skip-bad", "--reset-head"]).args(arm.flags);
        command.arg("--data").arg(self.out).arg("--out").arg(self.folder(arm, rate, seed)).args(self.images.flags());
        let numbers = [rate.to_string(), seed.to_string(), self.epochs.to_string()];
        for (flag, value) in ["--lr", "--seed", "--epochs"].iter().zip(&numbers) {
            command.args([flag, value.as_str()]);
        }
        Ok(command)
    }

    /// Seconds of one run, by two steps that leave nothing behind.
    pub(super) fn rehearse(&self, arm: &Arm) -> anyhow::Result<f64> {
        let mut command = self.command(arm, arm.rate, 0)?;
        command.arg("--plan");
        let told = finish(&mut command, arm.name)?;
        told["rehearsal"]["seconds"].as_f64().with_context(|| format!("{}: no time was measured", arm.name))
    }

    /// Does a run, goes on with one that was interrupted, or leaves one that is finished.
    pub(super) fn run(&self, arm: &Arm, rate: f64, seed: u64) -> anyhow::Result<PathBuf> {
        let folder = self.folder(arm, rate, seed);
        if !folder.join("result.json").is_file() {
            let mut command = self.command(arm, rate, seed)?;
            if folder.join("run.json").is_file() {
                command.arg("--resume");
            }
            finish(&mut command, arm.name)?;
        }
        Ok(folder)
    }

    /// Whether the best model of a run answers each test photo rightly; judged once, then read.
    pub(super) fn judge(&self, folder: &Path, global: Global) -> anyhow::Result<Vec<bool>> {
        let path = folder.join("test.json");
        if path.is_file() {
            return Ok(read_json::<Answers>(&path, JSON_MAX)?.right);
        }
        let test = image_list(&self.out.join("test.csv"))?;
        let ready = self.images.with_model(&folder.join("best")).ready(global)?;
        let found = ready.run("judging", &test.paths, |model, pixels, size| model.logits(pixels, size))?;
        let classes = &ready.model.config().classes;
        let mut right = vec![false; test.paths.len()];
        for (i, row) in found.indices.iter().zip(found.values.chunks_exact(classes.len().max(1))) {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
            right[*i] = best.is_some_and(|(c, _)| classes[c] == test.classes[test.labels[*i]]);
        }
        let mut file = AtomicFile::create(&path)?;
        file.write_all(serde_json::to_string(&Answers { right: right.clone() })?.as_bytes())?;
        file.commit()?;
        Ok(right)
    }
}

#[derive(Serialize, Deserialize)]
struct Answers {
    right: Vec<bool>,
}

/// Waits for a process and reads the object that it printed. Its output is small, so the pipe never fills.
fn finish(command: &mut Command, name: &str) -> anyhow::Result<Value> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{name}: a process for the run cannot be started"))?;
    // On Ctrl-C in a terminal the run gets the signal too, finishes its step and saves; only then it ends. One that was
    // not told is ended after a while: what it had saved is gone on from.
    let mut told_to_end: Option<Instant> = None;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if signals::interrupted() && told_to_end.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            child.kill()?;
        }
        std::thread::sleep(LOOK);
    };
    let mut text = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        std::io::Read::read_to_string(&mut pipe, &mut text)?;
    }
    if signals::interrupted() || status.code() == Some(Exit::Interrupted as i32) {
        return Err(failure(Exit::Interrupted, "interrupted; run the same command again to go on"));
    }
    let told: Value = serde_json::from_str(text.trim()).unwrap_or(Value::Null);
    if status.success() {
        return Ok(told);
    }
    let message = told["error"]["message"].as_str().unwrap_or("its process ended without a result");
    Err(failure(Exit::Other, format!("{name}: {message}")))
}
