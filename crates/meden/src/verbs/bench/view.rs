//! What the figures look like: a table for people, a list of objects for programs.

use std::path::Path;

use meden_engine::{KvRotation, ReadPolicy, WeightMode};
use meden_files::quantize::Recipe;
use meden_kernels::limits::Limits;
use meden_report::{Align, Table, human};
use meden_stats::quantile;
use serde::Serialize;

use super::case::Measured;
use super::grid::{Case, Test};
use crate::summary::bytes_or_dash;

/// One object of `--json`.
#[derive(Serialize)]
pub struct Row {
    /// The file or folder without its path.
    pub model: String,
    /// How weights are held.
    pub weights: WeightMode,
    /// Into which formats weights were quantised while loading.
    pub quantize: Option<Recipe>,
    /// Press and budget as written, or none.
    pub press: String,
    /// When the press acts.
    pub schedule: Option<String>,
    /// Element type of the cache.
    pub kv: String,
    /// How its keys and values are turned before they are stored.
    pub kv_rotate: Option<KvRotation>,
    /// What written tokens read of it, as written; absent for all of it.
    pub read: Option<String>,
    /// For the table: type, rotation and reading together.
    #[serde(skip)]
    cache: String,
    /// Threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: String,
    /// "prompt" or "gen".
    pub test: Test,
    /// Tokens timed, for each session of a batch.
    pub n: usize,
    /// Tokens in the cache before.
    pub depth: usize,
    /// Sessions that go forward together.
    pub batch: usize,
    /// Timed runs.
    pub repeat: usize,
    /// Median over runs, all sessions together.
    pub tokens_per_second: f64,
    /// Slowest run.
    pub tokens_per_second_min: f64,
    /// Fastest run.
    pub tokens_per_second_max: f64,
    /// Seconds to open the files and read the weights.
    pub load_seconds: f64,
    /// Weights as they are held.
    pub weight_bytes: u64,
    /// Weights and cache that one decoded token reads; absent for prompts, whose tokens share a read.
    pub bytes_a_token: Option<u64>,
    /// Reading bandwidth measured just before, with as many threads.
    pub bandwidth_bytes_per_second: f64,
    /// The share of it that decoding used.
    pub bandwidth_share: Option<f64>,
    /// Cache at the end, all sessions.
    pub kv_bytes: u64,
    /// What it would be without a press.
    pub kv_dense_bytes: u64,
    /// Bytes of the cache that a written token read, all sessions; absent where it read all of it.
    pub kv_read_bytes: Option<u64>,
    /// Slots kept, averaged over layers and heads.
    pub kept_tokens_mean: f64,
    /// Most bytes of the measuring process in memory at once, loading included.
    pub peak_rss_bytes: Option<u64>,
    /// What the cache had to say.
    pub notes: Vec<String>,
}

impl Row {
    /// The figures of one case.
    pub fn new(case: &Case, measured: Measured, limits: &Limits) -> Row {
        let tokens = (case.n * case.batch) as f64;
        let rates: Vec<f64> = measured.seconds.iter().map(|s| tokens / s.max(1e-9)).collect();
        let rate = quantile::median(&rates).unwrap_or(0.0);
        let kv_read = measured.kv_read_bytes.unwrap_or(measured.kv_bytes);
        let bytes_a_token =
            (case.test == Test::Gen).then(|| (measured.weight_bytes_a_token + kv_read) / case.batch as u64);
        let share = bytes_a_token.map(|bytes| bytes as f64 * rate / limits.read_bytes_per_second);
        Row {
            model: Path::new(&case.model.model).file_name().unwrap_or_default().to_string_lossy().into_owned(),
            weights: case.model.weights,
            quantize: case.model.quantize,
            press: case.press.clone(),
            schedule: case.policy.as_ref().map(|p| p.schedule.to_string()),
            kv: case.kv.to_string(),
            kv_rotate: case.kv_rotate,
            read: case.read.as_ref().map(ReadPolicy::to_string),
            cache: case.cache_name(),
            threads: measured.threads,
            isa: measured.isa,
            test: case.test,
            n: case.n,
            depth: case.depth,
            batch: case.batch,
            repeat: case.repeat,
            tokens_per_second: rate,
            tokens_per_second_min: rates.iter().copied().fold(f64::INFINITY, f64::min),
            tokens_per_second_max: rates.iter().copied().fold(0.0, f64::max),
            load_seconds: measured.load_seconds,
            weight_bytes: measured.weight_bytes,
            bytes_a_token,
            bandwidth_bytes_per_second: limits.read_bytes_per_second,
            bandwidth_share: share,
            kv_bytes: measured.kv_bytes,
            kv_dense_bytes: measured.kv_dense_bytes,
            kv_read_bytes: measured.kv_read_bytes,
            kept_tokens_mean: measured.kept_tokens_mean,
            peak_rss_bytes: measured.peak_rss_bytes,
            notes: measured.notes,
        }
    }

    fn test_name(&self) -> String {
        let test = if self.test == Test::Prompt { "prompt" } else { "gen" };
        let depth = if self.depth > 0 { format!(" @ {}", self.depth) } else { String::new() };
        let batch = if self.batch > 1 { format!(" x {}", self.batch) } else { String::new() };
        format!("{test} {}{depth}{batch}", self.n)
    }
}

/// All rows as a table.
pub fn table(rows: &[Row]) -> String {
    let header = [
        "model",
        "press",
        "kv",
        "threads",
        "test",
        "tokens/s",
        "min to max",
        "bytes/token",
        "of bandwidth",
        "cache",
        "peak",
    ];
    let mut table = Table::new(header).align(1, Align::Left).align(2, Align::Left).align(4, Align::Left);
    let rate = human::three_digits;
    for row in rows {
        table.row([
            row.model.clone(),
            row.press.clone(),
            row.cache.clone(),
            row.threads.to_string(),
            row.test_name(),
            rate(row.tokens_per_second),
            format!("{} to {}", rate(row.tokens_per_second_min), rate(row.tokens_per_second_max)),
            row.bytes_a_token.map_or("-".to_owned(), human::bytes),
            row.bandwidth_share.map_or("-".to_owned(), human::percent),
            human::bytes(row.kv_bytes),
            bytes_or_dash(row.peak_rss_bytes),
        ]);
    }
    format!("{table}\n")
}

/// What the machine could do, as a table.
pub fn limits_table(isa: &str, limits: &[Limits]) -> String {
    let mut table = Table::new(["threads", "memory read", "f32 multiply-add", "int8 multiply-add"]);
    for l in limits {
        table.row([
            l.threads.to_string(),
            format!("{} GB/s", human::three_digits(l.read_bytes_per_second / 1e9)),
            format!("{} GFLOP/s", human::three_digits(l.f32_ops_per_second / 1e9)),
            format!("{} GOP/s", human::three_digits(l.int8_ops_per_second / 1e9)),
        ]);
    }
    format!("instruction set {isa}\n\n{table}\n")
}
