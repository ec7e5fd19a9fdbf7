//! `meden vision compare`: finished runs in one table and on one page.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use meden_files::{AtomicFile, read_json};
use meden_report::html::Page;
use meden_report::svg::{Bar, BarChart, Unit};
use meden_report::{Table, human};
use meden_stats::interval::wilson;
use serde::{Deserialize, Serialize};

use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::output;
use crate::progress::say;

/// Compare finished runs of `meden vision finetune`: accuracy, time, memory, multiply-adds.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden vision compare runs/full runs/lora runs/alast runs/static --page compare.html")]
pub struct Args {
    /// Folders of runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Write a page that stands alone
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

/// What is read of a run's result.json.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) model: String,
    pub(super) seed: u64,
    pub(super) image_size: [usize; 2],
    pub(super) batch: usize,
    pub(super) micro_batch: usize,
    pub(super) rate: f64,
    pub(super) epochs: u64,
    pub(super) outcome: Ended,
    pub(super) train_images: usize,
    pub(super) validation_images: usize,
    pub(super) trainable_parameters: usize,
    pub(super) seconds_per_step: f64,
    pub(super) images_per_second: f64,
    pub(super) flops_per_image_mean: f64,
    pub(super) full_flops_per_image: u64,
    pub(super) activation_bytes_peak: usize,
    pub(super) step_peak_bytes: Option<u64>,
    pub(super) peak_bytes: Option<u64>,
    pub(super) tracked_bytes: u64,
    pub(super) planned_step_bytes: u64,
}

/// How the run ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) best: Option<(f64, u64)>,
    pub(super) last: Option<f64>,
    pub(super) steps: u64,
}

/// A run of the table.
#[derive(Clone, Debug, Serialize)]
struct Run {
    name: String,
    /// Wilson's, on the validation images, of the best epoch.
    interval: Option<[f64; 2]>,
    #[serde(flatten)]
    told: Told,
}

/// The one object of `meden vision compare --json`.
#[derive(Serialize)]
struct Report {
    runs: Vec<Run>,
    notes: Vec<String>,
}

/// A bar's length, and the ends of its whisker.
type Drawn = (f64, Option<(f64, f64)>);

/// A result.json is small.
const JSON_MAX: u64 = 1 << 20;

/// What a finished run said of itself.
pub(super) fn told(folder: &Path) -> anyhow::Result<Told> {
    let path = folder.join("result.json");
    if !path.is_file() {
        let why = if folder.join("run.json").is_file() {
            "the run is not finished; go on with meden vision finetune --resume"
        } else {
            "this is no folder of a finished meden vision finetune"
        };
        return Err(usage(format!("{}: {why}", folder.display())));
    }
    read_json(&path, JSON_MAX).with_context(|| format!("{} is of another version", path.display()))
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let mut runs = Vec::new();
    for folder in &args.runs {
        let told = told(folder)?;
        let right = told.outcome.best.map(|(a, _)| (a * told.validation_images as f64).round() as u64);
        let interval = right.and_then(|r| wilson(r, told.validation_images as u64, 0.95)).map(|i| [i.low, i.high]);
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        runs.push(Run { name, interval, told });
    }
    let report = Report { notes: notes(&runs), runs };
    if let Some(path) = &args.page {
        let mut file = AtomicFile::create(path)?;
        file.write_all(page(&report).as_bytes())?;
        file.commit()?;
        if !global.quiet {
            say(&format!("page: {}", path.display()));
        }
    }
    if global.json {
        output::object(&report)?;
    } else {
        let mut table = Table::new(HEAD);
        report.runs.iter().for_each(|r| {
            table.row(row(r));
        });
        let notes: String = report.notes.iter().map(|n| format!("note: {n}\n")).collect();
        output::text(&format!("{table}\n{LEGEND}\n{notes}"))?;
    }
    Ok(Exit::Ok)
}

const HEAD: [&str; 11] = [
    "run",
    "accuracy",
    "95% interval",
    "last",
    "s a step",
    "images/s",
    "G mult-adds",
    "of full",
    "trainable",
    "memory: system / tracked / planned",
    "activations",
];

const LEGEND: &str = "Accuracy is of the best epoch on the validation images, chosen there, so it flatters; multiply-adds \
are an image's, forward and back. Memory is three ways: the process during steps after five of warm-up, the sum of what \
was held, and what the plan counts.";

fn row(run: &Run) -> Vec<String> {
    let t = &run.told;
    let dash = || "-".to_owned();
    let share = t.flops_per_image_mean / t.full_flops_per_image.max(1) as f64;
    let system = t.step_peak_bytes.map_or_else(dash, human::bytes);
    vec![
        run.name.clone(),
        t.outcome.best.map_or_else(dash, |b| human::percent(b.0)),
        run.interval.map_or_else(dash, |i| format!("{} to {}", human::percent(i[0]), human::percent(i[1]))),
        t.outcome.last.map_or_else(dash, human::percent),
        human::three_digits(t.seconds_per_step),
        human::three_digits(t.images_per_second),
        human::three_digits(t.flops_per_image_mean / 1e9),
        human::percent(share),
        human::count(t.trainable_parameters as u64),
        format!("{system} / {} / {}", human::bytes(t.tracked_bytes), human::bytes(t.planned_step_bytes)),
        human::bytes(t.activation_bytes_peak as u64),
    ]
}

/// What makes runs hard to compare.
fn notes(runs: &[Run]) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(first) = runs.first() else { return notes };
    type Setting = fn(&Told) -> String;
    let settings: [(&str, Setting); 6] = [
        ("model", |t| t.model.clone()),
        ("image size", |t| format!("{} x {}", t.image_size[0], t.image_size[1])),
        ("batch", |t| t.batch.to_string()),
        ("epochs", |t| t.epochs.to_string()),
        ("training images", |t| t.train_images.to_string()),
        ("validation images", |t| t.validation_images.to_string()),
    ];
    for (name, of) in settings {
        if runs.iter().any(|r| of(&r.told) != of(&first.told)) {
            notes.push(format!("the runs differ in {name}"));
        }
    }
    for run in runs {
        let Some(system) = run.told.step_peak_bytes else {
            notes.push(format!("{}: too few steps to measure memory after a warm-up", run.name));
            continue;
        };
        let off = run.told.planned_step_bytes as f64 / system as f64 - 1.0;
        if off.abs() > 0.15 {
            let side = if off > 0.0 { "above" } else { "below" };
            let share = human::percent(off.abs());
            notes.push(format!("{}: the plan's memory is {share} {side} what the system counted", run.name));
        }
    }
    notes
}

fn page(report: &Report) -> String {
    let first = report.runs.first().map(|r| &r.told);
    let lead = first.map_or_else(String::new, |t| {
        format!(
            "{}, {} x {} pixels, batch {}, {} training and {} validation images, {} epochs",
            t.model, t.image_size[0], t.image_size[1], t.batch, t.train_images, t.validation_images, t.epochs
        )
    });
    let mut page = Page::new("Tuning compared", &lead);
    let chart = |title: &str, subtitle: &str, unit: Unit, of: &dyn Fn(&Run) -> Drawn| {
        let bars = report.runs.iter().map(|r| {
            let (value, interval) = of(r);
            Bar { name: r.name.clone(), value, interval, group: 0 }
        });
        let chart = BarChart { title: title.into(), subtitle: subtitle.into(), unit, bars: bars.collect() };
        chart.svg()
    };
    let accuracy = |r: &Run| (r.told.outcome.best.map_or(f64::NAN, |b| b.0), r.interval.map(|i| (i[0], i[1])));
    page.figures(&[
        chart("Accuracy", "best epoch on the validation images, with Wilson's 95% interval", Unit::Share, &accuracy),
        chart("Seconds a step", "median", Unit::Plain, &|r| (r.told.seconds_per_step, None)),
        chart("Memory during steps", "the process, as the system counts it", Unit::Bytes, &|r| {
            (r.told.step_peak_bytes.map_or(f64::NAN, |b| b as f64), None)
        }),
        chart("Multiply-adds an image, G", "forward and back, exact", Unit::Plain, &|r| {
            (r.told.flops_per_image_mean / 1e9, None)
        }),
    ]);
    let rows: Vec<Vec<String>> = report.runs.iter().map(row).collect();
    page.table(&HEAD, &rows, 1).paragraph(LEGEND).list(&report.notes);
    page.finish()
}
