//! `meden quantize`: a model in another, usually smaller, weight format.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meden_engine::export;
use meden_files::ModelFiles;
use meden_files::quantize::{self, Clamped, Done, Plan, Recipe, Substitutes, Watch};
use meden_kernels::Pool;
use meden_report::{Align, Table, human};
use serde::Serialize;

use crate::cli::Global;
use crate::exit::Exit;
use crate::progress::{Bar, say};
use crate::{load, output, signals};

/// Write a model as GGUF in a smaller weight format. Vectors stay F32; the output matrix gets q6_k or q8_0.
///
/// Types, from many bits to few: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k, q5_1, q5_0, q4_k_m, q4_k, q4_1, q4_0,
/// iq4_nl, iq4_xs, q3_k, q2_k. Those that end in _m give more bits to the layers that matter most.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  meden quantize model-f16.gguf model-q4_k_m.gguf --type q4_k_m
  meden quantize path/to/hugging-face-folder model.gguf --type q8_0")]
pub struct Args {
    /// A .gguf file, a folder with safetensors, or a model's name
    #[arg(value_name = "IN")]
    input: String,
    /// The file to write
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Weight format of the matrices
    #[arg(long = "type", short, value_name = "TYPE")]
    recipe: Recipe,
    /// Replace OUT if it is there
    #[arg(long)]
    force: bool,
    /// Threads; 0 means one for each physical core this process may use
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

/// The one object of `meden quantize --json`.
#[derive(Serialize)]
struct Report<'a> {
    path: String,
    #[serde(rename = "type")]
    recipe: &'static str,
    weights: u64,
    bytes_before: u64,
    bytes_after: u64,
    bits_per_weight: f64,
    formats: Vec<Format>,
    substitutes: &'a Substitutes,
    quantized_before: usize,
    clamped: &'a Clamped,
    seconds: f64,
}

#[derive(Serialize)]
struct Format {
    name: &'static str,
    tensors: usize,
}

/// Runs the verb.
pub fn run(args: Args, global: Global) -> anyhow::Result<Exit> {
    let path = load::find(&args.input, global.quiet)?;
    let files = ModelFiles::open(&path)?;
    let plan = Plan::new(&files, args.recipe, export::additions(&files, &scratch(&args.out))?)?;
    let start = Instant::now();
    let mut bar = Bar::new(global.quiet);
    let mut show = |done: u64, total: u64| bar.bytes("quantising", done, total);
    let watch = Watch { progress: Some(&mut show), cancel: Some(signals::flag()) };
    let done = quantize::write(&plan, &args.out, args.force, &Pool::new(args.threads), watch)?;
    bar.clear();
    let report = Report {
        path: args.out.display().to_string(),
        recipe: args.recipe.name(),
        weights: plan.elements(),
        bytes_before: done.source_file_bytes,
        bytes_after: done.file_bytes,
        bits_per_weight: 8.0 * plan.bytes() as f64 / plan.elements().max(1) as f64,
        formats: plan.formats().into_iter().map(|(d, tensors)| Format { name: d.name(), tensors }).collect(),
        substitutes: plan.substitutes(),
        quantized_before: plan.requantized(),
        clamped: &done.clamped,
        seconds: start.elapsed().as_secs_f64(),
    };
    if global.json {
        output::object(&report)?;
        return Ok(Exit::Ok);
    }
    output::text(&table(&report, &done))?;
    if !global.quiet && !done.clamped.is_empty() {
        say(&format!("note: {}", done.clamped));
    }
    if !global.quiet && report.quantized_before > 0 {
        let many = human::count(report.quantized_before as u64);
        say(&format!("note: {many} tensors were quantised before; a file in f16 as input would lose less"));
    }
    Ok(Exit::Ok)
}

/// A hidden name beside the output.
fn scratch(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.{}.head", std::process::id()))
}

fn table(report: &Report<'_>, done: &Done) -> String {
    let mut table = Table::new(["", ""]).align(1, Align::Left);
    table.row(["file", &report.path]);
    let share = done.file_bytes as f64 / done.source_file_bytes.max(1) as f64;
    let (before, after) = (human::bytes(done.source_file_bytes), human::bytes(done.file_bytes));
    table.row(["size", &format!("{after} of {before} before ({})", human::percent(share))]);
    let bits = report.bits_per_weight;
    table.row(["bits a weight", &format!("{bits:.2} ({} weights)", human::count(report.weights))]);
    let formats: Vec<String> = report.formats.iter().map(|f| format!("{} {}", f.tensors, f.name)).collect();
    table.row(["tensors", &formats.join(", ")]);
    for row in report.substitutes.rows() {
        table.row(["fell back", &row.to_string()]);
    }
    table.row(["took", &human::duration(Duration::from_secs_f64(report.seconds))]);
    table.to_string()
}
