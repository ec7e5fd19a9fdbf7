//! `meden audit export`: a labelled set as Redux CSV or JSON lines.

use std::path::PathBuf;

use meden_eval::audit::{Label, Labelled, export, labels};
use meden_files::AtomicFile;

use crate::cli::Global;
use crate::exit::Exit;
use crate::output;
use crate::progress::say;

/// In what form.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Format {
    /// The seven columns of MMLU-Redux
    ReduxCsv,
    /// One JSON object a line
    Jsonl,
}

/// Writes the rows of MMLU-Redux files again, with canonical spellings.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  meden audit export redux_csv --only-ok --format jsonl --output mmlu-ok.jsonl")]
pub struct Args {
    /// A Redux file or a folder of them
    redux: PathBuf,
    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Its form
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Only items labelled ok
    #[arg(long, conflicts_with = "repair")]
    only_ok: bool,
    /// Replace keys by what the annotators held to be right, and drop what cannot be repaired (JSON lines only)
    #[arg(long)]
    repair: bool,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.repair && matches!(args.format, Format::ReduxCsv) {
        return Err(crate::exit::usage(
            "--repair: the Redux columns hold the original key by definition; use --format jsonl",
        ));
    }
    let redux = labels::read(&args.redux)?;
    if !global.quiet {
        redux.notes.iter().for_each(|n| say(&format!("note: {n}")));
    }
    let keep =
        |row: &&Labelled| (!args.only_ok || row.label == Label::Ok) && (!args.repair || row.repaired().is_some());
    let rows: Vec<&Labelled> = redux.rows.iter().filter(keep).collect();
    let text = match args.format {
        Format::ReduxCsv => export::redux_csv(&rows),
        Format::Jsonl => export::json_lines(&rows, args.repair),
    };
    AtomicFile::whole(&args.output, text.as_bytes())?;
    if global.json {
        output::object(&serde_json::json!({"file": args.output, "items": rows.len(), "of": redux.rows.len()}))?;
    } else {
        output::text(&format!("{}: {} of {} items\n", args.output.display(), rows.len(), redux.rows.len()))?;
    }
    Ok(Exit::Ok)
}
