//! `meden lens patch`: activation patching.

use std::path::PathBuf;

use meden_lens::metric::Metric;
use meden_lens::sweep::{Swept, patch};
use meden_report::grid::{Grid, beside};
use meden_report::html::Page;
use serde::Serialize;

use super::input::{LookArgs, encode, watched, write_page};
use super::sweep::{MetricArgs, SweepArgs, Unit, figures, left_out, table};
use super::words::Words;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::load::Opened;
use crate::output;
use crate::progress::say;

/// Put activations of one prompt into a run of another, one place at a time, and measure how much of the difference
/// between the two comes back: 0 for none, 1 for all of it. Denoising runs the corrupt prompt with clean activations;
/// noising runs the clean prompt with corrupt ones. Positions have to correspond, so prompts need the same number of
/// tokens unless only the last one is patched.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden lens patch --clean \"The capital of France is\" --corrupt \"The capital of Italy is\" --a \" Paris\" --b \" Rome\"
  meden lens patch --clean … --corrupt … --a \" Paris\" --b \" Rome\" --by position --html patch.html
  meden lens patch --clean … --corrupt … --a \" Paris\" --b \" Rome\" --sites z --by head --direction both")]
pub struct Args {
    /// The prompt whose behaviour is looked for
    #[arg(long, value_name = "TEXT", required_unless_present = "clean_ids")]
    clean: Option<String>,
    /// The same with something changed
    #[arg(long, value_name = "TEXT", required_unless_present = "corrupt_ids")]
    corrupt: Option<String>,
    /// Token ids of the clean prompt
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "clean")]
    clean_ids: Vec<u32>,
    /// Token ids of the corrupt prompt
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "corrupt")]
    corrupt_ids: Vec<u32>,
    /// Put both prompts through the model's chat template
    #[arg(long)]
    chat: bool,
    /// Sites with commas, * for any letters; see `meden lens sites`
    #[arg(long, default_value = "resid_post", value_name = "SITES")]
    sites: String,
    /// Which prompt is run and which gives: denoise, noise, or both
    #[arg(long, default_value = "denoise", value_name = "denoise|noise|both")]
    direction: Direction,
    /// Write a page with maps
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    sweep: SweepArgs,
    #[command(flatten)]
    metric: MetricArgs,
    #[command(flatten)]
    look: LookArgs,
}

/// Which way activations go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Direction {
    Denoise,
    Noise,
    Both,
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    metric: &'a Metric,
    clean: &'a [u32],
    corrupt: &'a [u32],
    #[serde(skip_serializing_if = "Option::is_none")]
    denoise: Option<&'a Swept>,
    #[serde(skip_serializing_if = "Option::is_none")]
    noise: Option<&'a Swept>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<&'a PathBuf>,
}

fn ids(opened: &Opened, text: Option<&str>, ids: &[u32], chat: bool) -> anyhow::Result<Vec<u32>> {
    match text {
        Some(text) => encode(opened, text, chat),
        None => {
            opened.check_context("the prompt", ids.len())?;
            Ok(ids.to_vec())
        }
    }
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let opened = args.look.open(global.quiet)?;
    let words = Words::new(&opened);
    let clean = ids(&opened, args.clean.as_deref(), &args.clean_ids, args.chat)?;
    let corrupt = ids(&opened, args.corrupt.as_deref(), &args.corrupt_ids, args.chat)?;
    if clean == corrupt {
        return Err(usage("--clean, --corrupt: the prompts are the same, so there is no difference to find"));
    }
    let sweep = args.sweep.sweep(&args.sites, &opened)?;
    let (metric, named, notes) = args.metric.metric(words)?;
    if metric == Metric::Kl {
        return Err(usage("--metric kl: it has no value for the other prompt; name tokens with --a and --b"));
    }
    let (loaded, _) = args.look.load(&opened, clean.len().max(corrupt.len()))?;
    let mut runs: Vec<(&str, &[u32], Swept)> = Vec::new();
    for (name, from, to, wanted) in [
        ("denoise", &clean, &corrupt, args.direction != Direction::Noise),
        ("noise", &corrupt, &clean, args.direction != Direction::Denoise),
    ] {
        if wanted {
            let swept = watched("patching", global.quiet, |control| {
                patch(&loaded.model, (from, to), &sweep, &metric, control)
            })?;
            if swept.source == Some(swept.base) {
                return Err(usage(format!(
                    "{named} is {:.4} for both prompts: there is no difference to bring back",
                    swept.base
                )));
            }
            runs.push((name, to, swept));
        }
    }
    if let Some(path) = &args.html {
        write_page(path, &page(&opened, words, &named, (&clean, &corrupt), &runs))?;
    }
    let of = |name: &str| runs.iter().find(|r| r.0 == name).map(|r| &r.2);
    if global.json {
        output::object(&Report {
            model: opened.name(),
            metric: &metric,
            clean: &clean,
            corrupt: &corrupt,
            denoise: of("denoise"),
            noise: of("noise"),
            page: args.html.as_ref(),
        })?;
        return Ok(Exit::Ok);
    }
    for (name, ids, swept) in &runs {
        output::text(&format!(
            "{}\n\n{}\n",
            summary(name, &named, swept),
            table(swept, ids, words, (&named, "effect"))
        ))?;
        if !global.quiet {
            left_out(swept).iter().for_each(|line| say(line));
        }
    }
    if !global.quiet {
        notes.iter().for_each(|note| say(&format!("note: {note}")));
        args.html.iter().for_each(|path| say(&format!("page: {}", path.display())));
    }
    Ok(Exit::Ok)
}

fn summary(name: &str, metric: &str, swept: &Swept) -> String {
    let (run, from) = if name == "denoise" { ("corrupt", "clean") } else { ("clean", "corrupt") };
    let source = swept.source.unwrap_or(f64::NAN);
    format!("{name}: {metric} is {:.4} for the {run} prompt, {source:.4} for the {from} one", swept.base)
}

fn page(
    opened: &Opened,
    words: Words<'_>,
    metric: &str,
    (clean, corrupt): (&[u32], &[u32]),
    runs: &[(&str, &[u32], Swept)],
) -> String {
    let text = |ids: &[u32]| ids.iter().map(|&id| words.raw(id)).collect::<String>();
    let mut page = Page::new("Activation patching", &format!("{}; metric {metric}", opened.name()));
    page.style(Grid::STYLE);
    page.list(&[format!("clean: {}", text(clean)), format!("corrupt: {}", text(corrupt))]);
    page.paragraph(
        "Each cell is one run with one activation taken from the other prompt. Orange: it brings back the other prompt's \
         behaviour, all of it at 1. White: it makes no difference. Blue: it moves away.",
    );
    for (name, ids, swept) in runs {
        page.heading(&summary(name, metric, swept));
        let (grids, charts) = figures(swept, ids, words, ("effect", Unit::Share));
        page.raw(&beside(&grids));
        if !charts.is_empty() {
            page.figures(&charts);
        }
    }
    page.finish()
}
