//! `meden lens conflict`: the study of knowledge conflicts, from the facts to the report.

use std::path::{Path, PathBuf};

use meden_eval::EvalError;
use meden_eval::study::conflict::ask::Asker;
use meden_eval::study::conflict::companions::Companions;
use meden_eval::study::conflict::data::{self, Relation};
use meden_eval::study::conflict::results::Results;
use meden_eval::study::conflict::{self as study, Settings, Subject};
use meden_eval::task::Codec;
use meden_lens::probe::file::MadeOn;
use serde::Serialize;

use super::conflict_files;
use super::conflict_page;
use super::input::write_page;
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::{Exit, failure, usage};
use crate::progress::{Bar, say};
use crate::{load, output, prompt, signals};

/// Study what the model does when a text contradicts what it has learnt, and where inside that can be seen: which facts
/// it knows, which source it follows, a probe at every layer and site with its controls, how the stream is spread, the
/// two answers through the logit lens, the heads that write them, and what a push does.
///
/// Everything is written into OUT as it comes. Stop with Ctrl-C and run the same command again: what is there is not
/// done twice. OUT/report.html shows all of it; OUT has the probes that `meden run --conflict` asks.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden lens conflict --threads 1
  meden lens conflict --model gemma3-270m --out conflict-gemma
  meden lens conflict --data my-facts.txt,relations --per-answer 2 --seeds 0 --out mine

Data: `facts` and `relations` are built in; the format of a file of your own is in docs/conflict.md. The first data set is
studied whole, the others for the conflict signal alone. It takes one to three hours on two cores.")]
pub struct Args {
    /// Data sets: facts, relations, or files
    #[arg(long, value_delimiter = ',', default_value = "facts", value_name = "DATA,..")]
    data: Vec<String>,
    /// Folder of everything that is found
    #[arg(long, default_value = "conflict-study", value_name = "FOLDER")]
    out: PathBuf,
    /// Most facts of one answer, so that none outweighs the others
    #[arg(long, default_value_t = 4, value_name = "N")]
    per_answer: usize,
    /// Sets of demonstrations, which take turns
    #[arg(long, default_value_t = 3, value_name = "N")]
    sets: usize,
    /// Demonstrations of a set
    #[arg(long, default_value_t = 3, value_name = "N")]
    demonstrations: usize,
    /// Weight of the probes' L1 penalty
    #[arg(long, default_value_t = 3e-4, value_name = "LAMBDA")]
    lambda: f64,
    /// Seeds of the paper's own training, shown beside the exact one; 0 leaves it out
    #[arg(long, default_value_t = 20, value_name = "N")]
    seeds: u64,
    /// Prompts of each source whose heads are attributed; 0 leaves it out
    #[arg(long, default_value_t = 40, value_name = "N")]
    heads: usize,
    /// Prompts that are steered; 0 leaves it out
    #[arg(long, default_value_t = 120, value_name = "N")]
    steer: usize,
    /// Bootstrap draws and shuffles of each interval
    #[arg(long, default_value_t = 1000, value_name = "N")]
    draws: usize,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    seed: u64,
    #[command(flatten)]
    model: ModelArgs,
}

/// The one object of `meden lens conflict --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    out: &'a Path,
    report: &'a Path,
    studies: &'a [Results],
}

/// A data set by name.
struct Set {
    name: String,
    relations: Vec<Relation>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let sets = args.data.iter().map(|name| set(name)).collect::<anyhow::Result<Vec<Set>>>()?;
    for (i, one) in sets.iter().enumerate() {
        if sets[..i].iter().any(|other| other.name == one.name) {
            return Err(usage(format!("--data: {} is given twice", one.name)));
        }
    }
    let opened = load::open(&args.model, global.quiet)?;
    opened.tokenizer()?;
    // the longest prompts: demonstrations and a context of seven sentences
    let loaded = opened.load(&meden_engine::SessionOptions::default(), opened.config.context.min(2048))?;
    let codec = Codec::new(opened.tokenizer.as_ref(), opened.template.as_ref(), opened.config.vocab)?;
    let asker = Asker { model: &loaded.model, codec: &codec };
    let built_in = data::parse(data::FACTS)?;
    let made_on = MadeOn::of(&opened.name(), &loaded.model);
    let mut studies = Vec::new();
    for (number, one) in sets.iter().enumerate() {
        let mut settings = settings(&args, &one.name, &made_on);
        settings.source = number == 0;
        let own = one.relations.iter().any(|r| r.demo);
        let folder = args.out.join(&one.name);
        std::fs::create_dir_all(&args.out)
            .map_err(|e| failure(Exit::Other, format!("{}: cannot make the folder: {e}", args.out.display())))?;
        let subject = Subject {
            asker,
            relations: &one.relations,
            demonstrations: if own { &one.relations } else { &built_in },
            folder: &folder,
        };
        let results = watched(global.quiet, |companions| study::run(&subject, &settings, companions))?;
        conflict_files::write(&folder, &results)?;
        studies.push(results);
    }
    let report = args.out.join("report.html");
    write_page(&report, &conflict_page::page(&opened.name(), &studies))?;
    if global.json {
        output::object(&Report { model: &opened.name(), out: &args.out, report: &report, studies: &studies })?;
        return Ok(Exit::Ok);
    }
    for results in &studies {
        output::text(&conflict_files::summary(results))?;
    }
    if !global.quiet {
        say(&format!("report: {}", report.display()));
    }
    Ok(Exit::Ok)
}

fn settings(args: &Args, name: &str, model: &MadeOn) -> Settings {
    Settings {
        per_answer: args.per_answer,
        sets: args.sets,
        demonstrations: args.demonstrations,
        lambda: args.lambda,
        paper_seeds: args.seeds,
        head_prompts: args.heads,
        steer_prompts: args.steer,
        draws: args.draws,
        seed: args.seed,
        ..Settings::new(name, (model.name.clone(), model.fingerprint.clone()))
    }
}

fn set(name: &str) -> anyhow::Result<Set> {
    let built_in = match name {
        "facts" => Some(data::FACTS),
        "relations" => Some(data::RELATIONS),
        _ => None,
    };
    if let Some(text) = built_in {
        return Ok(Set { name: name.to_owned(), relations: data::parse(text)? });
    }
    let path = Path::new(name);
    let text = prompt::read_text(path)?;
    let relations = data::parse(&text).map_err(|e| failure(Exit::BadFile, format!("{name}: {e}")))?;
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Set { name: stem, relations })
}

/// Runs a study with a bar and Ctrl-C.
fn watched<T>(quiet: bool, run: impl FnOnce(&mut Companions<'_>) -> Result<T, EvalError>) -> anyhow::Result<T> {
    let bar = std::cell::RefCell::new((String::new(), Bar::new(quiet)));
    let mut show = |what: &str, done: usize, total: usize| {
        let (part, bar) = &mut *bar.borrow_mut();
        if part.as_str() != what {
            bar.clear();
            what.clone_into(part);
        }
        bar.steps(what, done, total);
    };
    let mut tell = |line: &str| {
        if !quiet {
            bar.borrow_mut().1.clear();
            say(line);
        }
    };
    let result = run(&mut Companions { progress: &mut show, say: &mut tell, cancel: signals::flag() });
    bar.borrow_mut().1.clear();
    match result {
        Err(_) if signals::interrupted() => Err(failure(
            Exit::Interrupted,
            "stopped; what is done is in the study's folder, and the same command goes on from there",
        )),
        other => Ok(other?),
    }
}
