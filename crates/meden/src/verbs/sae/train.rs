//! `meden sae train`: from a corpus to an autoencoder, in steps that can be interrupted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meden_engine::Control;
use meden_files::AtomicFile;
use meden_kernels::Pool;
use meden_lens::capture::{CaptureFile, Dtype, FileCapture, Selection, capture, capture_to_file, exact_session};
use meden_lens::place::{Layers, Place, Positions, names, places};
use meden_lens::sae::{Fit, Origin, Recovered, Sae, fit, recovered};
use meden_report::{Table, human};
use meden_train::sae::{Companions, Line, Recipe, TrainError, train};
use serde::Serialize;

use super::place::sequences;
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::{Bar, say};
use crate::{load, output, signals};

/// Sequences that loss is measured on.
const JUDGED: usize = 16;

/// Train a TopK autoencoder. The folder gets the activations, checkpoints, a log, and at the end `cfg.json` and
/// `sae_weights.safetensors` as SAELens has them. The same command goes on where an earlier one was stopped.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden sae train --corpus corpus.jsonl --layer 12 --out sae-12
  meden sae train --corpus corpus.jsonl --layer 12 --width 9216 --k 64 --tokens 2000000 --epochs 3 --out sae-12-wide")]
pub struct Args {
    /// A corpus (`meden sae corpus`), or a plain text
    #[arg(long, value_name = "FILE")]
    corpus: PathBuf,
    /// Where everything goes
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Layer whose output (resid_post) is encoded
    #[arg(long, value_name = "N")]
    layer: usize,
    /// Latents; default: eight times the width of the stream
    #[arg(long, value_name = "N")]
    width: Option<usize>,
    /// Latents that are active in a row
    #[arg(long, default_value_t = 32, value_name = "K")]
    k: usize,
    /// Tokens of text
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    tokens: usize,
    /// Tokens that are read together
    #[arg(long, default_value_t = 256, value_name = "N")]
    context: usize,
    /// Times that every row is seen
    #[arg(long, default_value_t = 2.0, value_name = "X")]
    epochs: f64,
    /// Rows of a step
    #[arg(long, default_value_t = 4096, value_name = "N")]
    batch: usize,
    /// Largest step size; default: 4e-4 / sqrt(width / 16384)
    #[arg(long, value_name = "X")]
    rate: Option<f64>,
    /// Seed of weights and order
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Wait while this file exists, so that other work can have the machine
    #[arg(long, value_name = "FILE")]
    pause_while: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
}

/// What came of it; also written to `report.json`.
#[derive(Serialize)]
struct Report {
    model: String,
    site: String,
    recipe: Recipe,
    rows: u64,
    scale: f32,
    threshold: f64,
    steps: usize,
    resumed_at: usize,
    seconds: f64,
    rows_per_second: f64,
    held_out: Fit,
    loss: Recovered,
}

/// Waits for as long as others want the machine.
fn wait(file: Option<&Path>) {
    while file.is_some_and(Path::exists) && !signals::interrupted() {
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Runs the verb.
pub fn run(args: &Args, global: Global) -> anyhow::Result<Exit> {
    if args.context < 2 {
        return Err(usage("--context: the first token of a context is left out, so at least 2"));
    }
    let opened = load::open(&args.model, global.quiet)?;
    let config = &opened.config;
    opened.check_context("--context", args.context)?;
    let place = places("resid_post", &format!("{}", args.layer).parse::<Layers>()?, config)?[0];
    let width = args.width.unwrap_or(8 * config.hidden);
    let pause = args.pause_while.as_deref();
    std::fs::create_dir_all(&args.out)?;

    let tokenizer = opened.tokenizer()?;
    let texts = sequences(&args.corpus, tokenizer, (args.context, args.tokens), (false, args.seed))?;
    let held = sequences(&args.corpus, tokenizer, (args.context, 50_000), (true, args.seed))?;
    let rows = (texts.len() * (args.context - 1)) as u64;
    let recipe = Recipe {
        batch: args.batch,
        epochs: args.epochs,
        rate: args.rate,
        seed: args.seed,
        ..Recipe::new(width, args.k, rows)
    };
    recipe.check(config.hidden)?;
    let loaded = opened.load(&meden_engine::SessionOptions::default(), args.context)?;
    let session = exact_session(&loaded.model)?;
    // the first row of a context is an attention sink, ten to a thousand times as long as the others
    let positions: Positions = format!("1-{}", args.context - 1).parse()?;
    let selection = Selection::new(vec![place], positions);

    let mut bar = Bar::new(global.quiet);
    let file = args.out.join("activations.safetensors");
    let captured = {
        let mut show = |done: usize, total: usize| {
            wait(pause);
            bar.tokens("capturing", done, total);
        };
        let mut control = Control { progress: Some(&mut show), cancel: Some(signals::flag()), ..Control::default() };
        let options = FileCapture { path: file.clone(), dtype: Dtype::F16, generate: None };
        capture_to_file(&session, &texts, &selection, &options, &mut control)?
    };
    bar.clear();
    if !global.quiet {
        say(&format!("{}: {} rows of {place}", file.display(), human::count(captured.rows as u64)));
    }

    let pool = Pool::new(args.model.threads);
    let start = Instant::now();
    let trained = {
        let mut show = |line: &Line| {
            wait(pause);
            let what = format!("FVU {:.3}, L0 {:.0}, dead {:.1}%", line.fvu, line.l0, 100.0 * line.dead);
            bar.steps(&what, line.step, line.steps);
        };
        let mut companions = Companions { progress: &mut show, cancel: signals::flag() };
        train(&CaptureFile::open(&file)?, place, &recipe, (&args.out, &pool), &mut companions)
    };
    let trained = match trained {
        Err(TrainError::Stopped { step, steps }) => {
            bar.clear();
            say(&format!("stopped after step {step} of {steps}; the same command goes on"));
            return Ok(Exit::Interrupted);
        }
        other => other?,
    };
    let seconds = start.elapsed().as_secs_f64();
    bar.clear();
    drop(pool);

    let origin = Origin {
        site: Some(names(place, config).transformer_lens),
        model: Some(opened.name()),
        context: Some(args.context),
        model_fingerprint: Some(loaded.model.fingerprint().iter().map(|b| format!("{b:02x}")).collect()),
        ..Origin::default()
    };
    let parts = trained.state.parts(&recipe, (trained.shape.scale, false), origin);
    let (fit, loss) = judge(&session, (&parts, place), &held, (args.context, args.model.threads), &mut bar)?;
    let report = Report {
        model: opened.name(),
        site: place.to_string(),
        rows: trained.state.rows,
        scale: trained.shape.scale,
        threshold: trained.state.threshold,
        steps: trained.state.step,
        resumed_at: trained.resumed_at,
        seconds,
        rows_per_second: ((trained.state.step - trained.resumed_at) * recipe.batch) as f64 / seconds.max(1e-9),
        recipe,
        held_out: fit,
        loss,
    };
    parts.save(&args.out, serde_json::to_value(&report)?)?;
    write_json(&args.out.join("report.json"), &report)?;
    if global.json {
        output::object(&report)?;
    } else {
        output::text(&table(&report).to_string())?;
    }
    Ok(Exit::Ok)
}

/// How well it does on text that it has not seen.
fn judge(
    session: &meden_engine::Session,
    (parts, place): (&meden_lens::sae::Parts, Place),
    held: &[Vec<u32>],
    (context, threads): (usize, usize),
    bar: &mut Bar,
) -> anyhow::Result<(Fit, Recovered)> {
    let sae = Sae::new(parts.clone(), threads)?;
    let positions: Positions = format!("1-{}", context - 1).parse()?;
    let selection = Selection::new(vec![place], positions);
    let rows = {
        let mut show = |done: usize, total: usize| bar.tokens("capturing held-out text", done, total);
        let mut control = Control { progress: Some(&mut show), cancel: Some(signals::flag()), ..Control::default() };
        capture(session, held, &selection, &mut control)?
    };
    let rows = rows.matrix(place).unwrap_or_default();
    let codes = sae.encode(rows)?;
    let fit = fit(rows, &sae.decode(&codes)?, &codes, sae.d_in())?;
    let mut show = |done: usize, total: usize| bar.tokens("running on reconstructions", done, total);
    let mut control = Control { progress: Some(&mut show), cancel: Some(signals::flag()), ..Control::default() };
    let loss = recovered(session, &held[..held.len().min(JUDGED)], (&sae, place), &mut control)?;
    Ok((fit, loss))
}

fn table(report: &Report) -> Table {
    let mut table = Table::new(["", ""]);
    let (fit, loss) = (&report.held_out, &report.loss);
    table.row(["site", report.site.as_str()]);
    table.row(["rows seen", &human::count(report.rows)]);
    table.row(["rows/s in this run", &format!("{:.0}", report.rows_per_second)]);
    table.row(["held-out rows", &human::count(fit.rows as u64)]);
    table.row(["FVU", &format!("{:.4}", fit.fvu)]);
    table.row(["L0", &format!("{:.1}", fit.l0)]);
    table.row(["dead", &human::percent(fit.dead)]);
    table.row(["active in over 10% of rows", &human::percent(fit.dense)]);
    table.row(["cosine", &format!("{:.4}", fit.cosine)]);
    table.row([
        "loss as it is / spliced / zeros",
        &format!("{:.3} / {:.3} / {:.3}", loss.clean, loss.spliced, loss.zero),
    ]);
    table.row(["loss recovered", &format!("{:.4}", loss.recovered)]);
    table
}

/// Writes an object to a file of its own.
pub fn write_json<T: Serialize + ?Sized>(path: &Path, value: &T) -> anyhow::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(serde_json::to_string_pretty(value)?.as_bytes())?;
    file.write_all(b"\n")?;
    Ok(file.commit()?)
}
