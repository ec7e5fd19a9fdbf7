//! `meden kv presses`: the registry.

use meden_engine::press::registry::{Adaptivity, REGISTRY, Sort};
use meden_engine::{Needs, PressSpec};
use meden_report::{Align, Table};
use serde::Serialize;
use serde_json::Value;

use crate::cli::Global;
use crate::exit::Exit;
use crate::output;

/// The presses: their names, what they read, and their parameters with defaults.
///
/// Parameters are given as JSON: --press '{"kind": "streaming_llm", "n_sink": 4}'.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// A press for programs.
#[derive(Serialize)]
struct Entry {
    name: &'static str,
    sort: Sort,
    adaptivity: Adaptivity,
    rule: &'static str,
    paper: &'static str,
    needs: Option<Needs>,
    reads: String,
    /// Whether it decides itself how much stays (budget `press`).
    own_budget: bool,
    /// Why it cannot act in chunks or while decoding, if it cannot.
    only_at_prefill_end: Option<&'static str>,
    parameters: Value,
}

/// Runs the verb.
pub fn run(_: &Args, global: Global) -> anyhow::Result<Exit> {
    let entries: Vec<Entry> = REGISTRY
        .iter()
        .map(|info| {
            let spec = PressSpec::by_name(info.name);
            // a press that needs a file cannot be built without one
            let press = spec.as_ref().and_then(|s| s.build().ok());
            let mut parameters = spec.and_then(|s| serde_json::to_value(s).ok()).unwrap_or(Value::Null);
            if let Some(fields) = parameters.as_object_mut() {
                fields.shift_remove("kind");
            }
            let needs = press.as_ref().map(|p| p.needs());
            Entry {
                name: info.name,
                sort: info.sort,
                adaptivity: info.adaptivity,
                rule: info.rule,
                paper: info.paper,
                needs,
                reads: needs.map_or_else(|| "a data file".to_owned(), |n| n.words()),
                own_budget: press.as_ref().is_some_and(|p| p.own_budget()),
                only_at_prefill_end: press.as_ref().and_then(|p| p.only_at_prefill_end()),
                parameters,
            }
        })
        .collect();
    if global.json {
        output::object(&serde_json::json!({ "presses": entries }))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["press", "keeps", "reads", "counts differ", "parameters", "from"]);
    for column in 1..6 {
        table = table.align(column, Align::Left);
    }
    for e in &entries {
        let parameters = match e.parameters.as_object() {
            Some(fields) if !fields.is_empty() => {
                fields.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect::<Vec<_>>().join(", ")
            }
            _ => "-".to_owned(),
        };
        let rule = if e.sort == Sort::Control { format!("{} (control)", e.rule) } else { e.rule.to_owned() };
        table.row([e.name, &rule, &e.reads, adaptivity(e.adaptivity), &parameters, e.paper]);
    }
    let once: Vec<&str> = entries.iter().filter(|e| e.only_at_prefill_end.is_some()).map(|e| e.name).collect();
    let own: Vec<&str> = entries.iter().filter(|e| e.own_budget).map(|e| e.name).collect();
    let mut text = format!(
        "{table}\nParameters go in parentheses, as in snapkv(window_size=32), and so does the press that a wrapper wraps, as in adakv(snapkv).\n"
    );
    if !once.is_empty() {
        text += &format!("Only with --schedule prefill_end: {}.\n", once.join(", "));
    }
    if !own.is_empty() {
        text += &format!("Decide themselves how much stays (--kv-budget press): {}.\n", own.join(", "));
    }
    output::text(&text)?;
    Ok(Exit::Ok)
}

fn adaptivity(adaptivity: Adaptivity) -> &'static str {
    match adaptivity {
        Adaptivity::Uniform => "-",
        Adaptivity::Heads => "between heads",
        Adaptivity::Layers => "between layers",
        Adaptivity::LayersAndHeads => "between layers and heads",
        Adaptivity::Channels => "channels of keys",
    }
}

/// A parameter as it is typed; a wrapped press by its name.
fn shown(value: &Value) -> String {
    match value {
        Value::Object(fields) => fields.get("kind").and_then(Value::as_str).unwrap_or("...").to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
