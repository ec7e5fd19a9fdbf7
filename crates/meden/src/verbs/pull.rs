//! `meden pull`: fetch a model, so that later runs need no network.

use std::path::PathBuf;

use meden_files::source::{self, BUILTINS};
use meden_report::{Align, Table, human};
use serde::Serialize;

use crate::cli::Global;
use crate::exit::Exit;
use crate::{load, output};

/// Fetch a model. What is here already is not fetched again.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A built-in name (smollm2, gemma3-270m; dinov2-small for images), or hf:owner/name[:file]
    #[arg(default_value = source::DEFAULT, value_name = "NAME")]
    name: String,
    /// List the built-in names instead
    #[arg(long)]
    list: bool,
}

#[derive(Serialize)]
struct Report {
    name: String,
    path: PathBuf,
    bytes: Option<u64>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    if args.list {
        return list(global);
    }
    let path = load::find(&args.name, global.quiet)?;
    let bytes = std::fs::metadata(&path).ok().filter(|m| m.is_file()).map(|m| m.len());
    if global.json {
        output::object(&Report { name: args.name, path, bytes })?;
    } else {
        output::text(&format!("{}\n", path.display()))?;
    }
    Ok(Exit::Ok)
}

fn list(global: Global) -> anyhow::Result<Exit> {
    if global.json {
        let models: Vec<_> = BUILTINS
            .iter()
            .map(|b| serde_json::json!({ "name": b.name, "about": b.about, "licence": b.licence, "bytes": b.bytes }))
            .collect();
        output::object(&serde_json::json!({ "models": models }))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["name", "size", "licence", "what it is"]).align(2, Align::Left).align(3, Align::Left);
    for model in BUILTINS {
        table.row([model.name, &human::bytes(model.bytes), model.licence, model.about]);
    }
    output::text(&table.to_string())?;
    Ok(Exit::Ok)
}
