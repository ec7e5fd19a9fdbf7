//! `meden tokenize`: show how a text is cut into tokens.

use std::path::{Path, PathBuf};

use meden_engine::text::Tokenizer;
use meden_files::ModelFiles;
use meden_report::{Align, Table, human};
use serde::Serialize;

use crate::cli::Global;
use crate::exit::Exit;
use crate::{load, output, prompt};

/// Show how a text is cut into tokens. Special tokens that are written in the text count as such.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Whose tokenizer: a built-in name, hf:owner/name[:file], a .gguf file, or a folder with tokenizer.json
    #[arg(long, short, default_value = meden_files::source::DEFAULT, value_name = "NAME|PATH")]
    model: String,
    /// A file to read instead of standard input
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// Add what the model expects at the beginning of a text (a begin-of-text token, where it has one)
    #[arg(long)]
    special: bool,
    /// Treat special tokens in the text as ordinary characters
    #[arg(long, conflicts_with = "special")]
    plain: bool,
}

#[derive(Serialize)]
struct Report {
    ids: Vec<u32>,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let files = ModelFiles::open(&load::find(&args.model, global.quiet)?)?;
    let tokenizer = Tokenizer::load(&files)?;
    let text = prompt::read_text(Path::new(&args.file))?;
    let ids = if args.plain { tokenizer.encode_plain(&text)? } else { tokenizer.encode(&text, args.special)? };
    if global.json {
        output::object(&Report { ids })?;
        return Ok(Exit::Ok);
    }
    output::text(&table(&tokenizer, &ids, &text))?;
    Ok(Exit::Ok)
}

fn table(tokenizer: &Tokenizer, ids: &[u32], text: &str) -> String {
    let mut table = Table::new(["", "id", "piece"]).align(0, Align::Right).align(2, Align::Left);
    for (place, &id) in ids.iter().enumerate() {
        let bytes = tokenizer.token_bytes(id);
        let piece = match std::str::from_utf8(&bytes) {
            Ok(piece) if !piece.is_empty() => format!("{piece:?}"),
            Ok(_) => tokenizer.token_text(id),
            Err(_) => bytes.iter().map(|b| format!("<0x{b:02X}>")).collect(),
        };
        table.row([place.to_string(), id.to_string(), piece]);
    }
    let characters = text.chars().count();
    format!(
        "{table}{} tokens, {} characters; {}\n",
        human::count(ids.len() as u64),
        human::count(characters as u64),
        tokenizer.kind()
    )
}
