//! `meden probe eval`: a saved probe on other activations.

use std::path::PathBuf;

use meden_lens::probe::{Evaluation, Judging, ProbeFile, Scored};
use meden_stats::classify;
use serde::Serialize;

use super::labels::LabelledArgs;
use super::view;
use crate::cli::Global;
use crate::exit::{Exit, failure};
use crate::output;
use crate::progress::say;

/// Judge a saved probe on activations that it was not trained on.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden probe eval --probe mine.probe.safetensors --from other.safetensors --labels other.jsonl")]
pub struct Args {
    /// The probe
    #[arg(long, value_name = "FILE")]
    probe: PathBuf,
    #[command(flatten)]
    labelled: LabelledArgs,
    /// Bootstrap draws and shuffles of each interval
    #[arg(long, default_value_t = 1000, value_name = "N")]
    draws: usize,
    /// Seed of the draws
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    seed: u64,
}

/// The one object of `meden probe eval --json`.
#[derive(Serialize)]
struct Report<'a> {
    probe: &'a PathBuf,
    place: String,
    evaluation: &'a Evaluation,
    brier: Option<f64>,
    expected_calibration_error: Option<f64>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let probe = ProbeFile::load(&args.probe)?;
    let labelled = args.labelled.read()?;
    let made_for = &probe.about.model.fingerprint;
    if labelled.file.meta("model") != Some(made_for) {
        return Err(failure(
            Exit::Usage,
            format!(
                "{}: captured from another model than the probe was made on ({}); capture from that one",
                args.labelled.from.display(),
                probe.about.model.name
            ),
        ));
    }
    let place = probe.about.place.place()?;
    labelled.places(Some(&place.to_string()), &args.labelled.from)?;
    let examples = labelled.examples(place)?;
    let scores = probe.probe.scores(&examples.rows)?;
    let said: Vec<f64> = scores.iter().map(|&s| probe.of_score(s)).collect();
    let judging = Judging { draws: args.draws, seed: args.seed, ..Judging::default() };
    let evaluation = Scored::new(&examples, scores).evaluate(&judging)?;
    let brier = classify::brier(&labelled.labels, &said);
    let error = classify::expected_calibration_error(&labelled.labels, &said, 10);
    if global.json {
        output::object(&Report {
            probe: &args.probe,
            place: place.to_string(),
            evaluation: &evaluation,
            brier,
            expected_calibration_error: error,
        })?;
        return Ok(Exit::Ok);
    }
    output::text(&format!("{place}\n{}", view::evaluation(&evaluation)))?;
    if let (Some(brier), Some(error)) = (brier, error) {
        output::text(&format!("Brier score {brier:.3}, expected calibration error {error:.3}\n"))?;
    }
    if !global.quiet {
        say("rows that the probe was trained on would flatter it");
    }
    Ok(Exit::Ok)
}
