//! `meden kv tune`: press, share and layers to leave alone, chosen on the user's own text.

use std::time::Instant;

use meden_engine::{Budget, KvTypes, PressSpec, SessionOptions};
use meden_eval::kv_lab::label;
use meden_eval::kv_lab::store::Store;
use meden_eval::kv_lab::summary::{self, Line};
use meden_eval::kv_lab::sweep::{self, Companions, Spec, Subject};
use meden_eval::kv_lab::tune::{self, Goal};
use meden_eval::task::{Question, Source, TaskKind};
use meden_report::{Align, Table, human};
use serde::Serialize;

use super::lab::{PressList, SpareArgs, TextArgs, codec};
use crate::args::{Layers, ModelArgs, parse_layers};
use crate::cli::Global;
use crate::exit::{Exit, failure, usage};
use crate::progress::{Bar, say};
use crate::summary::{Memory, bytes_or_dash};
use crate::{load, output, repeat, signals};

/// Choose a press, the share it keeps and the layers it leaves alone on a text of your own: the smallest cache within
/// a distance of the dense one (--max-kl), or the nearest to it within so many bytes (--budget).
///
/// Passages of the text are read and compressed once, and the next 128 tokens are compared with the dense cache. With
/// --max-kl the upper end of the 95% interval counts.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden kv tune --text notes.txt --max-kl 0.05
  meden kv tune --text notes.txt --budget 16MiB --length 2048 --press knorm,streaming_llm")]
pub struct Args {
    /// Largest mean KL to the dense cache, in nats a token
    #[arg(long, value_name = "NATS", required_unless_present = "budget", conflicts_with = "budget")]
    max_kl: Option<f64>,
    /// Most bytes of the cache at --length, as in 16MiB
    #[arg(long, value_name = "BYTES")]
    budget: Option<Budget>,
    /// Tokens of the text that are compressed
    #[arg(long, default_value_t = 1024, value_name = "N")]
    length: usize,
    /// Passages
    #[arg(long, default_value_t = 6, value_name = "N")]
    items: usize,
    /// Seed of the choice of passages
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    seed: u64,
    /// Presses that are tried, as in knorm,streaming_llm; with parameters as in snapkv(window_size=32)
    #[arg(long, default_value = "knorm,keydiff,snapkv,expected_attention,streaming_llm", value_name = "PRESS,..")]
    press: PressList,
    /// Shares removed that are tried
    #[arg(long, value_delimiter = ',', default_value = "0.25,0.5,0.625,0.75,0.875", value_name = "R,..")]
    ratios: Vec<f64>,
    /// Layers to leave alone that are tried; give the flag again for more [default: the press's own choice, and none]
    #[arg(long = "try-skip-layers", value_name = "LAYERS", value_parser = parse_layers)]
    skip: Vec<Layers>,
    /// Element type of cached keys and values
    #[arg(long, default_value = "f16", value_name = "f32|f16|q8")]
    kv: KvTypes,
    #[command(flatten)]
    spare: SpareArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// A line that was tried.
#[derive(Clone, Serialize)]
struct Tried {
    skip_layers: Option<Vec<usize>>,
    #[serde(flatten)]
    line: Line,
}

/// The one object of `meden kv tune --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    text: &'a str,
    goal: Goal,
    chosen: Option<&'a Tried>,
    flags: Option<String>,
    tried: &'a [Tried],
    memory: Memory,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let goal = goal(&args)?;
    if args.spare.schedule.is_some() || args.spare.skip_layers.is_some() {
        return Err(usage(
            "--schedule, --skip-layers: the text is compressed once, and layers are tried with --try-skip-layers; leave them out",
        ));
    }
    let opened = load::open(&args.model, global.quiet)?;
    let mut presses = args.press.0.clone();
    repeat::instruct(&mut presses, opened.tokenizer.as_ref(), global.quiet)?;
    let (codec, note) = codec(&opened)?;
    let texts = args.text.read(&codec)?;
    let options = SessionOptions { kv_type: args.kv, ..SessionOptions::default() };
    let loaded = opened.load(&options, 2 * args.length)?;
    let source = Source { texts: &texts, codec: &codec, template: false };
    let subject = Subject { model: &loaded.model, source };
    let mut skips: Vec<Option<Vec<usize>>> = args.skip.iter().map(|l| Some(l.0.clone())).collect();
    if skips.is_empty() {
        skips = vec![None, Some(Vec::new())];
    }
    let mut tried: Vec<Tried> = Vec::new();
    let mut bar = Bar::new(global.quiet);
    for (number, skip_layers) in skips.iter().enumerate() {
        let mut spec = spec(&args, &presses);
        spec.spare.skip_layers.clone_from(skip_layers);
        let mut store = Store::default();
        let start = Instant::now();
        let clock = || start.elapsed();
        let (round, rounds) = (number, skips.len());
        let mut show = |done: usize, total: usize| bar.steps("trying", round * total + done, rounds * total);
        let mut companions =
            Companions { progress: &mut show, cancel: signals::flag(), clock: Some(&clock), emit: &mut |_| Ok(()) };
        sweep::run(&spec, &subject, &mut store, &mut companions)?;
        for line in summary::lines(&sweep::chosen(&spec, &subject, &store)) {
            let new = Tried { skip_layers: if line.press.is_some() { skip_layers.clone() } else { None }, line };
            // a press that skips nothing by itself gives the same twice, and the dense cache is always the same
            let same = |t: &Tried| {
                t.line.press == new.line.press
                    && t.line.ratio == new.line.ratio
                    && t.line.kl == new.line.kl
                    && t.line.kv_bytes == new.line.kv_bytes
            };
            if !tried.iter().any(same) {
                tried.push(new);
            }
        }
    }
    bar.clear();
    let lines: Vec<&Line> = tried.iter().map(|t| &t.line).collect();
    let chosen = tune::choose(&lines, goal).map(|number| &tried[number]);
    // as it was typed: the usual instruction of kvzip is added again by whoever reads the flags
    let typed = |press: &PressSpec| presses.iter().position(|p| p == press).map(|at| args.press.0[at].clone());
    let flags = chosen.map(|c| flags(c, c.line.press.as_ref().and_then(typed), &args));
    let memory = Memory::now(loaded.model.weight_bytes());
    if global.json {
        output::object(&Report {
            model: opened.name(),
            text: texts.name(),
            goal,
            chosen,
            flags: flags.clone(),
            tried: &tried,
            memory,
        })?;
    } else {
        output::text(&table(&tried, chosen).to_string())?;
    }
    if !global.quiet {
        note.iter().for_each(|n| say(&format!("note: {n}")));
        say(&format!(
            "{} passages of {}, {} tokens each, compressed once at their end; distance over the next 128 tokens, which no press saw",
            args.items,
            texts.name(),
            args.length
        ));
        for t in tried.iter().filter(|t| t.line.press.is_some() && t.line.idle > 0) {
            let press = t.line.press.as_ref().map(label).unwrap_or_default();
            let (idle, all) = (t.line.idle, t.line.items);
            say(&format!("note: {press} at {} removed evicted nothing in {idle} of {all} passages", t.line.ratio));
        }
        say(&format!(
            "process memory {} now, {} at most",
            bytes_or_dash(memory.resident_bytes),
            bytes_or_dash(memory.peak_bytes)
        ));
    }
    let Some((chosen, flags)) = chosen.zip(flags) else {
        return Err(failure(Exit::Memory, none_message(&lines, goal)));
    };
    if !global.json {
        let what = if chosen.line.press.is_none() {
            "no press: only the dense cache meets it".to_owned()
        } else {
            format!(
                "chosen: {flags}\n  KL {:.4} nats a token, {} of {} dense",
                chosen.line.kl.value,
                human::bytes(chosen.line.kv_bytes.round() as u64),
                human::bytes(chosen.line.dense_bytes.round() as u64)
            )
        };
        output::text(&format!("\n{what}\n"))?;
    }
    Ok(Exit::Ok)
}

fn goal(args: &Args) -> anyhow::Result<Goal> {
    match (args.max_kl, args.budget) {
        (Some(limit), _) if limit > 0.0 && limit.is_finite() => Ok(Goal::MaxKl(limit)),
        (Some(limit), _) => Err(usage(format!("--max-kl: {limit} is no distance; give nats above 0, as in 0.05"))),
        (None, Some(Budget::Bytes(bytes))) => Ok(Goal::MaxBytes(bytes)),
        (None, Some(other)) => Err(usage(format!("--budget: {other} is no number of bytes; write for example 16MiB"))),
        (None, None) => Err(usage("give --max-kl NATS or --budget BYTES")),
    }
}

fn spec(args: &Args, presses: &[PressSpec]) -> Spec {
    Spec {
        tasks: vec![TaskKind::Continuation],
        lengths: vec![args.length],
        presses: presses.to_vec(),
        ratios: args.ratios.clone(),
        kv: vec![args.kv],
        questions: vec![Question::Unseen],
        seeds: vec![args.seed],
        items: args.items,
        template: false,
        spare: args.spare.spare(),
        prefill_chunk: 512,
    }
}

fn budget(press: &PressSpec, ratio: f64) -> Budget {
    if press.build().is_ok_and(|p| p.own_budget()) { Budget::Press } else { Budget::Ratio(1.0 - ratio) }
}

/// The chosen settings as `meden run` takes them.
fn flags(chosen: &Tried, press: Option<PressSpec>, args: &Args) -> String {
    let Some(spec) = press else { return format!("--kv {}", args.kv) };
    let press = spec.to_string();
    let plain = press.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let press = if plain { press } else { format!("'{press}'") };
    let skip = chosen.skip_layers.as_ref().map_or_else(String::new, |layers| {
        let list: Vec<String> = layers.iter().map(usize::to_string).collect();
        format!(" --skip-layers {}", if list.is_empty() { "none".to_owned() } else { list.join(",") })
    });
    format!(
        "--press {press} --kv-budget {}{skip} --sinks {} --recents {} --schedule prefill_end --kv {}",
        budget(&spec, chosen.line.ratio),
        args.spare.sinks,
        args.spare.recents,
        args.kv
    )
}

fn none_message(lines: &[&Line], goal: Goal) -> String {
    match goal {
        Goal::MaxKl(limit) => format!("--max-kl {limit}: nothing that was tried comes so near; try smaller --ratios"),
        Goal::MaxBytes(most) => {
            let least = lines.iter().map(|l| l.kv_bytes).fold(f64::INFINITY, f64::min);
            format!(
                "--budget {}: the smallest cache that was tried takes {}; try larger --ratios, fewer --recents or --kv q8",
                human::bytes(most),
                human::bytes(least.round() as u64)
            )
        }
    }
}

fn table(tried: &[Tried], chosen: Option<&Tried>) -> Table {
    let mut table =
        Table::new(["press", "removed", "left alone", "KL, nats", "95% interval", "top-1", "kept", "KV cache", ""])
            .align(2, Align::Left)
            .align(8, Align::Left);
    for t in tried {
        let line = &t.line;
        let left = match &t.skip_layers {
            None if line.press.is_none() => "-".to_owned(),
            None => "its choice".to_owned(),
            Some(layers) if layers.is_empty() => "none".to_owned(),
            Some(layers) => layers.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
        };
        table.row([
            line.press.as_ref().map_or_else(|| "dense".to_owned(), label),
            human::percent(line.ratio),
            left,
            format!("{:.4}", line.kl.value),
            line.kl.interval.map_or_else(|| "-".to_owned(), |[low, high]| format!("{low:.4} to {high:.4}")),
            human::percent(line.top1.value),
            format!("{:.0} of {:.0}", line.kept_tokens, line.tokens),
            human::bytes(line.kv_bytes.round() as u64),
            if chosen.is_some_and(|c| std::ptr::eq(c, t)) { "<- chosen".to_owned() } else { String::new() },
        ]);
    }
    table
}
