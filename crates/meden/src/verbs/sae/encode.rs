//! `meden sae encode`: which latents a text activates.

use std::path::PathBuf;

use meden_engine::{Control, SessionOptions};
use meden_lens::capture::{Selection, capture, exact_session};
use meden_lens::sae::{Sae, load as load_sae};
use meden_report::{Align, Table};
use serde::Serialize;

use super::place::{self, SaeArgs};
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::Exit;
use crate::{load, output, prompt, signals};

/// Show the strongest latents of every token of a text.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden sae encode --sae sae-12 --prompt \"The capital of France is\" --top 5")]
pub struct Args {
    #[command(flatten)]
    sae: SaeArgs,
    /// The text
    #[arg(long, short, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with the text, - for standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Latents shown of a token; with --json all are there
    #[arg(long, default_value_t = 8, value_name = "N")]
    top: usize,
    #[command(flatten)]
    model: ModelArgs,
}

/// One token.
#[derive(Serialize)]
struct Token {
    id: u32,
    text: String,
    latents: Vec<u32>,
    values: Vec<f32>,
}

/// Runs the verb.
pub fn run(args: &Args, global: Global) -> anyhow::Result<Exit> {
    let parts = load_sae(&args.sae.sae)?;
    let opened = load::open(&args.model, global.quiet)?;
    let tokenizer = opened.tokenizer()?;
    let text = prompt::gather(args.prompt.as_deref(), args.file.as_deref())?;
    let ids = tokenizer.encode(&text, true)?;
    opened.check_context("the text", ids.len())?;
    let loaded = opened.load(&SessionOptions::default(), ids.len())?;
    let sae = Sae::new(parts, args.model.threads)?;
    let place = place::of(&sae, args.sae.site.as_deref(), &opened.config)?;
    let selection = Selection::new(vec![place], meden_lens::place::Positions::All);
    let mut control = Control { cancel: Some(signals::flag()), ..Control::default() };
    let captured = capture(&exact_session(&loaded.model)?, std::slice::from_ref(&ids), &selection, &mut control)?;
    let codes = sae.encode(captured.matrix(place).unwrap_or_default())?;
    let token = |(row, &id): (usize, &u32)| {
        let (latents, values) = codes.row(row);
        let mut order: Vec<usize> = (0..latents.len()).collect();
        order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
        Token {
            id,
            text: tokenizer.decode(&[id], false),
            latents: order.iter().map(|&i| latents[i]).collect(),
            values: order.iter().map(|&i| values[i]).collect(),
        }
    };
    let tokens: Vec<Token> = ids.iter().enumerate().map(token).collect();
    if global.json {
        output::object(&serde_json::json!({ "site": place.to_string(), "width": sae.width(), "tokens": tokens }))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["token", "active", "strongest latents"]).align(2, Align::Left);
    for token in &tokens {
        let shown = token.latents.iter().zip(&token.values).take(args.top);
        let shown: Vec<String> = shown.map(|(l, v)| format!("{l} ({v:.1})")).collect();
        table.row([format!("{:?}", token.text).as_str(), &token.latents.len().to_string(), &shown.join("  ")]);
    }
    output::text(&table.to_string())?;
    Ok(Exit::Ok)
}
