//! `meden probe apply`: what a saved probe says.

use std::path::PathBuf;

use meden_lens::capture::{CaptureFile, Selection, capture};
use meden_lens::place::Positions;
use meden_lens::probe::ProbeFile;
use meden_lens::probe::file::Position;
use meden_report::Table;
use serde::Serialize;

use crate::cli::Global;
use crate::exit::{Exit, failure, usage};
use crate::output;
use crate::verbs::lens::input::{LookArgs, PromptsArgs, watched};

/// Ask a saved probe about prompts, or about captured activations.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden probe apply --probe mine.probe.safetensors --prompt \"The capital of France is\"
  meden probe apply --probe mine.probe.safetensors --from acts.safetensors --json")]
pub struct Args {
    /// The probe
    #[arg(long, value_name = "FILE")]
    probe: PathBuf,
    /// Activations instead of prompts
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "file", "ids", "prompts", "text", "positions"])]
    from: Option<PathBuf>,
    /// Positions of each prompt: all, last, or as in 0,4-9,-1; default: those that the probe was made for
    #[arg(long, value_name = "POSITIONS", allow_hyphen_values = true)]
    positions: Option<Positions>,
    #[command(flatten)]
    prompts: PromptsArgs,
    #[command(flatten)]
    look: LookArgs,
}

/// What the probe says of a row.
#[derive(Serialize)]
struct Row {
    prompt: usize,
    position: usize,
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    score: f64,
    probability: f64,
}

/// The one object of `meden probe apply --json`.
#[derive(Serialize)]
struct Report<'a> {
    probe: &'a PathBuf,
    place: String,
    classes: &'a [String; 2],
    rows: &'a [Row],
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let probe = ProbeFile::load(&args.probe)?;
    let rows = match &args.from {
        Some(path) => of_file(&probe, path)?,
        None => of_prompts(&args, &probe, global.quiet)?,
    };
    let place = probe.about.place.place()?.to_string();
    if global.json {
        output::object(&Report { probe: &args.probe, place, classes: &probe.about.classes, rows: &rows })?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["prompt", "position", "token", "score", &probability(&probe)]);
    for row in &rows {
        let token = row.text.clone().unwrap_or_else(|| row.id.to_string());
        let figures = [format!("{:.3}", row.score), format!("{:.3}", row.probability)];
        let [score, p] = figures;
        table.row([row.prompt.to_string(), row.position.to_string(), token, score, p]);
    }
    output::text(&table.to_string())?;
    Ok(Exit::Ok)
}

fn probability(probe: &ProbeFile) -> String {
    format!("p({})", probe.about.classes[1])
}

fn of_file(probe: &ProbeFile, path: &std::path::Path) -> anyhow::Result<Vec<Row>> {
    let file = CaptureFile::open(path)?;
    if file.meta("model") != Some(&probe.about.model.fingerprint) {
        return Err(failure(
            Exit::Usage,
            format!("{}: captured from another model than the probe was made on", path.display()),
        ));
    }
    let place = probe.about.place.place()?;
    let Some(width) = file.width(place) else {
        return Err(usage(format!("{}: {place}, which the probe reads, is not in it", path.display())));
    };
    let values = file.read(place, 0..file.len())?;
    let row = |(at, values): (&meden_lens::capture::RowOf, &[f32])| {
        let score = probe.probe.score(values)?;
        let probability = probe.of_score(score);
        Ok(Row { prompt: at.prompt, position: at.position, id: at.id, text: None, score, probability })
    };
    file.rows().iter().zip(values.chunks_exact(width)).map(row).collect()
}

fn of_prompts(args: &Args, probe: &ProbeFile, quiet: bool) -> anyhow::Result<Vec<Row>> {
    let opened = args.look.open(quiet)?;
    let prompts = args.prompts.read(&opened)?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let (loaded, session) = args.look.load(&opened, longest)?;
    probe.check(&opened.name(), &loaded.model)?;
    let place = probe.about.place.place()?;
    let made_for = match probe.about.place.position {
        Position::Last => Positions::Last,
        Position::All => Positions::All,
    };
    let selection = Selection::new(vec![place], args.positions.clone().unwrap_or(made_for));
    let captured = watched("reading", quiet, |control| capture(&session, &prompts, &selection, control))?;
    let mut rows = Vec::new();
    for (number, at) in captured.rows().iter().enumerate() {
        let score = probe.probe.score(captured.row(place, number).unwrap_or_default())?;
        rows.push(Row {
            prompt: at.prompt,
            position: at.position,
            id: at.id,
            text: opened.tokenizer.as_ref().map(|t| t.decode(&[at.id], false)),
            score,
            probability: probe.of_score(score),
        });
    }
    Ok(rows)
}
