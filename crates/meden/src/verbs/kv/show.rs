//! `meden kv show`: which tokens of a text stay in the cache.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Context;
use meden_engine::{Budget, Control, Policy, Session, SessionOptions};
use meden_eval::kv_lab::kept::Kept;
use meden_report::{Table, human};
use serde::Serialize;

use super::lab::{TextArgs, codec};
use super::show_page;
use crate::args::{CacheArgs, ModelArgs};
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::{Bar, say};
use crate::summary::{Memory, cache_lines};
use crate::{load, output, repeat, signals};

/// Read a text with a press and show which of its tokens the heads have kept: as coloured text on a terminal, and as
/// one page with a map of every layer and head.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden kv show --kv-budget 25%
  meden kv show --text letter.txt --press streaming_llm --kv-budget 256 --sinks 4 --recents 64 --html kept.html")]
pub struct Args {
    /// Show only the first N tokens of the text
    #[arg(long, default_value_t = 1024, value_name = "N")]
    tokens: usize,
    /// Write the page here
    #[arg(long, default_value = "kv-show.html", value_name = "FILE")]
    html: PathBuf,
    /// Colours in the text: auto (on a terminal), always, never
    #[arg(long, default_value = "auto", value_name = "auto|always|never")]
    color: Color,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

/// When text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

/// The one object of `meden kv show --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    policy: &'a Policy,
    tokens: &'a [String],
    kept: &'a Kept,
    cache: meden_engine::CacheStats,
    memory: Memory,
    page: &'a Path,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.tokens == 0 {
        return Err(usage("--tokens: 0 tokens show nothing; give at least 1"));
    }
    let mut options = args.cache.session_options()?;
    let mut policy = match options.policy.take() {
        Some(policy) => policy,
        None => Policy::new("knorm".parse()?, Budget::Ratio(0.25)),
    };
    let opened = load::open(&args.model, global.quiet)?;
    repeat::instruct([&mut policy.press], opened.tokenizer.as_ref(), global.quiet)?;
    options.policy = Some(policy.clone());
    let (codec, note) = codec(&opened)?;
    let mut ids = codec.encode_document(&args.text.raw()?)?;
    ids.truncate(args.tokens);
    opened.check_context("--tokens", ids.len())?;
    let loaded = opened.load(&options, ids.len())?;
    let session = read(&loaded.model, options, &ids, global.quiet)?;

    let kept = Kept::of(&session);
    let tokens: Vec<String> = ids
        .iter()
        .map(|&id| opened.tokenizer.as_ref().map_or_else(|| codec.decode(&[id]), |t| t.token_text(id)))
        .collect();
    let (cache, memory) = (session.stats(), Memory::now(loaded.model.weight_bytes()));
    let page = show_page::page(&opened.name(), &policy, &tokens, &kept, &cache_lines(&cache, &memory))?;
    std::fs::write(&args.html, page).with_context(|| format!("{}: cannot write the page", args.html.display()))?;
    if global.json {
        output::object(&Report {
            model: opened.name(),
            policy: &policy,
            tokens: &tokens,
            kept: &kept,
            cache,
            memory,
            page: &args.html,
        })?;
        return Ok(Exit::Ok);
    }
    let colour = match args.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => std::io::stdout().is_terminal(),
    };
    if colour {
        output::text(&format!("{}\n{}\n\n", coloured(&tokens, &kept.share), legend()))?;
    }
    output::text(&table(&kept).to_string())?;
    if !global.quiet {
        note.iter().for_each(|n| say(&format!("note: {n}")));
        cache_lines(&cache, &memory).iter().for_each(|line| say(line));
        say(&format!("page: {}", args.html.display()));
    }
    Ok(Exit::Ok)
}

fn read(
    model: &std::sync::Arc<meden_engine::Model>,
    options: SessionOptions,
    ids: &[u32],
    quiet: bool,
) -> anyhow::Result<Session> {
    let mut session = Session::new(model.clone(), options)?;
    let mut bar = Bar::new(quiet);
    let mut show = |done: usize, total: usize| bar.tokens("reading", done, total);
    let mut control = Control { progress: Some(&mut show), cancel: Some(signals::flag()), ..Control::default() };
    session.forward(ids, meden_engine::LogitRows::None, &mut control)?;
    Ok(session)
}

/// Five shades of blue behind the text, from kept by no head to kept by all.
const SHADES: [u8; 5] = [255, 195, 153, 75, 33];

fn shade(share: f64) -> usize {
    match share {
        s if s <= 0.0 => 0,
        s if s >= 1.0 - 1e-9 => 4,
        s if s < 1.0 / 3.0 => 1,
        s if s < 2.0 / 3.0 => 2,
        _ => 3,
    }
}

/// The text with the share of heads that keep each token as its background.
fn coloured(tokens: &[String], share: &[f64]) -> String {
    let mut out = String::new();
    for (token, &share) in tokens.iter().zip(share) {
        let shown: String = token.chars().map(|c| if c.is_control() && c != '\n' { '·' } else { c }).collect();
        // a line break inside a colour would paint the rest of the line
        for (number, part) in shown.split('\n').enumerate() {
            if number > 0 {
                out.push('\n');
            }
            if !part.is_empty() {
                out += &format!("\u{1b}[38;5;16;48;5;{}m{part}\u{1b}[0m", SHADES[shade(share)]);
            }
        }
    }
    out
}

fn legend() -> String {
    let names = [" no head ", " under 1/3 ", " under 2/3 ", " most ", " all heads "];
    let parts = names.iter().zip(SHADES).map(|(name, s)| format!("\u{1b}[38;5;16;48;5;{s}m{name}\u{1b}[0m"));
    format!("kept by {}", parts.collect::<Vec<_>>().join(" "))
}

fn table(kept: &Kept) -> Table {
    let mut table = Table::new(["layer", "kept a head", "share", "first token kept by all its heads", ""])
        .align(4, meden_report::Align::Left);
    for (layer, heads) in kept.positions.iter().enumerate() {
        let slots: usize = heads.iter().map(Vec::len).sum();
        let mean = slots as f64 / heads.len().max(1) as f64;
        let common =
            heads.first().and_then(|first| first.iter().find(|p| heads.iter().all(|h| h.binary_search(p).is_ok())));
        let what = match (kept.sliding[layer], kept.skipped[layer]) {
            (true, _) => "slides, never pressed",
            (_, true) => "left alone by the press",
            _ => "",
        };
        table.row([
            layer.to_string(),
            heads.iter().map(|h| human::count(h.len() as u64)).collect::<Vec<_>>().join(" "),
            human::percent(mean / kept.tokens.max(1) as f64),
            common.map_or_else(|| "-".to_owned(), u32::to_string),
            what.to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_stay_outside_the_colours_and_control_characters_do_nothing() {
        let tokens = ["a\n".to_owned(), "\u{1b}[31mb".to_owned()];
        let text = coloured(&tokens, &[0.0, 1.0]);
        assert_eq!(text, "\u{1b}[38;5;16;48;5;255ma\u{1b}[0m\n\u{1b}[38;5;16;48;5;33m·[31mb\u{1b}[0m");
    }

    #[test]
    fn shares_have_five_shades() {
        let shades: Vec<usize> = [0.0, 0.1, 0.5, 0.9, 1.0].into_iter().map(shade).collect();
        assert_eq!(shades, [0, 1, 2, 3, 4]);
    }
}
