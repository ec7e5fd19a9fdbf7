//! `meden kv sweep`: every press at every share on tasks that show what a cache has lost.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use meden_engine::{KvTypes, SessionOptions};
use meden_eval::EvalError;
use meden_eval::kv_lab::record::Record;
use meden_eval::kv_lab::store::Store;
use meden_eval::kv_lab::summary;
use meden_eval::kv_lab::sweep::{self, Companions, Done, Spec, Subject};
use meden_eval::task::{Question, Source, TaskKind};
use meden_report::json;
use serde::Serialize;

use super::lab::{PressList, SpareArgs, TextArgs, codec};
use super::sweep_view::{self, About};
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::{Exit, failure, usage};
use crate::progress::{Bar, say};
use crate::summary::Memory;
use crate::{load, output, repeat, signals};

/// Measure what presses lose. Each item is read once with a dense cache; every press, share and cache type starts from
/// that, and is compared with it on the same tokens.
///
/// Results are appended to OUT/results.jsonl as they come. Stop with Ctrl-C and run the same command again: what is
/// there is not measured twice. OUT/report.html shows all of it.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden kv sweep
  meden kv sweep --tasks passkey,key_value --lengths 512,2048 --press knorm,random,streaming_llm \\
      --ratios 0.25,0.5,0.75,0.9 --items 20 --seeds 1,2,3 --out results
  meden kv sweep --tasks continuation --text book.txt --kv f16,q8 --sinks 0 --recents 0 --markdown

Tasks: continuation, passkey, needle_number, needle_uuid, key_value, copy, labels, questions, capped, decode.")]
pub struct Args {
    /// Tasks
    #[arg(long, value_delimiter = ',', default_value = "continuation,passkey", value_name = "TASK,..")]
    tasks: Vec<TaskKind>,
    /// Tokens of the text that is compressed
    #[arg(long, value_delimiter = ',', default_value = "512", value_name = "N,..")]
    lengths: Vec<usize>,
    /// Presses, as in knorm,streaming_llm; with parameters as in snapkv(window_size=32). The dense cache is always measured
    #[arg(long, default_value = "knorm,random,streaming_llm", value_name = "PRESS,..")]
    press: PressList,
    /// Shares removed
    #[arg(long, value_delimiter = ',', default_value = "0.25,0.5,0.75", value_name = "R,..")]
    ratios: Vec<f64>,
    /// Element types of cached keys and values; distances are to the dense cache of the first
    #[arg(long, value_delimiter = ',', default_value = "f16", value_name = "f32|f16|q8,..")]
    kv: Vec<KvTypes>,
    /// Whether presses see the question: unseen, seen, or both
    #[arg(long, value_delimiter = ',', default_value = "unseen", value_name = "unseen|seen,..")]
    question: Vec<Question>,
    /// Seeds of the data
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "SEED,..")]
    seeds: Vec<u64>,
    /// Items of each task, length and seed
    #[arg(long, default_value_t = 8, value_name = "N")]
    items: usize,
    /// No chat template: prompts are plain text
    #[arg(long)]
    raw: bool,
    /// Folder of results and report
    #[arg(long, default_value = "kv-sweep", value_name = "FOLDER")]
    out: PathBuf,
    /// Print a table in Markdown
    #[arg(long)]
    markdown: bool,
    /// Most tokens read in one go
    #[arg(long, default_value_t = 512, value_name = "N")]
    prefill_chunk: usize,
    #[command(flatten)]
    spare: SpareArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// The one object of `meden kv sweep --json`.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    about: &'a About,
    done: Done,
    results: &'a Path,
    report: &'a Path,
    lines: &'a [summary::Line],
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.markdown && global.json {
        return Err(usage("--markdown: --json prints its own object; leave one of the two out"));
    }
    if args.spare.schedule.is_some() {
        return Err(usage(
            "--schedule: a sweep compresses once, after the text (tasks capped and decode: on the way); leave it out",
        ));
    }
    let mut spec = spec(&args);
    spec.check()?;
    let opened = load::open(&args.model, global.quiet)?;
    repeat::instruct(&mut spec.presses, opened.tokenizer.as_ref(), global.quiet)?;
    let (codec, note) = codec(&opened)?;
    let texts = args.text.read(&codec)?;
    let longest = args.lengths.iter().max().copied().unwrap_or(0);
    opened.check_context("--lengths", longest)?;
    let options = SessionOptions { kv_type: spec.kv[0], ..SessionOptions::default() };
    let template = !args.raw && codec.has_template();
    if !global.quiet {
        note.iter().chain(&spec.left_out()).for_each(|n| say(&format!("note: {n}")));
    }

    let (mut file, mut store) = open_results(&args.out, global.quiet)?;
    let loaded = opened.load(&options, 2 * longest)?;
    let source = Source { texts: &texts, codec: &codec, template };
    let subject = Subject { model: &loaded.model, source };
    let mut bar = Bar::new(global.quiet);
    let start = Instant::now();
    let clock = || start.elapsed();
    let result = {
        let mut show = |done: usize, total: usize| bar.steps("measuring", done, total);
        let mut emit = |record: &Record| json::write_line(&mut file, record).map_err(EvalError::from);
        let mut companions =
            Companions { progress: &mut show, cancel: signals::flag(), clock: Some(&clock), emit: &mut emit };
        sweep::run(&spec, &subject, &mut store, &mut companions)
    };
    bar.clear();
    let done = match result {
        Ok(done) => done,
        Err(_) if signals::interrupted() => {
            let path = args.out.join(RESULTS);
            return Err(failure(
                Exit::Interrupted,
                format!(
                    "stopped; {} results are in {}; the same command goes on",
                    store.records().len(),
                    path.display()
                ),
            ));
        }
        Err(error) => return Err(error.into()),
    };

    let lines = summary::lines(&sweep::chosen(&spec, &subject, &store));
    let about = About {
        model: opened.name(),
        text: texts.name().to_owned(),
        template,
        spec,
        memory: Memory::now(loaded.model.weight_bytes()),
        note,
    };
    let page = args.out.join("report.html");
    std::fs::write(&page, sweep_view::page(&about, &lines))
        .map_err(|e| failure(Exit::Other, format!("{}: cannot write the report: {e}", page.display())))?;
    if global.json {
        let results = args.out.join(RESULTS);
        output::object(&Report { about: &about, done, results: &results, report: &page, lines: &lines })?;
    } else if args.markdown {
        output::text(&sweep_view::markdown(&about, &lines))?;
    } else {
        output::text(&sweep_view::text(&about, &lines))?;
    }
    if !global.quiet {
        let again = if done.skipped > 0 { format!(", {} were there already", done.skipped) } else { String::new() };
        say(&format!("measured {}{again}; report: {}", done.measured, page.display()));
    }
    Ok(Exit::Ok)
}

const RESULTS: &str = "results.jsonl";

fn spec(args: &Args) -> Spec {
    Spec {
        tasks: args.tasks.clone(),
        lengths: args.lengths.clone(),
        presses: args.press.0.clone(),
        ratios: args.ratios.clone(),
        kv: args.kv.clone(),
        questions: args.question.clone(),
        seeds: args.seeds.clone(),
        items: args.items,
        template: !args.raw,
        spare: args.spare.spare(),
        prefill_chunk: args.prefill_chunk,
    }
}

/// The results file, ready to be appended to, and what it holds already.
fn open_results(folder: &Path, quiet: bool) -> anyhow::Result<(File, Store)> {
    let path = folder.join(RESULTS);
    let fail = |what: &str, e: std::io::Error| failure(Exit::BadFile, format!("{}: {what}: {e}", path.display()));
    std::fs::create_dir_all(folder).map_err(|e| fail("cannot make its folder", e))?;
    let text = match std::fs::read(&path) {
        // a line cut inside a character is no UTF-8; it is dropped with the rest of its line
        Ok(bytes) => String::from_utf8_lossy(&bytes[..whole_text(&bytes)]).into_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(fail("cannot read it", e)),
    };
    let opened = Store::read(&text).with_context(|| path.display().to_string())?;
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|e| fail("cannot write it", e))?;
    if let Some(note) = opened.note {
        file.set_len(opened.whole as u64).map_err(|e| fail("cannot cut its last line off", e))?;
        if !quiet {
            say(&format!("note: {}: {note}", path.display()));
        }
    }
    Ok((file, opened.store))
}

/// Length of the longest beginning that is UTF-8 up to its last, perhaps broken, character.
fn whole_text(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => bytes.len(),
    }
}
