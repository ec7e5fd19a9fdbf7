//! `meden kv calibrate`: the file that some presses need, made from a text of one's own.

use std::path::PathBuf;

use meden_engine::Control;
use meden_engine::SessionOptions;
use meden_engine::calibrate::{Recipe, calibrate};
use meden_files::hash::Hash;
use meden_report::human;
use serde::Serialize;

use super::lab::codec;
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::{Bar, say};
use crate::{load, output, prompt, signals};

/// Fewest tokens of a sequence.
const LEAST: usize = 64;

/// Make the file that a press needs (moments of the queries, directions, a small net) from ordinary text; for
/// duo_attention it is a folder. It names its model, and no other model takes it.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden kv calibrate --text book.txt --press qfilter --out q.safetensors
  meden run -f other.txt --prompt \"Who is it?\" --press 'qfilter(file=q.safetensors)' --kv-budget 25%
  meden kv calibrate --text book.txt --press duo_attention --out heads
  meden run -f other.txt --prompt \"Who is it?\" --press 'duo_attention(pattern=heads)' --kv-budget press")]
pub struct Args {
    /// The text; much more of it than one sequence is better
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// What to make: expected_attention_stats, qfilter, duo_attention or kvzap
    #[arg(long, value_name = "PRESS")]
    press: Recipe,
    /// Where it goes: a file, or a folder for duo_attention
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Tokens of a sequence; 1000 for expected_attention_stats and kvzap, 2048 for the others
    #[arg(long, value_name = "N")]
    sequence: Option<usize>,
    /// Most tokens of the text that are read
    #[arg(long, default_value_t = 40_000, value_name = "N")]
    tokens: usize,
    #[command(flatten)]
    model: ModelArgs,
}

/// The one object of `meden kv calibrate --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    press: &'static str,
    file: &'a PathBuf,
    sequences: usize,
    tokens: usize,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    r_squared: &'a [f64],
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let opened = load::open(&args.model, global.quiet)?;
    let (codec, note) = codec(&opened)?;
    let text = prompt::read_text(&args.text)?;
    let ids = codec.encode_document(&text)?;
    // kvzap reads every sequence again behind itself
    let most = if args.press == Recipe::Kvzap { opened.config.context / 2 } else { opened.config.context };
    let sequence = args.sequence.unwrap_or(args.press.sequence().min(most));
    if !(LEAST..=most).contains(&sequence) {
        return Err(usage(format!("--sequence: {sequence} tokens; this model and press take {LEAST} to {most}")));
    }
    let taken = &ids[..ids.len().min(args.tokens)];
    let sequences: Vec<Vec<u32>> = taken.chunks(sequence).filter(|s| s.len() >= LEAST).map(<[u32]>::to_vec).collect();
    if sequences.is_empty() {
        return Err(usage(format!("--text: {} tokens are too few, {LEAST} are needed at least", taken.len())));
    }
    let loaded = opened.load(&SessionOptions::default(), sequence)?;
    let made = {
        let mut bar = Bar::new(global.quiet);
        let mut show = |done: usize, total: usize| bar.tokens("calibrating", done, total);
        let mut control = Control { progress: Some(&mut show), cancel: Some(signals::flag()), ..Control::default() };
        calibrate(&loaded.model, args.press, &sequences, &mut control)?
    };
    let mut hash = Hash::sha256();
    hash.update(text.as_bytes());
    made.write(&args.out, &hash.hex())?;
    let press = args.press.press();
    if global.json {
        let (file, r_squared) = (&args.out, made.fit.as_slice());
        let sequences = sequences.len();
        output::object(&Report { model: opened.name(), press, file, sequences, tokens: made.tokens, r_squared })?;
        return Ok(Exit::Ok);
    }
    if !global.quiet {
        note.iter().for_each(|n| say(&format!("note: {n}")));
        say(&format!(
            "{}: {press} of {} tokens in {} sequences",
            args.out.display(),
            human::count(made.tokens as u64),
            sequences.len()
        ));
        if !made.fit.is_empty() {
            let mean = made.fit.iter().sum::<f64>() / made.fit.len() as f64;
            say(&format!("R² on the same text, mean over layers: {mean:.2}"));
        }
    }
    Ok(Exit::Ok)
}
