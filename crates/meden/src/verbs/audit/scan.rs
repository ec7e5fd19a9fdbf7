//! `meden audit scan`: suspicious items, with reasons.

use std::path::PathBuf;

use meden_eval::audit::detect::{self, Evidence};
use meden_eval::audit::predictions;
use meden_eval::choice;
use serde::Serialize;

use crate::cli::Global;
use crate::exit::Exit;
use crate::output;
use crate::progress::say;

/// Looks for items that may be faulty: repeats, repeated options, references to what is not there, and, where models'
/// answers are given, keys that the models agree against. A find is a suspicion until somebody has read the item.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden audit scan mmlu_test --top 20
  meden audit scan redux_csv --predictions helm_predictions.csv")]
pub struct Args {
    /// A file (.csv, .jsonl) or a folder of them
    items: PathBuf,
    /// What models answered: a CSV with a column `id` and one a model
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Most finds of each detector that are shown
    #[arg(long, default_value_t = 10, value_name = "N")]
    top: usize,
}

#[derive(Serialize)]
struct Find<'a> {
    id: &'a str,
    score: f64,
    reason: String,
}

#[derive(Serialize)]
struct Found<'a> {
    detector: &'static str,
    about: &'static str,
    findings: usize,
    top: Vec<Find<'a>>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let imported = choice::read(&args.items)?;
    if !global.quiet {
        imported.notes.iter().for_each(|n| say(&format!("note: {n}")));
    }
    let given = args.predictions.as_deref().map(predictions::read).transpose()?;
    let evidence = Evidence::new(&imported.items, given.as_ref());
    let mut all = Vec::new();
    for detector in detect::all() {
        let findings = detector.scan(&evidence);
        let mut top: Vec<Find<'_>> = findings
            .iter()
            .zip(&imported.items)
            .filter_map(|(f, item)| f.as_ref().map(|f| Find { id: &item.id, score: f.score, reason: f.reason.clone() }))
            .collect();
        let count = top.len();
        // equal scores keep the order of the set
        top.sort_by(|a, b| b.score.total_cmp(&a.score));
        top.truncate(args.top);
        all.push(Found { detector: detector.name(), about: detector.about(), findings: count, top });
    }
    if global.json {
        output::object(&serde_json::json!({"items": imported.items.len(), "detectors": all}))?;
        return Ok(Exit::Ok);
    }
    let mut text = format!("{} items\n", imported.items.len());
    for found in all.iter().filter(|f| f.findings > 0) {
        text.push_str(&format!("\n{} ({}): an opinion on {} items\n", found.detector, found.about, found.findings));
        let mut table = meden_report::Table::new(["", "", ""]).align(1, meden_report::Align::Right).indent(2);
        table = table.align(2, meden_report::Align::Left);
        for find in &found.top {
            table.row([find.id.to_owned(), format!("{:.2}", find.score), find.reason.clone()]);
        }
        text.push_str(&table.to_string());
    }
    output::text(&text)?;
    Ok(Exit::Ok)
}
