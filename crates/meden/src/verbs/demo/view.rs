//! What the demo shows: the task, the comparison, the answers, and a verdict that the figures decide.

use std::path::Path;

use meden_engine::{Budget, Policy};
use meden_report::svg::{LineChart, Series, Unit};
use meden_report::{Table, human};
use serde_json::{Value, json};

use super::document::{TITLE, Task};
use super::side::SideReport;

/// What is about to happen, before the first side runs.
pub fn heading(task: &Task, model: &Path) -> String {
    let name = model.file_name().map_or_else(|| model.display().to_string(), |n| n.to_string_lossy().into_owned());
    format!(
        "One document, read twice: with a full cache and with a pressed one.\n\n\
         document  {TITLE}\n\
         planted   \"{}\" at {} of it\n\
         question  {}\n\
         model     {name}\n\n",
        task.fact,
        human::percent(task.place),
        task.question
    )
}

/// Table, answers and verdict.
pub fn comparison(policy: &Policy, dense: &SideReport, pressed: &SideReport) -> String {
    let mut text =
        format!("press     {}\nran on    {} threads, {}\n\n", settings(policy), pressed.threads, pressed.isa);
    text += &table(dense, pressed).to_string();
    text += &format!("\ndense     {}\npressed   {}\n\n{}\n", quoted(dense), quoted(pressed), verdict(dense, pressed));
    for note in &pressed.notes {
        text += &format!("note: {note}\n");
    }
    text
}

/// The policy in the words of the flags.
fn settings(policy: &Policy) -> String {
    let skipped: Vec<String> = policy.skipped().iter().map(usize::to_string).collect();
    let unit = if matches!(policy.budget, Budget::Tokens(_)) { " tokens a layer" } else { "" };
    format!(
        "{}, budget {}{unit}, {}, skipped layers {}, {} sinks, {} recents",
        policy.press,
        policy.budget,
        policy.schedule,
        if skipped.is_empty() { "none".to_owned() } else { skipped.join(",") },
        policy.sinks,
        policy.recents
    )
}

fn quoted(side: &SideReport) -> String {
    format!("\"{}\" ({})", side.answer, if side.right { "right" } else { "wrong" })
}

fn table(dense: &SideReport, pressed: &SideReport) -> Table {
    let mut table = Table::new(["", "dense", "pressed", "pressed / dense"]);
    let count = |v: u64| human::count(v);
    let of = |a: f64, b: f64| if a > 0.0 { human::percent(b / a) } else { "-".to_owned() };
    let mut both = |name: &str, a: Option<u64>, b: Option<u64>, write: &dyn Fn(u64) -> String| {
        let show = |v: Option<u64>| v.map_or_else(|| "-".to_owned(), write);
        let share = match (a, b) {
            (Some(a), Some(b)) => of(a as f64, b as f64),
            _ => "-".to_owned(),
        };
        table.row([name.to_owned(), show(a), show(b), share]);
    };
    let each = |f: &dyn Fn(&SideReport) -> u64| (Some(f(dense)), Some(f(pressed)));
    let (a, b) = each(&|s| s.seen as u64);
    both("tokens read, with the answer", a, b, &count);
    let (a, b) = each(&|s| s.kept_tokens_mean.round() as u64);
    both("tokens kept, mean of heads", a, b, &count);
    let (a, b) = each(&|s| s.kv_bytes);
    both("KV cache (pages, metadata)", a, b, &human::bytes);
    let (a, b) = each(&|s| s.peak_page_bytes);
    both("KV pages, most at once", a, b, &human::bytes);
    let (a, b) = (dense.memory.resident_bytes, pressed.memory.resident_bytes);
    both("process memory now", a, b, &human::bytes);
    let peak = if dense.peak_is_after_loading && pressed.peak_is_after_loading {
        "process memory peak"
    } else {
        "process memory peak, with loading"
    };
    both(peak, dense.memory.peak_bytes, pressed.memory.peak_bytes, &human::bytes);
    let mut speed = |name: &str, f: &dyn Fn(&SideReport) -> Option<f64>| {
        let show =
            |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{} tokens/s", human::three_digits(v)));
        let (a, b) = (f(dense), f(pressed));
        table.row([name.to_owned(), show(a), show(b), of(a.unwrap_or(0.0), b.unwrap_or(0.0))]);
    };
    speed("prefill", &|s| s.timings.prefill_tokens_per_second);
    speed("decode", &|s| s.timings.decode_tokens_per_second);
    table
}

fn verdict(dense: &SideReport, pressed: &SideReport) -> String {
    let share = human::percent(pressed.kv_bytes as f64 / dense.kv_bytes.max(1) as f64);
    match (dense.right, pressed.right) {
        (true, true) => format!("Both caches found the planted sentence; the pressed one holds {share} of the bytes."),
        (true, false) => format!(
            "The pressed cache, with {share} of the bytes, has lost the planted sentence. Try a larger --kv-budget."
        ),
        (false, true) => format!("Only the pressed cache, with {share} of the bytes, found the planted sentence."),
        (false, false) => {
            "Neither cache found the planted sentence: this model does not answer the question.".to_owned()
        }
    }
}

/// Cache bytes against tokens read.
pub fn chart(dense: &SideReport, pressed: &SideReport, policy: &Policy) -> String {
    let points = |side: &SideReport| side.curve.iter().map(|&(t, b)| (t as f64, b as f64)).collect();
    let series = |name: String, side: &SideReport| Series { name, points: points(side), ..Series::default() };
    let (most_dense, most_pressed) = (human::bytes(dense.peak_page_bytes), human::bytes(pressed.peak_page_bytes));
    LineChart {
        title: format!("KV cache while reading {} tokens", human::count(pressed.prompt_tokens as u64)),
        subtitle: format!(
            "{TITLE}; {} {}; most bytes in use at once while each chunk is read",
            policy.press, policy.budget
        ),
        x_name: "tokens read".to_owned(),
        y_name: "cache bytes".to_owned(),
        y_unit: Unit::Bytes,
        y_from_zero: true,
        series: vec![
            series(format!("dense, {most_dense}"), dense),
            series(format!("pressed, {most_pressed}"), pressed),
        ],
        ..LineChart::default()
    }
    .svg()
}

/// The one object of `meden demo --json`.
pub fn json(task: &Task, policy: &Policy, dense: &SideReport, pressed: &SideReport) -> Value {
    json!({
        "document": TITLE,
        "planted": task.fact,
        "planted_at": task.place,
        "question": task.question,
        "expected": task.expected,
        "policy": policy,
        "dense": dense,
        "pressed": pressed,
        "kv_bytes_ratio": pressed.kv_bytes as f64 / dense.kv_bytes.max(1) as f64,
    })
}
