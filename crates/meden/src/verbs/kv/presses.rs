//! `meden kv presses`: the registry.

use meden_engine::PressSpec;
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
    rule: &'static str,
    paper: &'static str,
    needs: Vec<String>,
    parameters: Value,
}

/// Runs the verb.
pub fn run(_: &Args, global: Global) -> anyhow::Result<Exit> {
    let entries: Vec<Entry> = PressSpec::REGISTRY
        .iter()
        .map(|info| {
            let spec: Option<PressSpec> = info.name.parse().ok();
            let needs = spec.as_ref().map(|s| words(&s.build().needs())).unwrap_or_default();
            let mut parameters = spec.and_then(|s| serde_json::to_value(s).ok()).unwrap_or(Value::Null);
            if let Some(fields) = parameters.as_object_mut() {
                fields.shift_remove("kind");
            }
            Entry { name: info.name, rule: info.rule, paper: info.paper, needs, parameters }
        })
        .collect();
    if global.json {
        output::object(&serde_json::json!({ "presses": entries }))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["press", "keeps", "reads", "parameters", "from"]);
    for column in 1..5 {
        table = table.align(column, Align::Left);
    }
    for e in &entries {
        let parameters = match e.parameters.as_object() {
            Some(fields) if !fields.is_empty() => {
                fields.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(", ")
            }
            _ => "-".to_owned(),
        };
        table.row([e.name, e.rule, &e.needs.join(", "), &parameters, e.paper]);
    }
    output::text(&table.to_string())?;
    Ok(Exit::Ok)
}

fn words(needs: &meden_engine::press::Needs) -> Vec<String> {
    let mut words = Vec::new();
    for (is, word) in [
        (needs.key_norms, "key norms"),
        (needs.keys, "keys"),
        (needs.values, "values"),
        (needs.attention_mass, "attention mass"),
        (needs.hidden_states, "hidden states"),
    ] {
        if is {
            words.push(word.to_owned());
        }
    }
    if needs.recent_queries > 0 {
        words.push(format!("last {} queries", needs.recent_queries));
    }
    if words.is_empty() {
        words.push("positions".to_owned());
    }
    words
}
