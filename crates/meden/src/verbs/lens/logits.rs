//! `meden lens logits`: the logit lens, or a tuned one.

use std::path::PathBuf;

use meden_lens::capture::Selection;
use meden_lens::logit_lens::{LensOptions, LensTable, LogitLens, Reading};
use meden_lens::place::names;
use meden_lens::tuned::TunedLens;
use meden_report::{Align, Table, human};
use serde::Serialize;

use super::input::{LookArgs, PromptArgs, watched, write_page};
use super::logits_page;
use super::words::Words;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::output;
use crate::progress::say;

/// Show what the model would say if it stopped at each layer: the residual stream there goes through the final norm and
/// the output matrix. Streams (resid_pre, resid_mid, resid_post) are normed as they are; what a sublayer adds (attn_out,
/// mlp_out) is scaled as the last stream is.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden lens logits --prompt \"The Eiffel Tower stands in the city of\" --html lens.html
  meden lens logits --prompt \"The capital of France is\" --tokens \" Paris, Rome\" --positions last
  meden lens logits --prompt \"Once upon a\" --lens tuned.safetensors")]
pub struct Args {
    /// Sites: resid_post, resid_pre, resid_mid, attn_out, mlp_out, final_norm, with commas
    #[arg(long, default_value = "resid_post", value_name = "SITES")]
    sites: String,
    /// Layers: all, last, or as in 0-3,7,-1
    #[arg(long, default_value = "all", value_name = "LAYERS", allow_hyphen_values = true)]
    layers: String,
    /// Positions: all, last, or as in 0,4-9,-1 [default: all with --html, else last]
    #[arg(long, value_name = "POSITIONS", allow_hyphen_values = true)]
    positions: Option<String>,
    /// How many of the likeliest tokens
    #[arg(long, default_value_t = 5, value_name = "K")]
    top_k: usize,
    /// Tokens whose rank and probability are shown: texts with commas, blanks count, or #id
    #[arg(long, value_name = "TOKENS")]
    tokens: Option<String>,
    /// A tuned lens to look through
    #[arg(long, value_name = "FILE")]
    lens: Option<PathBuf>,
    /// Write a page with the map of tokens by layers
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    look: LookArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    lens: &'static str,
    prompt: &'a [u32],
    tokens: Vec<String>,
    places: Vec<meden_lens::place::Names>,
    #[serde(flatten)]
    table: &'a LensTable,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<&'a PathBuf>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.top_k == 0 {
        return Err(usage("--top-k: 0 tokens show nothing; give at least 1"));
    }
    let opened = args.look.open(global.quiet)?;
    let words = Words::new(&opened);
    let ids = args.prompt.read(&opened)?;
    let positions = args.positions.as_deref().unwrap_or(if args.html.is_some() { "all" } else { "last" });
    let selection = Selection::parse(&opened.config, &args.sites, &args.layers, positions)?;
    let mut notes = Vec::new();
    let mut asked = Vec::new();
    for text in args.tokens.iter().flat_map(|t| t.split(',')) {
        let (id, note) = words.token("--tokens", text)?;
        asked.push(id);
        notes.extend(note);
    }
    let (loaded, session) = args.look.load(&opened, ids.len())?;
    let tuned = args.lens.as_deref().map(|path| TunedLens::load(path, &loaded.model)).transpose()?;
    let lens = match &tuned {
        Some(tuned) => {
            notes.extend(tuned.note(&loaded.model));
            LogitLens::tuned(&loaded.model, tuned)?
        }
        None => LogitLens::new(&loaded.model),
    };
    let options = LensOptions { top_k: args.top_k, tokens: asked };
    let table = watched("looking", global.quiet, |control| lens.read(&session, &ids, &selection, &options, control))?;
    let name = if tuned.is_some() { "tuned lens" } else { "logit lens" };
    if let Some(path) = &args.html {
        let view = logits_page::View { model: &opened.name(), lens: name, ids: &ids, words, table: &table };
        write_page(path, &view.page()?)?;
    }
    if global.json {
        output::object(&Report {
            model: opened.name(),
            lens: name,
            prompt: &ids,
            tokens: ids.iter().map(|&id| words.raw(id)).collect(),
            places: table.places.iter().map(|&p| names(p, loaded.model.config())).collect(),
            table: &table,
            page: args.html.as_ref(),
        })?;
        return Ok(Exit::Ok);
    }
    output::text(&text(&table, words, &options))?;
    if !global.quiet {
        notes.iter().for_each(|note| say(&format!("note: {note}")));
        args.html.iter().for_each(|path| say(&format!("page: {}", path.display())));
    }
    Ok(Exit::Ok)
}

/// The last of the positions in a table; how many others there are.
fn text(table: &LensTable, words: Words<'_>, options: &LensOptions) -> String {
    let Some(row) = table.rows.len().checked_sub(1) else { return String::new() };
    let at = table.rows[row];
    let mut header = vec!["place".to_owned(), "likeliest".into(), "p".into(), "then".into()];
    header.extend(["entropy", "KL from final"].map(str::to_owned));
    for &id in &options.tokens {
        header.push(format!("{} rank", words.shown(id)));
        header.push("p".into());
    }
    let mut out = Table::new(header).align(1, Align::Left).align(3, Align::Left);
    let line = |name: String, reading: &Reading| {
        let best = &reading.top[0];
        let then: Vec<String> = reading.top[1..].iter().map(|t| words.shown(t.id)).collect();
        let mut cells = vec![name, words.shown(best.id), probability(best.logprob), then.join(" ")];
        cells.push(human::three_digits(reading.entropy));
        cells.push(human::three_digits(reading.from_final.kl));
        for token in &reading.tokens {
            cells.push(human::count(token.rank as u64));
            cells.push(probability(token.logprob));
        }
        cells
    };
    for (place, readings) in table.places.iter().zip(&table.readings) {
        out.row(line(place.to_string(), &readings[row]));
    }
    out.rule();
    out.row(line("model".into(), &table.last[row]));
    let mut lines = format!("position {}, behind `{}`\n\n{out}", at.position, words.shown(at.id));
    if let Some(layer) = table.decision_layer[row] {
        lines += &format!("\nfrom layer {layer} on, the likeliest token is that of the end\n");
    }
    if row > 0 {
        lines += &format!("{} positions were looked at: --json has all, --html shows them\n", table.rows.len());
    }
    lines
}

/// A probability in three digits, or its power of ten where that would be zero.
pub fn probability(logprob: f64) -> String {
    let p = logprob.exp();
    if p >= 5e-4 { format!("{p:.3}") } else { format!("1e{:.0}", logprob / std::f64::consts::LN_10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_probabilities_are_powers_of_ten() {
        assert_eq!(probability(0.0), "1.000");
        assert_eq!(probability(0.25f64.ln()), "0.250");
        assert_eq!(probability(1e-6f64.ln()), "1e-6");
    }
}
