//! `meden vision replica`: seven methods and the parts of ALaST on one data set, from the split to the table.

mod arms;
mod report;
mod runs;
mod split;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meden_files::{AtomicFile, read_json};
use meden_report::human;
use serde::{Deserialize, Serialize};

use self::arms::{ARMS, Arm, RATES};
use self::report::Judged;
use self::runs::Shared;
use self::split::{Counts, Setting};
use super::compare::told;
use super::images::ImageArgs;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::output;
use crate::progress::{Bar, say};

/// Run the comparison of methods on a data set: FOLDER/train, validation and test, each with a folder a class.
///
/// Training photos are drawn by the seed; the learning rate of each method and the best epoch are chosen on the validation
/// photos; the test photos and the unused training photos, without near duplicates, are looked at once. Every run is a
/// process of its own. The same command goes on where it was interrupted.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden vision replica --data clothing/ --out replica/ --image-size 112
  meden vision replica --data clothing/ --out replica224/ --image-size 224 --arms full,alast,static --seeds 1")]
pub struct Args {
    /// Labelled images
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// Where runs and tables go
    #[arg(long, short, value_name = "FOLDER")]
    out: PathBuf,
    /// Training photos of a class
    #[arg(long, default_value_t = 80, value_name = "N")]
    per_class: usize,
    /// Test photos of a class at most; 0 for all
    #[arg(long, default_value_t = 0, value_name = "N")]
    test_per_class: usize,
    /// Cosine of two embeddings from which on a test photo counts as a training photo again
    #[arg(long, default_value_t = 0.95, value_name = "X")]
    duplicate: f64,
    /// Times that every training photo is seen
    #[arg(long, default_value_t = 5, value_name = "N")]
    epochs: u64,
    /// Runs of each arm
    #[arg(long, default_value_t = 3, value_name = "N")]
    seeds: u64,
    /// Seed of the split
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Only these arms, by name [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    arms: Vec<String>,
    /// Measure a step of each arm, say how long everything takes, and end
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    images: ImageArgs,
}

/// What has to be the same when a replica goes on.
#[derive(Serialize, Deserialize, PartialEq)]
struct Record {
    setting: Setting,
    epochs: u64,
    images: Vec<String>,
    version: String,
}

const JSON_MAX: u64 = 16 << 20;

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.epochs == 0 || args.seeds == 0 || args.per_class == 0 {
        return Err(usage("--epochs, --seeds and --per-class have to be at least 1"));
    }
    let arms = chosen(&args.arms)?;
    let counts = prepare(&args, global)?;
    if !global.quiet {
        say(&format!(
            "{} photos to train on, {} to choose by, {} to test ({} near duplicates left out)",
            counts.train, counts.validation, counts.test, counts.near_duplicates
        ));
    }
    let shared = Shared { out: &args.out, images: &args.images, epochs: args.epochs };
    plan(&args, &arms, &shared, global)?;
    if args.plan {
        return Ok(Exit::Ok);
    }
    let mut bar = Bar::new(global.quiet);
    let methods: Vec<&Arm> = methods(&arms);
    let total = methods.len() * RATES.len() + arms.len() * args.seeds as usize;
    let mut done = 0;
    let mut step = |what: &str| {
        bar.runs(what, done, total);
        done += 1;
    };
    let mut rates = BTreeMap::new();
    for method in methods {
        let mut best = None;
        for factor in RATES {
            let rate = method.rate * factor;
            step(&format!("{} at {rate:.1e}", method.name));
            let folder = shared.run(method, rate, 0)?;
            let accuracy = told(&folder)?.outcome.best.map_or(0.0, |b| b.0);
            // Of equal rates the lower one.
            if best.is_none_or(|(most, _)| accuracy > most) {
                best = Some((accuracy, rate));
            }
        }
        rates.insert(method.name, best.map_or(method.rate, |b| b.1));
    }
    let mut judged = Vec::new();
    for arm in &arms {
        let rate = rates[arm.rate_of];
        let mut one = Judged { name: arm.name, rate, runs: Vec::new(), right: Vec::new() };
        for seed in 0..args.seeds {
            step(&format!("{}, seed {seed}", arm.name));
            let folder = shared.run(arm, rate, seed)?;
            one.right.push(shared.judge(&folder, Global { quiet: true, ..global })?);
            one.runs.push(told(&folder)?);
        }
        judged.push(one);
    }
    bar.clear();
    let report = report::report(&counts, &judged);
    write(&args.out.join("replica.json"), &serde_json::to_string_pretty(&report)?)?;
    write(&args.out.join("replica.html"), &report.page())?;
    if global.json {
        output::object(&report)?;
    } else {
        output::text(&format!("{}\n{}\n", report.table(), args.out.join("replica.html").display()))?;
    }
    Ok(Exit::Ok)
}

/// The arms that were asked for.
fn chosen(names: &[String]) -> anyhow::Result<Vec<Arm>> {
    for name in names {
        if ARMS.iter().all(|a| a.name != name) {
            let all: Vec<&str> = ARMS.iter().map(|a| a.name).collect();
            return Err(usage(format!("--arms {name}: not known; the arms are {}", all.join(", "))));
        }
    }
    Ok(ARMS.into_iter().filter(|a| names.is_empty() || names.iter().any(|n| n == a.name)).collect())
}

/// The methods whose rates the arms need.
fn methods(arms: &[Arm]) -> Vec<&'static Arm> {
    ARMS.iter().filter(|m| m.name == m.rate_of && arms.iter().any(|a| a.rate_of == m.name)).collect()
}

/// Splits the data, or finds that it was split the same way before.
fn prepare(args: &Args, global: Global) -> anyhow::Result<Counts> {
    let setting = Setting {
        data: std::path::absolute(&args.data)?,
        per_class: args.per_class,
        seed: args.seed,
        duplicate: args.duplicate,
        test_per_class: args.test_per_class,
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let record = Record { setting, epochs: args.epochs, images: args.images.flags(), version };
    let (path, counts_path) = (args.out.join("replica-setting.json"), args.out.join("split.json"));
    if path.is_file() && read_json::<Record>(&path, JSON_MAX)? != record {
        let why = "holds a replica of other settings; repeat its command, or name another folder";
        return Err(usage(format!("{} {why}", args.out.display())));
    }
    std::fs::create_dir_all(&args.out)?;
    write(&path, &serde_json::to_string_pretty(&record)?)?;
    if counts_path.is_file() {
        return Ok(read_json(&counts_path, JSON_MAX)?);
    }
    let counts = split::make(&record.setting, &args.images, &args.out, global)?;
    write(&counts_path, &serde_json::to_string(&counts)?)?;
    Ok(counts)
}

/// Measures a step of each arm, once, and says how long everything takes.
fn plan(args: &Args, arms: &[Arm], shared: &Shared, global: Global) -> anyhow::Result<()> {
    let path = args.out.join("plan.json");
    let mut seconds: BTreeMap<String, f64> = if path.is_file() { read_json(&path, JSON_MAX)? } else { BTreeMap::new() };
    let needed: Vec<&Arm> = arms.iter().chain(methods(arms)).collect();
    let mut bar = Bar::new(global.quiet);
    for (number, arm) in needed.iter().enumerate() {
        bar.runs("measuring a step", number, needed.len());
        if !seconds.contains_key(arm.name) {
            seconds.insert(arm.name.to_owned(), shared.rehearse(arm)?);
            write(&path, &serde_json::to_string(&seconds)?)?;
        }
    }
    bar.clear();
    let of = |arm: &Arm| seconds.get(arm.name).copied().unwrap_or_default();
    let sweep: f64 = methods(arms).into_iter().map(|m| of(m) * RATES.len() as f64).sum();
    let seeds: f64 = arms.iter().map(|a| of(a) * args.seeds as f64).sum();
    if !global.quiet {
        let duration = |s: f64| human::duration(Duration::from_secs_f64(s));
        for arm in arms {
            say(&format!("  {:<24} {} a run", arm.name, duration(of(arm))));
        }
        say(&format!(
            "plan: {} runs to choose rates ({}), {} runs of the arms ({}), finished ones included, judging not",
            methods(arms).len() * RATES.len(),
            duration(sweep),
            arms.len() * args.seeds as usize,
            duration(seeds)
        ));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.commit()?)
}
