//! `meden lens capture`: activations to a file.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use meden_engine::text::SamplingConfig;
use meden_lens::LensError;
use meden_lens::capture::{Dtype, FileCapture, Finished, Selection, capture_to_file};
use meden_lens::generate::Generate;
use meden_lens::place::{Names, names};
use meden_report::{human, memory};
use serde::Serialize;

use super::input::{LookArgs, PromptsArgs, watched};
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::output;
use crate::progress::say;

/// Write activations to a safetensors file: one tensor a place, named `<layer>.<site>`, `final_norm` or `logits`, of shape
/// (rows, width). `prompt`, `position` and `token` say where each row comes from. Rows are written as they pass, so
/// memory does not grow with the text; a run that was interrupted goes on where it was when it is started again.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden lens capture --prompt \"The capital of France is\" --out acts.safetensors
  meden lens capture --prompts facts.jsonl --sites resid_post,attn_out,logits --layers 0-3 --positions last --out a.safetensors
  meden lens capture --text book.txt --sites blocks.*.hook_resid_post --dtype f16 --out book.safetensors
  meden lens capture --prompt \"Once\" --positions none --generate 64 --out written.safetensors")]
pub struct Args {
    /// Sites with commas, * for any letters; see `meden lens sites`
    #[arg(long, default_value = "resid_post", value_name = "SITES")]
    sites: String,
    /// Layers: all, last, or as in 0-3,7,-1
    #[arg(long, default_value = "all", value_name = "LAYERS", allow_hyphen_values = true)]
    layers: String,
    /// Positions of each prompt: all, last, none, or as in 0,4-9,-1
    #[arg(long, default_value = "all", value_name = "POSITIONS", allow_hyphen_values = true)]
    positions: String,
    /// Element type in the file
    #[arg(long, default_value = "f32", value_name = "f32|f16|bf16")]
    dtype: Dtype,
    /// Write up to N tokens behind each prompt, and capture them too
    #[arg(long, value_name = "N")]
    generate: Option<usize>,
    /// Randomness of --generate: 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.0, value_name = "T", requires = "generate")]
    temperature: f32,
    /// Seed of the random choices
    #[arg(long, default_value_t = 0, value_name = "SEED", requires = "generate")]
    seed: u64,
    /// Where it goes
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    prompts: PromptsArgs,
    #[command(flatten)]
    look: LookArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    out: &'a PathBuf,
    #[serde(flatten)]
    finished: Finished,
    dtype: Dtype,
    positions: String,
    tensors: Vec<Names>,
    tokens: usize,
    seconds: f64,
    peak_rss_bytes: Option<u64>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.generate == Some(0) {
        return Err(usage("--generate: 0 tokens; leave it out to capture the prompt alone"));
    }
    let opened = args.look.open(global.quiet)?;
    let prompts = args.prompts.read(&opened)?;
    let selection = Selection::parse(&opened.config, &args.sites, &args.layers, &args.positions)?;
    let tokens: usize = prompts.iter().map(Vec::len).sum();
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + args.generate.unwrap_or(0);
    opened.check_context("a prompt with what is generated behind it", longest)?;
    let (loaded, session) = args.look.load(&opened, longest)?;
    let stop = opened.tokenizer.as_ref().map(|t| t.eos_ids().to_vec()).unwrap_or_default();
    let sampling = SamplingConfig { temperature: args.temperature, seed: args.seed, ..SamplingConfig::default() };
    let generate = args.generate.map(|tokens| Generate { tokens, stop, sampling });
    let options = FileCapture { path: args.out.clone(), dtype: args.dtype, generate };
    let start = Instant::now();
    let finished = watched("capturing", global.quiet, |control| {
        capture_to_file(&session, &prompts, &selection, &options, control)
    });
    let finished = match finished {
        Err(error) if is_interrupted(&error) => {
            return Err(error.context("the same command goes on where this one stopped"));
        }
        other => other.with_context(|| format!("capturing to {}", args.out.display()))?,
    };
    let seconds = start.elapsed();
    if global.json {
        let config = loaded.model.config();
        output::object(&Report {
            model: opened.name(),
            out: &args.out,
            finished,
            dtype: args.dtype,
            positions: selection.positions.to_string(),
            tensors: selection.places.iter().map(|&place| names(place, config)).collect(),
            tokens,
            seconds: seconds.as_secs_f64(),
            peak_rss_bytes: memory::peak(),
        })?;
        return Ok(Exit::Ok);
    }
    if !global.quiet {
        if finished.resumed_prompts > 0 {
            let (had, all) = (human::count(finished.resumed_prompts as u64), human::count(finished.prompts as u64));
            say(&format!("{had} of {all} prompts were there already"));
        }
        let (first, last) = (selection.places.first(), selection.places.last());
        let ends = first.zip(last).map(|(a, b)| format!("{a} … {b}")).unwrap_or_default();
        say(&format!(
            "{}: {} rows of {} places ({ends}), {} of {} prompts in {}",
            args.out.display(),
            human::count(finished.rows as u64),
            selection.places.len(),
            human::bytes(finished.bytes),
            human::count(finished.prompts as u64),
            human::duration(seconds)
        ));
    }
    Ok(Exit::Ok)
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    let engine = error.downcast_ref::<LensError>();
    matches!(engine, Some(LensError::Engine(meden_engine::EngineError::Cancelled { .. })))
}
