//! `meden kv alr`: how well presses agree with the attention that comes next.

use std::path::{Path, PathBuf};

use anyhow::Context;
use meden_engine::{Control, KvTypes, SessionOptions};
use meden_eval::kv_lab::alr::{self, Map};
use meden_eval::kv_lab::label;
use meden_report::html::Page;
use meden_report::svg::HeatMap;
use meden_report::{Align, Table, human};
use serde::Serialize;

use super::lab::{PressList, TextArgs, codec};
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::{Bar, say};
use crate::summary::{Memory, bytes_or_dash};
use crate::{load, output, repeat, signals};

/// The attention-loss map of arXiv 2406.11430 for any press: by layer and head, how much more attention of the next
/// token is lost when tokens are dropped in the press's order than in the best one. 0 is a press that knows the
/// future; divided by the number of tokens it is an area between two curves, in [0, 1].
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden kv alr
  meden kv alr --press knorm,knorm_high,random,streaming_llm --tokens 2048 --html alr.html")]
pub struct Args {
    /// Presses, as in knorm,random; with parameters as in snapkv(window_size=32)
    #[arg(long, default_value = "knorm,random,knorm_high", value_name = "PRESS,..")]
    press: PressList,
    /// Tokens of the text that are read; the query is that of the token after them
    #[arg(long, default_value_t = 1024, value_name = "N")]
    tokens: usize,
    /// Write a page with the heat maps here
    #[arg(long, default_value = "kv-alr.html", value_name = "FILE")]
    html: PathBuf,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// The one object of `meden kv alr --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    maps: &'a [Map],
    memory: Memory,
    page: &'a Path,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let opened = load::open(&args.model, global.quiet)?;
    let mut presses = args.press.0;
    repeat::instruct(&mut presses, opened.tokenizer.as_ref(), global.quiet)?;
    let (codec, note) = codec(&opened)?;
    let mut ids = codec.encode_document(&args.text.raw()?)?;
    if ids.len() <= args.tokens {
        return Err(usage(format!(
            "--tokens: the text has {} tokens, and one more than --tokens {} is needed; give a longer --text or fewer tokens",
            ids.len(),
            args.tokens
        )));
    }
    ids.truncate(args.tokens + 1);
    opened.check_context("--tokens", ids.len())?;
    let options = SessionOptions { kv_type: KvTypes::F32, ..SessionOptions::default() };
    let loaded = opened.load(&options, ids.len())?;
    let maps = {
        let mut bar = Bar::new(global.quiet);
        let mut show = |done: usize, total: usize| bar.tokens("reading", done, total);
        let mut control = Control { progress: Some(&mut show), cancel: Some(signals::flag()), ..Control::default() };
        alr::maps(&loaded.model, &ids, &presses, &mut control)?
    };
    std::fs::write(&args.html, page(&opened.name(), &maps))
        .with_context(|| format!("{}: cannot write the page", args.html.display()))?;
    let memory = Memory::now(loaded.model.weight_bytes());
    if global.json {
        output::object(&Report { model: opened.name(), maps: &maps, memory, page: &args.html })?;
    } else {
        output::text(&table(&maps).to_string())?;
    }
    if !global.quiet {
        note.iter().for_each(|n| say(&format!("note: {n}")));
        say(&format!(
            "nothing is evicted here, and no press sees the token whose attention is judged; process memory {} now, {} at most",
            bytes_or_dash(memory.resident_bytes),
            bytes_or_dash(memory.peak_bytes)
        ));
        say(&format!("page: {}", args.html.display()));
    }
    Ok(Exit::Ok)
}

fn table(maps: &[Map]) -> Table {
    let mut table = Table::new(["press", "tokens", "ALR, mean of heads", "area, mean", "worst layers", "best layers"])
        .align(4, Align::Left)
        .align(5, Align::Left);
    for map in maps {
        let mut layers: Vec<(usize, f64)> =
            map.layer_area.iter().enumerate().filter_map(|(layer, area)| Some((layer, (*area)?))).collect();
        layers.sort_by(|a, b| b.1.total_cmp(&a.1));
        let some = |list: &[(usize, f64)]| {
            list.iter().map(|(layer, area)| format!("{layer} ({area:.3})")).collect::<Vec<_>>().join(", ")
        };
        let best: Vec<(usize, f64)> = layers.iter().rev().take(3).copied().collect();
        table.row([
            label(&map.press),
            human::count(map.tokens as u64),
            human::three_digits(map.mean_area * map.tokens as f64),
            format!("{:.4}", map.mean_area),
            some(&layers[..layers.len().min(3)]),
            some(&best),
        ]);
    }
    table
}

fn page(model: &str, maps: &[Map]) -> String {
    let tokens = maps.first().map_or(0, |m| m.tokens);
    let mut page = Page::new(
        &format!("Attention lost by presses: {model}"),
        &format!(
            "{} cached tokens, the query of the token after them; what it pays itself is left out",
            human::count(tokens as u64)
        ),
    );
    page.paragraph(
        "Tokens are dropped one by one in the press's order and, for comparison, in the order of the attention they \
         get. The attention lost more than in the second order, summed over all numbers of dropped tokens, is the \
         head's ALR; divided by the tokens it is an area in [0, 1]. Pale is good: the press agrees with the attention. \
         All maps have one scale. Grey: layers with a sliding window.",
    );
    let most = maps.iter().flat_map(|m| m.area.iter().flatten().flatten()).copied().fold(0.0, f64::max);
    let charts: Vec<String> = maps
        .iter()
        .map(|map| {
            HeatMap {
                title: label(&map.press),
                subtitle: format!(
                    "area, mean {:.4}; ALR, mean {}",
                    map.mean_area,
                    human::three_digits(map.mean_area * map.tokens as f64)
                ),
                x_name: "query head".to_owned(),
                y_name: "layer".to_owned(),
                range: Some((0.0, most)),
                rows: map.area.iter().map(|row| row.iter().map(|v| v.unwrap_or(f64::NAN)).collect()).collect(),
                ..HeatMap::default()
            }
            .svg()
        })
        .collect();
    page.figures(&charts);
    page.finish()
}
