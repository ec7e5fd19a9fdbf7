//! `meden demo`: the main job in one command. A long document with one planted sentence is read twice, with a full
//! and with a pressed cache, and the same question is asked of both.
//!
//! Each side runs in a process of its own, so that the memory shown is that side's alone and as the operating system
//! counts it. Every figure is measured in this run.

mod document;
mod side;
mod view;

use std::path::PathBuf;

use meden_engine::{Budget, Policy, PressSpec};

use crate::args::{CacheArgs, ModelArgs};
use crate::cli::Global;
use crate::exit::{Exit, failure, usage};
use crate::progress::{Bar, say};
use crate::{child, load, output, repeat};
use document::Task;
use side::{Event, SideReport, SideSpec};

/// What the pressed side keeps unless flags say otherwise: 43% of the document. Tried on this document and question:
/// 2,000, 2,048 and 2,400 tokens keep the planted sentence, 1,700 and fewer lose it (docs/kv-compression.md).
const DEFAULT_BUDGET: Budget = Budget::Tokens(2048);

/// Read a long document with a full and with a small cache, and compare kept tokens, cache bytes, process memory,
/// speed and answer. The default model is fetched at the first use.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden demo
  meden demo --kv-budget 25% --svg cache.svg
  meden demo --press streaming_llm --kv-budget 25%")]
pub struct Args {
    /// Where in the document the sentence is planted, in percent of its length
    #[arg(long, default_value_t = 50, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    depth: u8,
    /// Draw cache bytes against tokens read into this SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// One side of the comparison, in a process of its own
    #[arg(long, hide = true, value_name = "JSON")]
    side: Option<String>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if let Some(spec) = &args.side {
        let spec: SideSpec = serde_json::from_str(spec).map_err(|e| usage(format!("--side: {e}")))?;
        return side::run(&spec);
    }
    let mut policy = args.cache.to_policy()?.unwrap_or_else(|| Policy::new(PressSpec::knorm(), DEFAULT_BUDGET));
    let path = load::find(&args.model.model, global.quiet)?;
    if policy.press.build()?.needs().replay {
        let opened = load::open(&args.model, global.quiet)?;
        repeat::instruct([&mut policy.press], opened.tokenizer.as_ref(), global.quiet)?;
    }
    let task = Task::new(args.depth);
    let spec = |policy: Option<Policy>| SideSpec {
        model: args.model.at(&path),
        kv: args.cache.kv,
        kv_rotate: args.cache.kv_rotate,
        read: args.cache.read.clone().filter(|_| policy.is_some()), // the dense side reads everything
        prefill_chunk: args.cache.prefill_chunk,
        policy,
        depth: args.depth,
    };
    if !global.json {
        output::text(&view::heading(&task, &path))?;
    }
    let dense = measure("dense", &spec(None), global)?;
    let pressed = measure("pressed", &spec(Some(policy.clone())), global)?;
    if let Some(file) = &args.svg {
        std::fs::write(file, view::chart(&dense, &pressed, &policy))
            .map_err(|e| failure(Exit::BadFile, format!("{}: cannot write the chart: {e}", file.display())))?;
    }
    if global.json {
        output::object(&view::json(&task, &policy, &dense, &pressed))?;
        return Ok(Exit::Ok);
    }
    output::text(&view::comparison(&policy, &dense, &pressed))?;
    if let Some(file) = &args.svg
        && !global.quiet
    {
        say(&format!("chart written to {}", file.display()));
    }
    Ok(Exit::Ok)
}

fn measure(name: &str, spec: &SideSpec, global: Global) -> anyhow::Result<SideReport> {
    let mut bar = Bar::new(global.quiet);
    let what = format!("reading, {name:7}");
    let mut result = None;
    child::run(("demo", "--side"), spec, &mut |event| match event {
        Event::Reading { done, total } => bar.tokens(&what, done, total),
        Event::Done(report) => result = Some(*report),
    })?;
    result.ok_or_else(|| failure(Exit::Other, "demo: its second process ended without a result; run it again"))
}
