//! `meden lens tune`: a tuned lens from a text.

use std::path::PathBuf;

use meden_files::hash::Hash;
use meden_lens::tuned::{Fit, TrainOptions, train};
use meden_report::{Table, human};
use serde::Serialize;

use super::input::{LookArgs, watched};
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::say;
use crate::{output, prompt};

/// Train a tuned lens: for each layer an affine map, found by ridge regression, that moves its stream to where the last
/// one would be. The end of the text is held out; the table says how far both lenses are from the model's own output
/// there.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden lens tune --text book.txt --out tuned.safetensors
  meden lens logits --prompt \"Once upon a\" --lens tuned.safetensors")]
pub struct Args {
    /// The text; 20,000 tokens and more are better
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Where the lens goes
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 256, value_name = "N")]
    window: usize,
    /// Most tokens of the text that are read
    #[arg(long, default_value_t = 40_000, value_name = "N")]
    tokens: usize,
    /// Share of the sequences that is held out
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    held_out: f64,
    /// Strengths of the shrinkage that are tried
    #[arg(long, value_delimiter = ',', default_values_t = [1e-4, 1e-3, 1e-2, 1e-1], value_name = "RIDGES")]
    ridges: Vec<f64>,
    #[command(flatten)]
    look: LookArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    out: &'a PathBuf,
    sequences: usize,
    held_out: usize,
    tokens: usize,
    layers: &'a [Fit],
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if !(args.held_out > 0.0 && args.held_out < 1.0) {
        return Err(usage(format!("--held-out: {} is no share between 0 and 1", args.held_out)));
    }
    let opened = args.look.open(global.quiet)?;
    if args.window < 2 || args.window > opened.config.context {
        return Err(usage(format!("--window: {} tokens; 2 to {} are read", args.window, opened.config.context)));
    }
    let text = prompt::read_text(&args.text)?;
    let mut ids = opened.tokenizer()?.encode(&text, true)?;
    ids.truncate(args.tokens);
    let sequences: Vec<Vec<u32>> =
        ids.chunks(args.window).filter(|s| s.len() == args.window).map(<[u32]>::to_vec).collect();
    if sequences.len() < 2 {
        return Err(usage(format!(
            "--text: {} tokens are too few; two sequences of {} at least",
            human::count(ids.len() as u64),
            args.window
        )));
    }
    let held_out = ((sequences.len() as f64 * args.held_out).round() as usize).clamp(1, sequences.len() - 1);
    let (_, session) = args.look.load(&opened, args.window)?;
    let options = TrainOptions { ridges: args.ridges.clone(), held_out, ..TrainOptions::default() };
    let (lens, fits) = watched("reading", global.quiet, |control| train(&session, &sequences, &options, control))?;
    let mut hash = Hash::sha256();
    hash.update(text.as_bytes());
    let tokens = sequences.len() * args.window;
    lens.save(&args.out, &[("text_sha256", hash.hex()), ("tokens", tokens.to_string())])?;
    if global.json {
        let (sequences, layers) = (sequences.len(), fits.as_slice());
        output::object(&Report { model: opened.name(), out: &args.out, sequences, held_out, tokens, layers })?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["layer", "ridge", "KL of the logit lens", "KL of the tuned lens"]);
    for fit in &fits {
        let ridge = fit.ridge.map_or_else(|| "none".to_owned(), |r| r.to_string());
        table.row([fit.layer.to_string(), ridge, format!("{:.3}", fit.kl_logit_lens), format!("{:.3}", fit.kl_tuned)]);
    }
    output::text(&table.to_string())?;
    if !global.quiet {
        say(&format!(
            "{}: learnt from {} tokens, judged on held-out ones; what enters each layer is translated",
            args.out.display(),
            human::count(((sequences.len() - held_out) * args.window) as u64)
        ));
    }
    Ok(Exit::Ok)
}
