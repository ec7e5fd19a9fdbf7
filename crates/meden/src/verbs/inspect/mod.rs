//! `meden inspect`: say what is in a model file, without loading it.

mod describe;
mod metadata;

use meden_engine::Config;
use meden_report::{Align, Table, human};

use crate::cli::Global;
use crate::exit::Exit;
use crate::{load, output};
use describe::{Description, TensorRow};

/// Say what is in a model file: architecture, tensors, types, bytes, tokenizer, chat template, context length.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A .gguf or .safetensors file, a folder, or a model's name
    #[arg(value_name = "FILE")]
    file: String,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// List every metadata key
    #[arg(long)]
    metadata: bool,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let path = load::find(&args.file, global.quiet)?;
    let description = describe::read(&path)?;
    if global.json {
        output::object(&description)?;
        return Ok(Exit::Ok);
    }
    let mut text = overview(&description);
    if args.metadata {
        text += &format!("\n{}", metadata_table(&description));
    }
    if args.tensors {
        text += &format!("\n{}", tensor_table(&description.tensors));
    }
    output::text(&text)?;
    Ok(Exit::Ok)
}

fn overview(d: &Description) -> String {
    let mut table = Table::new(["", ""]).align(1, Align::Left);
    table.row(["file", &d.path]);
    table.row(["format", &d.format]);
    if let Some(name) = &d.name {
        table.row(["name", name]);
    }
    table.row(["architecture", &d.architecture]);
    table.row(["parameters", &human::count(d.parameters)]);
    match &d.model {
        Some(config) => shape_rows(&mut table, config),
        None => {
            table.row(["runs here", &format!("no: {}", d.problem.as_deref().unwrap_or("unknown reason"))]);
        }
    }
    if let Some(t) = &d.tokenizer {
        table.row(["tokenizer", &format!("{}, {} tokens", t.kind, human::count(t.vocabulary as u64))]);
        let ids: Vec<String> = t.end_ids.iter().map(u32::to_string).collect();
        table.row(["ends at", &ids.join(", ")]);
    } else {
        table.row(["tokenizer", d.tokenizer_problem.as_deref().unwrap_or("none")]);
    }
    let template =
        d.chat_template.as_ref().map_or("none".to_owned(), |t| format!("yes, {} characters", t.chars().count()));
    table.row(["chat template", &template]);
    let mut types = Table::new(["type", "tensors", "bytes", ""]);
    for t in &d.types {
        let note = if t.readable { "" } else { "not read here" };
        types.row([t.name.as_str(), &human::count(t.tensors as u64), &human::bytes(t.bytes), note]);
    }
    format!("{table}\n{types}")
}

fn shape_rows(table: &mut Table, config: &Config) {
    table.row(["context", &format!("{} tokens", human::count(config.context as u64))]);
    table.row([
        "shape",
        &format!(
            "{} layers, {} wide, feed-forward {}, {} query and {} key-value heads of {}",
            config.layers, config.hidden, config.intermediate, config.q_heads, config.kv_heads, config.head_dim
        ),
    ]);
    let sliding = config.attention.iter().filter(|a| a.window.is_some()).count();
    if sliding > 0 {
        let window = config.attention.iter().find_map(|a| a.window).unwrap_or(0);
        table.row(["sliding window", &format!("{window} tokens in {sliding} of {} layers", config.layers)]);
    }
    let token = (2 * config.layers * config.kv_heads * config.head_dim * 2) as u64;
    let full = token.saturating_mul(config.context as u64);
    table.row(["f16 cache", &format!("{} a token, {} for a full context", human::bytes(token), human::bytes(full))]);
}

fn tensor_table(tensors: &[TensorRow]) -> String {
    let mut table = Table::new(["tensor", "type", "shape", "bytes"]).align(1, Align::Left).align(2, Align::Left);
    for t in tensors {
        let shape: Vec<String> = t.shape.iter().map(usize::to_string).collect();
        let bytes = t.bytes.map_or_else(|| "?".to_owned(), human::bytes);
        table.row([t.name.as_str(), &t.kind, &shape.join(" x "), &bytes]);
    }
    table.to_string()
}

fn metadata_table(d: &Description) -> String {
    let mut table = Table::new(["key", "value"]).align(1, Align::Left);
    for (key, value) in &d.metadata {
        let mut text = match value {
            serde_json::Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        if text.chars().count() > 100 {
            text = text.chars().take(97).chain("...".chars()).collect();
        }
        table.row([key.clone(), text]);
    }
    table.to_string()
}
