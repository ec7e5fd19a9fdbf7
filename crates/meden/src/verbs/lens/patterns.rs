//! `meden lens patterns`: what heads read.

use std::path::PathBuf;

use meden_lens::patterns::{Attention, HeadKind};
use meden_lens::place::Layers;
use meden_report::{Table, human};
use serde::Serialize;

use super::input::{LookArgs, PromptArgs, watched, write_page};
use super::patterns_page;
use super::words::Words;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::output;
use crate::progress::say;

/// Most numbers of patterns that a page or an object holds.
const MOST: usize = 12_000_000;

/// Show which tokens the heads read: for each head its entropy and the shares of its attention on the first token, on the
/// token itself, on the one before, on earlier copies of the token (duplicate) and on what followed them (induction).
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden lens patterns --prompt \"When Mary and John went to the shop, John gave a drink to\" --html heads.html
  meden lens patterns --prompt \"a b c d a b c\" --sort induction
  meden lens patterns -f story.txt --layers 12 --span 10-19 --json")]
pub struct Args {
    /// Layers: all, last, or as in 0-3,7,-1
    #[arg(long, default_value = "all", value_name = "LAYERS", allow_hyphen_values = true)]
    layers: String,
    /// A run of positions whose share is shown too, as in 10-19
    #[arg(long, value_name = "FROM-TO", value_parser = span)]
    span: Option<(usize, usize)>,
    /// By what the table is sorted, largest first [default: layers and heads in their order]
    #[arg(long, value_name = "entropy|first|this|previous|duplicate|induction|distance|span")]
    sort: Option<String>,
    /// Rows of the table; 0 for all
    #[arg(long, default_value_t = 40, value_name = "N")]
    rows: usize,
    /// With --json: the patterns themselves, row by row
    #[arg(long)]
    full: bool,
    /// Write a page with the maps of all heads
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    look: LookArgs,
}

fn span(text: &str) -> Result<(usize, usize), String> {
    let wrong = || "write two positions, as in 10-19".to_owned();
    let (from, to) = text.split_once('-').ok_or_else(wrong)?;
    let (from, to) = (from.trim().parse().map_err(|_| wrong())?, to.trim().parse().map_err(|_| wrong())?);
    if from > to { Err(wrong()) } else { Ok((from, to)) }
}

#[derive(Serialize)]
struct Head {
    #[serde(flatten)]
    kind: HeadKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<Vec<f32>>,
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    prompt: &'a [u32],
    tokens: Vec<String>,
    heads: Vec<Head>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<&'a PathBuf>,
}

/// A measure of a head, by its name.
fn measure(kind: &HeadKind, name: &str) -> Option<f64> {
    Some(match name {
        "entropy" => kind.entropy,
        "first" => kind.first,
        "this" => kind.this,
        "previous" => kind.previous,
        "duplicate" => kind.duplicate,
        "induction" => kind.induction,
        "distance" => kind.distance,
        "span" => kind.span,
        _ => return None,
    })
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.full && !global.json {
        return Err(usage("--full: patterns are printed with --json only; add it"));
    }
    let opened = args.look.open(global.quiet)?;
    let words = Words::new(&opened);
    let ids = args.prompt.read(&opened)?;
    let layers = args.layers.parse::<Layers>()?.resolve(opened.config.layers)?;
    if let Some((_, to)) = args.span.filter(|&(_, to)| to >= ids.len()) {
        return Err(usage(format!("--span: position {to} of a prompt of {} tokens", ids.len())));
    }
    let numbers = layers.len() * opened.config.q_heads * ids.len() * ids.len();
    if numbers > MOST && (args.full || args.html.is_some()) {
        return Err(usage(format!(
            "{} numbers of patterns are too many for one page or object ({}); choose --layers",
            human::count(numbers as u64),
            human::count(MOST as u64)
        )));
    }
    let (_, session) = args.look.load(&opened, ids.len())?;
    let attention = watched("reading", global.quiet, |control| Attention::read(&session, &ids, &layers, control))?;
    let mut heads = Vec::new();
    for &layer in &layers {
        for head in 0..attention.heads() {
            heads.extend(attention.kind(layer, head, args.span));
        }
    }
    if let Some(path) = &args.html {
        write_page(path, &patterns_page::page(&opened.name(), &ids, words, &attention, &heads)?)?;
    }
    if let Some(name) = &args.sort {
        if heads.first().is_some_and(|k| measure(k, name).is_none()) {
            return Err(usage(format!("--sort {name}: one of the table's columns, as in induction")));
        }
        let key = |k: &HeadKind| measure(k, name).filter(|v| !v.is_nan()).unwrap_or(f64::NEG_INFINITY);
        heads.sort_by(|a, b| key(b).total_cmp(&key(a)));
    }
    if global.json {
        let head = |kind: HeadKind| Head {
            kind,
            pattern: if args.full { attention.pattern(kind.layer, kind.head) } else { None },
        };
        output::object(&Report {
            model: opened.name(),
            prompt: &ids,
            tokens: ids.iter().map(|&id| words.raw(id)).collect(),
            heads: heads.into_iter().map(head).collect(),
            page: args.html.as_ref(),
        })?;
        return Ok(Exit::Ok);
    }
    output::text(&table(&heads, args.rows, args.span.is_some()).to_string())?;
    if !global.quiet {
        if args.rows > 0 && heads.len() > args.rows {
            say(&format!("{} of {} heads; --rows 0 shows all, --sort the largest first", args.rows, heads.len()));
        }
        args.html.iter().for_each(|path| say(&format!("page: {}", path.display())));
    }
    Ok(Exit::Ok)
}

fn table(heads: &[HeadKind], rows: usize, span: bool) -> Table {
    let mut header =
        vec!["layer", "head", "entropy", "first", "this", "previous", "duplicate", "induction", "distance"];
    header.extend(span.then_some("span"));
    let mut table = Table::new(header.clone()).align(0, meden_report::Align::Right);
    let share = |v: f64| if v.is_nan() { "-".to_owned() } else { human::percent(v) };
    for kind in heads.iter().take(if rows == 0 { usize::MAX } else { rows }) {
        let mut cells = vec![kind.layer.to_string(), kind.head.to_string(), format!("{:.2}", kind.entropy)];
        cells.extend([kind.first, kind.this, kind.previous, kind.duplicate, kind.induction].map(share));
        cells.push(format!("{:.1}", kind.distance));
        if span {
            cells.push(share(kind.span));
        }
        table.row(cells);
    }
    table
}
