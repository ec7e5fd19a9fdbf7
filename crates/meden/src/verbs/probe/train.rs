//! `meden probe train`: from activations and labels to a probe.

use std::path::PathBuf;

use meden_engine::Site;
use meden_lens::place::Place;
use meden_lens::probe::controls::{Bench, Control};
use meden_lens::probe::file::{About, MadeOn, Position};
use meden_lens::probe::{
    Calibration, CrossFit, Evaluation, Examples, Judging, Method, ProbeFile, Reads, Scored, split,
};
use meden_report::Table;
use serde::Serialize;

use super::labels::{Labelled, LabelledArgs};
use super::view;
use crate::cli::Global;
use crate::exit::{Exit, failure, usage};
use crate::output;
use crate::progress::{Bar, say};
use crate::signals;

/// Make a probe: a direction in the activations of one place that tells two classes apart. It is judged by cross-fitting
/// over groups (rows of a group are never parted), with intervals, beside its controls; what is saved is trained on all
/// rows.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden lens capture --prompts prompts.jsonl --positions last --out acts.safetensors
  meden probe train --from acts.safetensors --labels labels.jsonl --out mine.probe.safetensors
  meden probe train --from acts.safetensors --labels labels.txt --place 12.resid_post --as-paper --out p.safetensors
  meden run --prompt \"...\" --probe mine.probe.safetensors")]
pub struct Args {
    #[command(flatten)]
    labelled: LabelledArgs,
    /// Place to read, as in 12.resid_post; without it every place is judged and the best one saved
    #[arg(long, value_name = "PLACE")]
    place: Option<String>,
    /// Weight of the L1 penalty
    #[arg(long, default_value_t = 3e-4, value_name = "LAMBDA")]
    lambda: f64,
    /// The training of arXiv 2410.16090: Adam on raw activations, 20 epochs
    #[arg(long, conflicts_with = "means")]
    as_paper: bool,
    /// The difference of the class means, without training
    #[arg(long)]
    means: bool,
    /// Folds of groups
    #[arg(long, default_value_t = 5, value_name = "N")]
    folds: usize,
    /// Bootstrap draws and shuffles of each interval
    #[arg(long, default_value_t = 1000, value_name = "N")]
    draws: usize,
    /// Seed of folds, draws and the paper's training
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    seed: u64,
    /// Where the probe goes
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Judged {
    place: String,
    #[serde(flatten)]
    evaluation: Evaluation,
}

/// The one object of `meden probe train --json`.
#[derive(Serialize)]
struct Report<'a> {
    out: &'a PathBuf,
    place: String,
    method: Method,
    evaluation: &'a Evaluation,
    controls: &'a [Control],
    /// Every place that was judged, where none was named.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    places: &'a [Judged],
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.draws < 100 {
        return Err(usage("--draws: fewer than 100 give no interval"));
    }
    let method = if args.means {
        Method::DifferenceOfMeans
    } else if args.as_paper {
        Method::Paper { lambda: args.lambda, seed: args.seed }
    } else {
        Method::logistic(args.lambda)
    };
    let labelled = args.labelled.read()?;
    let places = labelled.places(args.place.as_deref(), &args.labelled.from)?;
    if places.is_empty() {
        return Err(usage(format!("{}: no place that a probe can read", args.labelled.from.display())));
    }
    let folds = split::folds(&labelled.groups, args.folds, args.seed)?;
    let judging = Judging { draws: args.draws, seed: args.seed, ..Judging::default() };
    let mut judged: Vec<Judged> = Vec::new();
    let mut best: Option<(Place, Evaluation)> = None;
    let mut bar = Bar::new(global.quiet);
    for (done, &place) in places.iter().enumerate() {
        if signals::interrupted() {
            return Err(failure(Exit::Interrupted, "stopped; nothing is saved"));
        }
        bar.steps("probing", done, places.len());
        let scored = CrossFit::new(&folds).run(&method, &labelled.examples(place)?)?;
        let evaluation = scored.evaluate(&judging)?;
        if best.as_ref().is_none_or(|(_, b)| evaluation.auroc.value > b.auroc.value) {
            best = Some((place, evaluation.clone()));
        }
        judged.push(Judged { place: place.to_string(), evaluation });
    }
    bar.clear();
    let Some((place, evaluation)) = best else { return Err(usage("no place to judge")) };
    let examples = labelled.examples(place)?;
    let scored = CrossFit::new(&folds).run(&method, &examples)?;
    let controls = controls(&labelled, (&examples, &folds), (judging, method))?;
    let file = made((&labelled, &examples), place, method, (&evaluation, &controls, &scored, places.len()))?;
    file.save(&args.out)?;
    let all = if places.len() > 1 { &judged[..] } else { &[] };
    if global.json {
        output::object(&Report {
            out: &args.out,
            place: place.to_string(),
            method,
            evaluation: &evaluation,
            controls: &controls,
            places: all,
        })?;
        return Ok(Exit::Ok);
    }
    if !all.is_empty() {
        let mut table = Table::new(["place", "AUROC", "balanced accuracy"]);
        for one in all {
            let e = &one.evaluation;
            table.row([one.place.clone(), view::figure(&e.auroc), view::figure(&e.balanced_accuracy)]);
        }
        output::text(&format!("{table}\n"))?;
    }
    output::text(&format!("{place}\n{}\n{}", view::evaluation(&evaluation), view::controls(&controls)))?;
    if !global.quiet {
        if all.len() > 1 {
            say(&format!("note: {}", chosen(places.len())));
        }
        say(&format!("probe: {}", args.out.display()));
    }
    Ok(Exit::Ok)
}

fn chosen(places: usize) -> String {
    format!(
        "the place is the best of {places} by the same figures, which flatters it; judge it on other data with `meden probe eval`"
    )
}

fn controls(
    labelled: &Labelled,
    (examples, folds): (&Examples, &[u32]),
    (judging, method): (Judging, Method),
) -> anyhow::Result<Vec<Control>> {
    let bench = Bench { examples, plan: CrossFit::new(folds), strata: &[], judged: &[], judging, method };
    let mut all = vec![bench.shuffled()?];
    let borrowed = |texts: &[String]| -> Vec<String> { texts.to_vec() };
    if let Some(texts) = labelled.texts.as_deref().map(borrowed) {
        all.push(bench.words(&texts.iter().map(String::as_str).collect::<Vec<_>>())?);
    }
    if let Some(answers) = labelled.answers.as_deref().map(borrowed) {
        all.push(bench.answers(&answers.iter().map(String::as_str).collect::<Vec<_>>())?);
    }
    all.push(bench.lengths(&labelled.lengths)?);
    if method != Method::DifferenceOfMeans {
        all.push(bench.means()?);
    }
    Ok(all)
}

fn made(
    (labelled, examples): (&Labelled, &Examples),
    place: Place,
    method: Method,
    (evaluation, controls, scored, places): (&Evaluation, &[Control], &Scored, usize),
) -> anyhow::Result<ProbeFile> {
    let file = &labelled.file;
    let model = MadeOn {
        name: file.meta("architecture").unwrap_or_default().to_owned(),
        fingerprint: file.meta("model").unwrap_or_default().to_owned(),
    };
    let position = if file.meta("positions") == Some("last") { Position::Last } else { Position::All };
    let reads = Reads { site: Site::name(place.site).to_owned(), layer: place.layer, position };
    let mut about = About::new(model, reads, method, labelled.classes.clone());
    about.rows = examples.len();
    about.groups = evaluation.groups;
    about.evaluation = Some(evaluation.clone());
    about.controls = controls.to_vec();
    about.calibration = Some(Calibration::fit(&scored.labels, &scored.scores)?);
    if places > 1 {
        about.note = chosen(places);
    }
    Ok(ProbeFile { probe: method.train(examples, None)?, about })
}
