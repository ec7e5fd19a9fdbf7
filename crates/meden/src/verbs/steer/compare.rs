//! `meden steer eval`: methods and strengths on facts that they were not fitted on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use meden_engine::{Control, SessionOptions};
use meden_eval::kv_lab::distance::LogProbs;
use meden_eval::study::Journal;
use meden_eval::study::conflict::ask::{Asker, Prefix};
use meden_eval::study::conflict::behaviour::Source;
use meden_eval::study::conflict::cells::{Cell, Says, cells};
use meden_eval::study::conflict::companions::Companions;
use meden_eval::study::conflict::data::Relation;
use meden_eval::study::conflict::design::Design;
use meden_eval::study::conflict::memory::Recall;
use meden_eval::study::conflict::prompt::{Demos, closed_book_demonstrations};
use meden_eval::study::steer::collect::Collected;
use meden_eval::study::steer::evaluate::{Answered, Arm, Questions, ask, ask_closed, prose_loss};
use meden_eval::study::steer::fit::{Dictionaries, Method, Options, fit};
use meden_eval::study::steer::summary::{Pair, Row, row};
use meden_eval::task::Codec;
use meden_lens::capture::exact_session;
use meden_lens::steer::{Steering, Toward};
use meden_stats::Rng;
use serde::{Deserialize, Serialize};

use super::page;
use super::study::{EditArgs, SEED, SETS, Setup, Work, design, facts, sets};
use crate::args::ModelArgs;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::progress::{Bar, say};
use crate::verbs::sae::{sequences, write_json};
use crate::{load, output, signals};

/// Ask facts of each fold under edits that were fitted on the other folds: every method, both ways, at every strength;
/// beside it context-aware decoding and demonstrations that show what is wanted. With each the damage: facts closed book,
/// texts that agree, prose. Answers are written down as they come: the same command goes on.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden steer eval --work study --sae sae-12 --methods spare,random-latents,shuffled-labels,means \\
      --strengths 1,2,3 --cad 0.5,-0.5 --prose corpus.jsonl --out report.html")]
pub struct Args {
    /// Folder of the study
    #[arg(long, value_name = "FOLDER")]
    work: PathBuf,
    /// Methods
    #[arg(
        long,
        default_value = "spare,random-latents,shuffled-labels,means",
        value_delimiter = ',',
        value_name = "M,M"
    )]
    methods: Vec<Method>,
    /// Strengths
    #[arg(long, default_value = "1,2", value_delimiter = ',', value_name = "X,X")]
    strengths: Vec<f32>,
    /// Which way; default: both
    #[arg(long, value_name = "context|memory")]
    to: Option<Toward>,
    /// Weights of context-aware decoding: above 0 towards the text, below towards memory
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, value_name = "X,X")]
    cad: Vec<f32>,
    /// What the demonstrations of the tested prompts show: agree (neutral), follow, ignore
    #[arg(long, default_value = "agree", value_name = "agree|follow|ignore")]
    demos: String,
    /// Folds that are tested
    #[arg(long, default_value = "0,1,2,3,4", value_delimiter = ',', value_name = "N,N")]
    folds: Vec<u32>,
    /// Facts tested of each fold; default: all
    #[arg(long, value_name = "N")]
    facts_per_fold: Option<usize>,
    /// A corpus or text: the loss on 32 tokens behind an edited one
    #[arg(long, value_name = "FILE")]
    prose: Option<PathBuf>,
    /// Facts of your own, as given to `collect`
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// The report, as a page
    #[arg(long, value_name = "FILE.html")]
    out: Option<PathBuf>,
    #[command(flatten)]
    edit: EditArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// What an arm costs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Damage {
    /// Share of known facts that are still right, closed book.
    pub closed: f64,
    /// Share of prompts with agreeing texts that are still right.
    pub agreeing: f64,
    /// Mean KL divergence of the first token, closed book, nats.
    pub kl: f64,
    /// Loss of prose behind an edited token over that without, as a ratio of perplexities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prose: Option<f64>,
}

/// One arm of the report.
#[derive(Clone, Debug, Serialize)]
pub struct ArmReport {
    /// What it did.
    #[serde(flatten)]
    pub row: Row,
    /// What it cost.
    pub damage: Damage,
}

/// The one object of `meden steer eval --json`, and of the file beside the page.
#[derive(Serialize)]
pub struct Report<'a> {
    pub model: String,
    pub setup: &'a Setup,
    pub options: &'a Options,
    pub layers: &'a [usize],
    pub demos: String,
    pub rows_collected: [usize; 2],
    pub arms: &'a [ArmReport],
}

/// Everything that asking needs.
struct Bench<'a> {
    asker: Asker<'a>,
    questions: Questions<'a>,
    closed: &'a Prefix,
    cells: Vec<Cell>,
    agreeing: Vec<Cell>,
    cases: Vec<usize>,
}

/// One arm on one fold.
struct Doing<'a> {
    name: String,
    arm: Arm<'a>,
}

/// Runs the verb.
pub fn run(args: &Args, global: Global) -> anyhow::Result<Exit> {
    let work = Work::new(&args.work)?;
    let setup = work.setup()?;
    let options = args.edit.options()?;
    let demos = [Demos::Agree, Demos::Follow, Demos::Ignore].into_iter().find(|d| d.name() == args.demos);
    let demos = demos.ok_or_else(|| usage(format!("--demos: {}; agree, follow or ignore", args.demos)))?;
    if args.strengths.iter().chain(&args.cad).any(|s| !s.is_finite()) {
        return Err(usage("--strengths, --cad: finite numbers"));
    }
    let opened = load::open(&args.model, global.quiet)?;
    let loaded = opened.load(&SessionOptions::default(), 1024)?;
    let collected = Collected::open(&work.file("rows.safetensors"), &setup.model)?;
    let (relations, hash) = facts(args.facts.as_deref())?;
    if hash != setup.facts {
        return Err(usage("--facts: other facts than those that were collected"));
    }
    let (dictionaries, layers) = args.edit.dictionaries(&opened, (&collected, args.model.threads))?;
    let codec = Codec::new(Some(opened.tokenizer()?), None, opened.config.vocab)?;
    let asker = Asker { model: &loaded.model, codec: &codec };
    let closed_sets = sets(&relations, (1, 6));
    let first = closed_sets.first().map(Vec::as_slice).unwrap_or_default();
    let closed = asker.prefix(&closed_book_demonstrations(first), &mut Control::default())?;
    let design = design(&asker, &relations, &work.journal::<Recall>("memory.jsonl")?, setup.per_answer)?;
    let shown = sets(&relations, SETS);
    let prose = match &args.prose {
        Some(path) => sequences(path, opened.tokenizer()?, (128, 128 * 24), (true, 0))?,
        None => Vec::new(),
    };
    let bench = bench(args, (&relations, &design), (asker, &shown, &closed), demos);
    if bench.cells.is_empty() {
        return Err(usage("--folds: no fact of these folds to test"));
    }
    let mut journal = work.journal::<Answered>("steered.jsonl")?;
    let mut prose_done = work.journal::<[f64; 2]>("prose.jsonl")?;
    let mut bar = Bar::new(global.quiet);
    let mut show = |what: &str, done: usize, total: usize| bar.steps(what, done, total);
    let mut tell = |text: &str| {
        if !global.quiet {
            crate::progress::say(text);
        }
    };
    let mut companions = Companions { progress: &mut show, say: &mut tell, cancel: signals::flag() };
    let mut plain = BTreeMap::new();
    let mut names: Vec<String> = Vec::new();
    let mut remember = |name: &str| {
        if !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    };
    let tag = tag(&options, &layers, &dictionaries_tag(&args.edit));
    for &fold in &args.folds {
        let fitted = fits(args, &loaded.model, (&collected, fold), (&dictionaries, &layers), &options)?;
        for doing in arms(args, &fitted, (&closed, &tag)) {
            remember(&doing.name);
            measure(&bench, fold, &doing, (&mut journal, &mut plain), &mut companions)?;
            if let (Arm::Steer { steering, toward, strength }, false) = (doing.arm, prose.is_empty()) {
                let key = format!("{}|{fold}", doing.name);
                if prose_done.get(&key).is_none() {
                    let session = exact_session(&loaded.model)?;
                    let loss = prose_loss(&session, &prose, (steering, toward, strength), &mut companions)?;
                    prose_done.put(key, loss)?;
                }
            }
        }
    }
    // demonstrations that show what is wanted: the prompt changes, the model does not
    let mut shown_cells = Vec::new();
    for other in [Demos::Follow, Demos::Ignore].into_iter().filter(|d| *d != demos) {
        let swapped: Vec<Cell> = bench.cells.iter().map(|c| Cell { demos: other, ..*c }).collect();
        let name = format!("demos-{}", other.name());
        ask(&bench.asker, bench.questions, (&name, Arm::Plain, &swapped), &mut journal, &mut companions)?;
        shown_cells.push((name, swapped));
    }
    bar.clear();

    let mut reports = Vec::new();
    for name in &names {
        reports.push(summarise(&bench, name, &bench.cells, &journal, &prose_done));
    }
    for (name, swapped) in &shown_cells {
        reports.push(summarise(&bench, name, swapped, &journal, &prose_done));
    }
    let counts = collected.labels().iter().filter(|y| **y).count();
    let report = Report {
        model: opened.name(),
        setup: &setup,
        options: &options,
        layers: &layers,
        demos: demos.name().to_owned(),
        rows_collected: [counts, collected.rows.len() - counts],
        arms: &reports,
    };
    if let Some(out) = &args.out {
        page::write(out, &report)?;
        write_json(&out.with_extension("json"), &report)?;
    }
    if global.json {
        output::object(&report)?;
    } else {
        output::text(&page::table(&report).to_string())?;
        if let (Some(out), false) = (&args.out, global.quiet) {
            say(&format!("{}: the same with intervals", out.display()));
        }
    }
    Ok(Exit::Ok)
}

/// What is asked: of every tested fact one conflicting prompt with a context that no edit was fitted on, one that agrees,
/// and the fact closed book.
fn bench<'a>(
    args: &Args,
    (relations, design): (&'a [Relation], &'a Design),
    (asker, shown, closed): (Asker<'a>, &'a [Vec<meden_eval::study::conflict::prompt::Demo<'a>>], &'a Prefix),
    demos: Demos,
) -> Bench<'a> {
    let mut cases = Vec::new();
    for &fold in &args.folds {
        let mut of: Vec<usize> = (0..design.cases.len()).filter(|&c| design.cases[c].fold == fold).collect();
        // facts stand relation by relation: the first of them would be all of one kind
        Rng::new(SEED, u64::from(fold)).shuffle(&mut of);
        cases.extend(of.into_iter().take(args.facts_per_fold.unwrap_or(usize::MAX)));
    }
    let all = cells(relations, design, SETS.0);
    let held = |c: &&Cell| !c.is_seen() && cases.contains(&c.case);
    let first = |says: &dyn Fn(Says) -> bool, demos: Demos| {
        let mut by_case: BTreeMap<usize, Cell> = BTreeMap::new();
        for cell in all.iter().filter(held).filter(|c| c.demos == demos && says(c.says)) {
            by_case.entry(cell.case).or_insert(*cell);
        }
        by_case.into_values().collect::<Vec<Cell>>()
    };
    Bench {
        asker,
        questions: Questions { relations, design, sets: shown },
        closed,
        cells: first(&|s| s == Says::Other(0), demos),
        agreeing: first(&|s| s == Says::Truth, Demos::Agree),
        cases,
    }
}

/// The edits of every method, fitted without a fold.
fn fits(
    args: &Args,
    model: &meden_engine::Model,
    (collected, fold): (&Collected, u32),
    (dictionaries, layers): (&Dictionaries, &[usize]),
    options: &Options,
) -> anyhow::Result<Vec<(Method, Steering)>> {
    let rows = collected.training(Some(fold), options.balance, options.seed);
    let mut all = Vec::new();
    for &method in &args.methods {
        let fitted = fit(model, &rows, (layers, dictionaries), (method, options))
            .with_context(|| format!("{} without fold {fold}", method.name()))?;
        all.push((method, fitted.steering));
    }
    Ok(all)
}

/// Every arm of a fold; names are the same in all folds.
fn arms<'a>(args: &Args, fitted: &'a [(Method, Steering)], (closed, tag): (&'a Prefix, &str)) -> Vec<Doing<'a>> {
    let mut all = vec![Doing { name: "plain".into(), arm: Arm::Plain }];
    for (method, steering) in fitted {
        for toward in Toward::BOTH.into_iter().filter(|t| args.to.is_none_or(|to| to == *t)) {
            for &strength in &args.strengths {
                let name = format!("{} to {} x{strength} {tag}", method.name(), toward.name());
                all.push(Doing { name, arm: Arm::Steer { steering, toward, strength } });
            }
        }
    }
    for &weight in &args.cad {
        all.push(Doing { name: format!("cad {weight}"), arm: Arm::Cad { weight, closed } });
    }
    all
}

/// What tells answers of different settings apart in the journal.
fn tag(options: &Options, layers: &[usize], dictionaries: &str) -> String {
    let text = serde_json::to_string(&(options, layers, dictionaries)).unwrap_or_default();
    let mut hash = meden_files::hash::Hash::sha256();
    hash.update(text.as_bytes());
    format!("[{}]", hash.hex().get(..8).unwrap_or_default())
}

fn dictionaries_tag(edit: &EditArgs) -> String {
    edit.sae.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" ")
}

fn measure(
    bench: &Bench<'_>,
    fold: u32,
    doing: &Doing<'_>,
    (journal, plain): (&mut Journal<Answered>, &mut BTreeMap<usize, LogProbs>),
    companions: &mut Companions<'_>,
) -> anyhow::Result<()> {
    let design = bench.questions.design;
    let of = |cells: &[Cell]| cells.iter().filter(|c| design.cases[c.case].fold == fold).copied().collect::<Vec<_>>();
    let arm = (doing.name.as_str(), doing.arm);
    ask(&bench.asker, bench.questions, (arm.0, arm.1, &of(&bench.cells)), journal, companions)?;
    let agreeing = format!("{}/agreeing", doing.name);
    ask(&bench.asker, bench.questions, (&agreeing, arm.1, &of(&bench.agreeing)), journal, companions)?;
    // a closed book has no second session to contrast with
    if !matches!(doing.arm, Arm::Cad { .. }) {
        let cases: Vec<usize> = bench.cases.iter().copied().filter(|&c| design.cases[c].fold == fold).collect();
        ask_closed(
            &bench.asker,
            (bench.questions, bench.closed),
            (arm.0, arm.1, &cases),
            (journal, plain),
            companions,
        )?;
    }
    Ok(())
}

fn summarise(
    bench: &Bench<'_>,
    name: &str,
    cells: &[Cell],
    journal: &Journal<Answered>,
    prose: &Journal<[f64; 2]>,
) -> ArmReport {
    let Questions { relations, design, .. } = bench.questions;
    let get = |arm: &str, cell: &Cell| journal.get(&format!("{arm}|{}", cell.key(relations, design)));
    let pairs: Vec<Pair<'_>> = bench
        .cells
        .iter()
        .zip(cells)
        .filter_map(|(plain, cell)| {
            let cluster = design.cases[cell.case].cluster;
            Some(Pair { cluster, before: get("plain", plain)?, after: get(name, cell)? })
        })
        .collect();
    let right = |all: Vec<Option<&Answered>>| {
        let all: Vec<&Answered> = all.into_iter().flatten().collect();
        let count = all.iter().filter(|a| a.source == Source::Agreed).count();
        if all.is_empty() { f64::NAN } else { count as f64 / all.len() as f64 }
    };
    let agreeing = format!("{name}/agreeing");
    let closed: Vec<Option<&Answered>> = bench
        .cases
        .iter()
        .map(|&c| {
            let case = &design.cases[c];
            let relation = &relations[case.relation];
            journal.get(&format!("{name}|closed/{}/{}", relation.name, relation.facts[case.fact].subject))
        })
        .collect();
    let kls: Vec<f64> = closed.iter().flatten().filter_map(|a| a.kl).collect();
    let losses: Vec<[f64; 2]> = (0..64).filter_map(|fold| prose.get(&format!("{name}|{fold}")).copied()).collect();
    let mean = |at: usize| losses.iter().map(|l| l[at]).sum::<f64>() / losses.len().max(1) as f64;
    let damage = Damage {
        closed: right(closed),
        agreeing: right(bench.agreeing.iter().map(|c| get(&agreeing, c)).collect()),
        kl: if kls.is_empty() { f64::NAN } else { kls.iter().sum::<f64>() / kls.len() as f64 },
        prose: (!losses.is_empty()).then(|| (mean(1) - mean(0)).exp()),
    };
    ArmReport { row: row(name, &pairs, 0), damage }
}
