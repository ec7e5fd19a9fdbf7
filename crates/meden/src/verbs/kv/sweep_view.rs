//! A sweep as a table, as Markdown, and as one page.

use meden_eval::kv_lab::label;
use meden_eval::kv_lab::summary::{Estimate, Line};
use meden_eval::kv_lab::sweep::Spec;
use meden_report::html::Page;
use meden_report::svg::{LineChart, Series, Unit};
use meden_report::{Align, Table, human};
use serde::Serialize;

use crate::summary::{Memory, bytes_or_dash};

/// What was measured, on what.
#[derive(Serialize)]
pub struct About {
    /// The model's name.
    pub model: String,
    /// The real text's name.
    pub text: String,
    /// Whether prompts went through the chat template.
    pub template: bool,
    /// All settings.
    pub spec: Spec,
    /// Memory of this process at the end.
    pub memory: Memory,
    /// What a user should know.
    pub note: Option<String>,
}

const HEADER: [&str; 14] = [
    "task",
    "length",
    "question",
    "press",
    "removed",
    "kv",
    "items",
    "KL, nats",
    "top-1",
    "loss above dense",
    "right",
    "of dense's right",
    "kept",
    "KV cache",
];

fn cells(line: &Line) -> Vec<String> {
    let number = |e: &Estimate| with_interval(e, &|v| format!("{v:.3}"));
    let share = |e: &Estimate| with_interval(e, &|v| format!("{:.0}", v * 100.0)) + "%";
    vec![
        line.task.to_string(),
        human::count(line.length as u64),
        if line.task.is_asked() { line.question.to_string() } else { "-".to_owned() },
        press_name(line),
        match (&line.press, decides_itself(line)) {
            (None, _) => "-".to_owned(),
            (_, true) => format!("{} (its own)", human::percent(removed(line))),
            (_, false) => human::percent(line.ratio),
        },
        line.kv.to_string(),
        line.items.to_string(),
        number(&line.kl),
        share(&line.top1),
        line.nll_rise.as_ref().map_or_else(|| "-".to_owned(), number),
        line.accuracy.as_ref().map_or_else(|| "-".to_owned(), share),
        match &line.retained {
            Some(retained) => format!("{} of {}", share(retained), line.dense_solved),
            None if line.asked > 0 => "none solved".to_owned(),
            None => "-".to_owned(),
        },
        format!("{:.0} of {:.0}", line.kept_tokens, line.tokens),
        human::bytes(line.kv_bytes.round() as u64),
    ]
}

fn with_interval(estimate: &Estimate, write: &dyn Fn(f64) -> String) -> String {
    match estimate.interval {
        Some([low, high]) => format!("{} [{}, {}]", write(estimate.value), write(low), write(high)),
        None => write(estimate.value),
    }
}

/// Whether the press has no budget but its own rule.
fn decides_itself(line: &Line) -> bool {
    line.press.as_ref().and_then(|p| p.build().ok()).is_some_and(|p| p.own_budget())
}

/// Share removed: the nominal one, or what the press made of it.
fn removed(line: &Line) -> f64 {
    if decides_itself(line) { 1.0 - line.kept_tokens / line.tokens.max(1.0) } else { line.ratio }
}

fn press_name(line: &Line) -> String {
    line.press.as_ref().map_or_else(|| "dense".to_owned(), label)
}

/// What holds for all lines.
fn facts(about: &About) -> Vec<String> {
    let spare = &about.spec.spare;
    let layers = match &spare.skip_layers {
        None => "layers left alone: each press's own choice".to_owned(),
        Some(layers) if layers.is_empty() => "no layer left alone".to_owned(),
        Some(layers) => format!("layers left alone: {layers:?}"),
    };
    let mut facts = vec![
        format!(
            "{} sinks and {} recents protected; {layers}; chat template {}",
            spare.sinks,
            spare.recents,
            if about.template { "on" } else { "off" }
        ),
        format!("real text: {}; seeds {:?}, {} items each", about.text, about.spec.seeds, about.spec.items),
        format!(
            "KL and top-1: against the dense {} cache on the same tokens; the first token of every answer comes from the compressed cache; intervals: 95%, items resampled",
            about.spec.kv[0]
        ),
        format!(
            "process memory: {} at the end, {} at most (all caches of an item are held together)",
            bytes_or_dash(about.memory.resident_bytes),
            bytes_or_dash(about.memory.peak_bytes)
        ),
    ];
    facts.extend(about.note.clone());
    facts
}

/// What some lines have to say: presses that did nothing, protection that held more than the budget.
fn notes(lines: &[Line]) -> Vec<String> {
    let mut notes = Vec::new();
    for line in lines.iter().filter(|l| l.press.is_some()) {
        let what = format!("{} at {} removed, {} {}", press_name(line), line.ratio, line.task, line.length);
        if line.idle > 0 {
            notes.push(format!("{what}: evicted nothing in {} of {} items", line.idle, line.items));
        }
        let other = line.notes.iter().filter(|n| !n.contains("evicted nothing"));
        notes.extend(other.map(|n| format!("{what}: {n}")));
    }
    let mut seen = std::collections::BTreeSet::new();
    notes.retain(|n| seen.insert(n.clone()));
    notes
}

/// For a terminal.
pub fn text(about: &About, lines: &[Line]) -> String {
    let rows: Vec<Vec<String>> = lines.iter().map(cells).collect();
    // a column that says the same everywhere is said once
    let same = |column: &usize| rows.len() > 1 && rows.iter().all(|row| row[*column] == rows[0][*column]);
    let (once, shown): (Vec<usize>, Vec<usize>) = (0..HEADER.len()).partition(same);
    let mut table = Table::new(shown.iter().map(|&column| HEADER[column]));
    for (at, column) in shown.iter().enumerate() {
        if [2, 3, 5].contains(column) {
            table = table.align(at, Align::Left);
        }
    }
    for row in &rows {
        table.row(shown.iter().map(|&column| row[column].as_str()));
    }
    let once: Vec<String> = once.iter().map(|&c| format!("{} {}", HEADER[c], rows[0][c])).collect();
    let once = if once.is_empty() { String::new() } else { format!("everywhere: {}\n", once.join(", ")) };
    let said: Vec<String> = facts(about).into_iter().chain(notes(lines)).map(|n| format!("{n}\n")).collect();
    format!("{}\n\n{table}\n{once}{}", about.model, said.concat())
}

/// A table for a page in Markdown.
pub fn markdown(about: &About, lines: &[Line]) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace('\n', " "));
    let mut out = format!("{}\n\n", about.model);
    out += &row(&HEADER.map(str::to_owned));
    out += &format!("|{}\n", " --- |".repeat(HEADER.len()));
    for line in lines {
        out += &row(&cells(line).iter().map(|c| c.replace('|', "\\|")).collect::<Vec<_>>());
    }
    out += "\n";
    for fact in facts(about).into_iter().chain(notes(lines)) {
        out += &format!("- {fact}\n");
    }
    out
}

/// One page with charts and the whole table.
pub fn page(about: &About, lines: &[Line]) -> String {
    let mut page = Page::new(
        &format!("What presses lose: {}", about.model),
        "Every press starts from one dense prefill of the same item and is compared with it on the same tokens.",
    );
    page.list(&facts(about));
    for (name, group) in groups(lines) {
        page.heading(&name);
        page.figures(&charts(&name, &group));
    }
    page.heading("All figures");
    let mut header = HEADER.to_vec();
    header.extend(["rank", "repetition", "press, ms"]);
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let mut row = cells(line);
            row.push(human::three_digits(line.rank));
            row.push(line.repetition.as_ref().map_or_else(|| "-".to_owned(), |r| human::percent(r.value)));
            row.push(line.press_ms.map_or_else(|| "-".to_owned(), human::three_digits));
            row
        })
        .collect();
    page.table(&header, &rows, 1);
    let notes = notes(lines);
    if !notes.is_empty() {
        page.heading("Notes");
        page.list(&notes);
    }
    page.finish()
}

/// Lines of one task, length, view of the question and cache type, in order.
fn groups(lines: &[Line]) -> Vec<(String, Vec<&Line>)> {
    let mut groups: Vec<(String, Vec<&Line>)> = Vec::new();
    for line in lines {
        let question = if line.task.is_asked() { format!(", question {}", line.question) } else { String::new() };
        let name = format!("{}, {} tokens{question}, {}", line.task, human::count(line.length as u64), line.kv);
        match groups.iter_mut().find(|g| g.0 == name) {
            Some(group) => group.1.push(line),
            None => groups.push((name, vec![line])),
        }
    }
    groups
}

type Measure<'a> = &'a dyn Fn(&Line) -> Option<Estimate>;

fn charts(name: &str, lines: &[&Line]) -> Vec<String> {
    let mut charts = Vec::new();
    let items = lines.iter().map(|l| l.items).max().unwrap_or(0);
    let mut add = |title: &str, y_unit: Unit, dense: Option<(f64, String)>, of: Measure<'_>| {
        let series = series(lines, of);
        if series.iter().any(|s| s.points.iter().any(|p| p.1.is_finite())) {
            charts.push(
                LineChart {
                    title: title.to_owned(),
                    subtitle: format!("{name}; {items} items, 95% intervals"),
                    x_name: "share removed".to_owned(),
                    x_unit: Unit::Share,
                    y_unit,
                    y_from_zero: true,
                    dots: true,
                    level: dense,
                    series,
                    ..LineChart::default()
                }
                .svg(),
            );
        }
    };
    let dense = lines.iter().find(|l| l.press.is_none());
    let plain = |value: f64| Some(Estimate { value, interval: None });
    add("KL to the dense cache, nats a token", Unit::Plain, None, &|l| Some(l.kl));
    add("Same first choice as the dense cache", Unit::Share, None, &|l| Some(l.top1));
    add("Loss above the dense cache, nats a token", Unit::Plain, None, &|l| l.nll_rise);
    let level = dense.and_then(|d| Some((d.accuracy?.value, "dense".to_owned())));
    add("Right answers", Unit::Share, level, &|l| l.accuracy);
    let solved = dense.map_or(0, |d| d.dense_solved);
    add(&format!("Still right, of {solved} that the dense cache answers"), Unit::Share, None, &|l| l.retained);
    add("Repeated four-token sequences", Unit::Share, None, &|l| l.repetition);
    let bytes = dense.map(|d| (d.kv_bytes, "dense".to_owned()));
    add("Bytes of the cache", Unit::Bytes, bytes, &|l| plain(l.kv_bytes));
    add("Time of the press, ms", Unit::Plain, None, &|l| plain(l.press_ms?));
    charts
}

fn series(lines: &[&Line], of: Measure<'_>) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for line in lines.iter().filter(|l| l.press.is_some()) {
        let name = press_name(line);
        let at = match series.iter().position(|s| s.name == name) {
            Some(at) => at,
            None => {
                series.push(Series { name, ..Series::default() });
                series.len() - 1
            }
        };
        let estimate = of(line);
        let interval = estimate.and_then(|e| e.interval).map_or((f64::NAN, f64::NAN), |[low, high]| (low, high));
        series[at].points.push((removed(line), estimate.map_or(f64::NAN, |e| e.value)));
        series[at].intervals.push(interval);
    }
    // every curve begins at the dense cache, with nothing removed
    let dense = lines.iter().find(|l| l.press.is_none()).and_then(|d| of(d));
    for s in series.iter_mut().filter(|s| s.points.iter().all(|p| p.0 > 0.0)) {
        if let Some(dense) = dense {
            s.points.push((0.0, dense.value));
            s.intervals.push((f64::NAN, f64::NAN));
        }
    }
    for s in &mut series {
        let mut order: Vec<usize> = (0..s.points.len()).collect();
        order.sort_by(|&a, &b| s.points[a].0.total_cmp(&s.points[b].0));
        s.points = order.iter().map(|&i| s.points[i]).collect();
        s.intervals = order.iter().map(|&i| s.intervals[i]).collect();
    }
    series
}
