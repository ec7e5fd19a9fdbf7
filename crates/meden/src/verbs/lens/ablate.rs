//! `meden lens ablate`: parts of the model taken out.

use std::path::PathBuf;

use meden_engine::{Control, Session};
use meden_lens::edit::{Edit, Edits};
use meden_lens::generate::{Generate, generate};
use meden_lens::metric::Metric;
use meden_lens::sweep::{Ablation, By, MeanOver, Sweep, Swept, ablate, means};
use meden_report::grid::{Grid, beside};
use meden_report::html::Page;
use serde::Serialize;

use super::input::{LookArgs, PromptArgs, PromptsArgs, watched, write_page};
use super::sweep::{MetricArgs, SweepArgs, Unit, figures, left_out, table};
use super::words::Words;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::load::{Loaded, Opened};
use crate::progress::say;
use crate::{output, signals};

/// Take parts of the model out, one at a time or together, and measure what the last token's output loses. A part
/// becomes zero, or its mean over other prompts.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden lens ablate --prompt \"The capital of France is\" --a \" Paris\"
  meden lens ablate --prompt \"The capital of France is\" --a \" Paris\" --sites z --by head --html heads.html
  meden lens ablate --prompt \"…\" --a \" Paris\" --with mean --reference others.txt
  meden lens ablate --prompt \"Once upon a time\" --sites mlp_out --layers 10-20 --by together --generate 40")]
pub struct Args {
    /// Sites with commas, * for any letters; see `meden lens sites`
    #[arg(long, default_value = "attn_out,mlp_out", value_name = "SITES")]
    sites: String,
    /// What a part becomes: zero, or its mean over the prompts of --reference
    #[arg(long = "with", default_value = "zero", value_name = "zero|mean")]
    with: With,
    /// Prompts to average over: one a line, or JSON lines with "prompt" or "ids"
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Average over all tokens, or position by position over prompts
    #[arg(long, default_value = "tokens", value_name = "tokens|prompts")]
    mean_over: Over,
    /// With --by together: write up to N tokens with and without the edit
    #[arg(long, value_name = "N")]
    generate: Option<usize>,
    /// Write a page with maps
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    sweep: SweepArgs,
    #[command(flatten)]
    metric: MetricArgs,
    #[command(flatten)]
    look: LookArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum With {
    Zero,
    Mean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Over {
    Tokens,
    Prompts,
}

/// What is written with and without the edit.
#[derive(Serialize)]
struct Texts {
    unedited: String,
    edited: String,
    unedited_ids: Vec<u32>,
    edited_ids: Vec<u32>,
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    metric: &'a Metric,
    with: &'static str,
    prompt: &'a [u32],
    #[serde(flatten)]
    swept: &'a Swept,
    #[serde(skip_serializing_if = "Option::is_none")]
    generated: Option<Texts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<&'a PathBuf>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.generate.is_some() && args.sweep.by != By::Together {
        return Err(usage("--generate: a text is written under one edit; add --by together"));
    }
    if (args.with == With::Mean) != args.reference.is_some() {
        return Err(usage("--with mean needs --reference FILE, the prompts to average over; and zero needs none"));
    }
    let opened = args.look.open(global.quiet)?;
    let words = Words::new(&opened);
    let ids = args.prompt.read(&opened)?;
    let sweep = args.sweep.sweep(&args.sites, &opened)?;
    let (metric, named, notes) = args.metric.metric(words)?;
    let longest = ids.len() + args.generate.unwrap_or(0);
    opened.check_context("the prompt with what is generated behind it", longest)?;
    let (loaded, session) = args.look.load(&opened, longest)?;
    let ablation = ablation(&args, &opened, &loaded, &sweep, global.quiet)?;
    let swept =
        watched("ablating", global.quiet, |control| ablate(&loaded.model, &ids, &ablation, &sweep, &metric, control))?;
    let generated = match args.generate {
        Some(tokens) => Some(texts(&session, &ids, (&ablation, &sweep), tokens, &opened)?),
        None => None,
    };
    if let Some(path) = &args.html {
        write_page(path, &page(&opened, words, &named, &ids, &swept))?;
    }
    let with = if args.with == With::Zero { "zero" } else { "mean" };
    if global.json {
        output::object(&Report {
            model: opened.name(),
            metric: &metric,
            with,
            prompt: &ids,
            swept: &swept,
            generated,
            page: args.html.as_ref(),
        })?;
        return Ok(Exit::Ok);
    }
    output::text(&format!(
        "{named} is {:.4} without any edit\n\n{}\n",
        swept.base,
        table(&swept, &ids, words, (&named, "change"))
    ))?;
    if let Some(texts) = &generated {
        output::text(&format!("\nunedited: {}\nedited:   {}\n", texts.unedited, texts.edited))?;
    }
    if !global.quiet {
        left_out(&swept).iter().for_each(|line| say(line));
        notes.iter().for_each(|note| say(&format!("note: {note}")));
        args.html.iter().for_each(|path| say(&format!("page: {}", path.display())));
    }
    Ok(Exit::Ok)
}

fn ablation(args: &Args, opened: &Opened, loaded: &Loaded, sweep: &Sweep, quiet: bool) -> anyhow::Result<Ablation> {
    let Some(path) = &args.reference else { return Ok(Ablation::Zero) };
    let reference = PromptsArgs { prompts: Some(path.clone()), ..PromptsArgs::default() };
    let prompts = reference.read(opened)?;
    let over = if args.mean_over == Over::Tokens { MeanOver::Tokens } else { MeanOver::Prompts };
    let means = watched("averaging", quiet, |control| means(&loaded.model, &prompts, &sweep.places, over, control))?;
    Ok(Ablation::Mean(means))
}

fn texts(
    session: &Session,
    ids: &[u32],
    (ablation, sweep): (&Ablation, &Sweep),
    tokens: usize,
    opened: &Opened,
) -> anyhow::Result<Texts> {
    let mut generation = Generate::greedy(tokens);
    generation.stop = opened.tokenizer.as_ref().map(|t| t.eos_ids().to_vec()).unwrap_or_default();
    let write = |edits: Option<&mut Edits>| -> anyhow::Result<Vec<u32>> {
        let mut control = Control { cancel: Some(signals::flag()), ..Control::default() };
        if let Some(edits) = edits {
            control.hooks.push(edits);
        }
        Ok(generate(&mut session.fork()?, ids, &generation, &mut control)?)
    };
    let unedited = write(None)?;
    let edit = |&place| Edit { heads: sweep.heads.clone(), ..Edit::new(place, ablation.change(place)) };
    let mut edits = Edits::new(sweep.places.iter().map(edit).collect(), &opened.config)?;
    let edited = write(Some(&mut edits))?;
    let text = |ids: &[u32]| opened.tokenizer.as_ref().map(|t| t.decode(ids, false)).unwrap_or_default();
    Ok(Texts { unedited: text(&unedited), edited: text(&edited), unedited_ids: unedited, edited_ids: edited })
}

fn page(opened: &Opened, words: Words<'_>, metric: &str, ids: &[u32], swept: &Swept) -> String {
    let mut page =
        Page::new("Ablation", &format!("{}; metric {metric}, {:.4} without any edit", opened.name(), swept.base));
    page.style(Grid::STYLE);
    page.list(&[format!("prompt: {}", ids.iter().map(|&id| words.raw(id)).collect::<String>())]);
    page.paragraph(
        "Each cell is one run in which one part of the model is taken out. Blue: the metric falls, so the part held it up. \
         Orange: it rises, so the part held it down.",
    );
    let (grids, charts) = figures(swept, ids, words, ("change of the metric", Unit::Change));
    page.raw(&beside(&grids));
    if !charts.is_empty() {
        page.figures(&charts);
    }
    page.finish()
}
