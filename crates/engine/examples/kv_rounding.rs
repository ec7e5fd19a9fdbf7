//! What rounding keys and values costs: the next token's loss, and the divergence of its distribution from that of an
//! exact cache. First the types that a cache can have, turned or not; then, with any third argument, layouts that have
//! no kernel, where a hook rounds keys and values on their way into an f32 cache. It is how the layout of q4 was chosen.
//!
//! `cargo run --release -p meden-engine --example kv_rounding -- FILE TOKENS [layouts]`

use meden_engine::hook::{Hook, Site, SiteVisit};
use meden_engine::text::Tokenizer;
use meden_engine::{Control, EngineError, KvRotation, KvTypes, LoadOptions, LogitRows, Model, Session, SessionOptions};
use meden_files::ModelFiles;
use meden_files::source::{self, ResolveOptions, Silent};
use meden_kernels::ops;
use std::sync::Arc;

/// Values that share a scale.
const GROUP: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rounding {
    /// 255 steps around zero.
    Eight,
    /// Sixteen steps around zero, the largest magnitude at the end of them.
    Symmetric,
    /// Sixteen steps from the least to the largest value.
    Affine,
    /// The same for each channel over 32 tokens (KIVI, arXiv 2402.02750).
    Channel,
}

fn f16(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

fn steps(group: &mut [f32], (least, step): (f32, f32), from: f32, to: f32) {
    let (least, step) = (f16(least), f16(step));
    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
    for x in group {
        *x = ((*x - least) * inverse).round_ties_even().clamp(from, to) * step + least;
    }
}

fn round(group: &mut [f32], how: Rounding) {
    let peak = group.iter().copied().fold(0f32, |m, x| if x.abs() > m.abs() { x } else { m });
    let least = group.iter().copied().fold(f32::INFINITY, f32::min);
    let most = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    match how {
        Rounding::Eight => steps(group, (0.0, peak.abs() / 127.0), -127.0, 127.0),
        Rounding::Symmetric => steps(group, (0.0, peak / -8.0), -8.0, 7.0),
        Rounding::Affine | Rounding::Channel => steps(group, (least, (most - least) / 15.0), 0.0, 15.0),
    }
}

struct Rounder {
    key: Rounding,
    value: Rounding,
    turn: bool,
    dim: usize,
}

impl Hook for Rounder {
    fn name(&self) -> &str {
        "rounder"
    }

    fn wants(&self, site: Site, _: usize) -> bool {
        matches!(site, Site::KRot | Site::V)
    }

    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        let how = if visit.site == Site::KRot { self.key } else { self.value };
        let turn = |rows: &mut [f32]| {
            if self.turn {
                rows.chunks_exact_mut(self.dim).for_each(ops::hadamard_row);
            }
        };
        turn(visit.rows);
        if how == Rounding::Channel {
            for tokens in visit.rows.chunks_mut(GROUP * visit.width) {
                for channel in 0..visit.width {
                    let mut column: Vec<f32> = tokens.iter().skip(channel).step_by(visit.width).copied().collect();
                    round(&mut column, how);
                    let to = tokens.iter_mut().skip(channel).step_by(visit.width);
                    to.zip(column).for_each(|(to, x)| *to = x);
                }
            }
        } else {
            visit.rows.chunks_exact_mut(self.dim).flat_map(|r| r.chunks_mut(GROUP)).for_each(|group| round(group, how));
        }
        turn(visit.rows);
        Ok(())
    }
}

/// Log-probabilities of each row, and the mean loss of the next token.
fn read(
    model: &Arc<Model>,
    ids: &[u32],
    options: SessionOptions,
    rounder: Option<&mut Rounder>,
) -> Result<(Vec<Vec<f32>>, f64), EngineError> {
    let mut session = Session::new(model.clone(), options)?;
    let (mut rows, mut loss) = (Vec::new(), 0.0);
    let hooks = rounder.into_iter().map(|r| r as &mut dyn Hook).collect();
    let mut control = Control { hooks, ..Control::default() };
    session.score(ids, LogitRows::All, &mut control, &mut |row, logits| {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
        let logs: Vec<f32> = logits.iter().map(|x| x - most - total.ln() as f32).collect();
        if let Some(&next) = ids.get(row + 1) {
            loss -= f64::from(logs[next as usize]);
            rows.push(logs);
        }
        Ok(())
    })?;
    let count = rows.len();
    Ok((rows, loss / count.max(1) as f64))
}

/// Mean Kullback-Leibler divergence of `rows` from `exact`.
fn divergence(exact: &[Vec<f32>], rows: &[Vec<f32>]) -> f64 {
    let one =
        |(p, q): (&Vec<f32>, &Vec<f32>)| -> f64 { p.iter().zip(q).map(|(p, q)| f64::from(p.exp() * (p - q))).sum() };
    exact.iter().zip(rows).map(one).sum::<f64>() / rows.len().max(1) as f64
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let file = args.next().ok_or("which text? kv_rounding FILE TOKENS [layouts]")?;
    let tokens: usize = args.next().ok_or("how many tokens? kv_rounding FILE TOKENS [layouts]")?.parse()?;
    let files = ModelFiles::open(&source::resolve(source::DEFAULT, &ResolveOptions::from_env(), &mut Silent)?)?;
    let model = Model::load(&files, &LoadOptions::default())?;
    let mut ids = Tokenizer::load(&files)?.encode(&std::fs::read_to_string(file)?, true)?;
    ids.truncate(tokens);
    let dim = model.config().head_dim;
    let f32_cache = || SessionOptions { kv_type: KvTypes::F32, ..SessionOptions::default() };
    let (exact, loss) = read(&model, &ids, f32_cache(), None)?;
    println!("{} tokens, f32 cache: loss {loss:.4}", ids.len());
    println!("{:20} {:7} {:>8} {:>10}", "keys/values", "turned", "loss", "divergence");
    for kv_rotate in [None, Some(KvRotation::Hadamard)] {
        for kv_type in [KvTypes::F16, KvTypes::Q8, KvTypes::Q8_Q4, KvTypes::Q4C_Q8, KvTypes::Q4C_Q4, KvTypes::Q4] {
            let options = SessionOptions { kv_type, kv_rotate, ..SessionOptions::default() };
            let (rows, loss) = read(&model, &ids, options, None)?;
            let (name, turn) = (kv_type.to_string(), kv_rotate.is_some());
            println!("{name:20} {turn:<7} {loss:8.4} {:10.5}", divergence(&exact, &rows));
        }
    }
    if args.next().is_none() {
        return Ok(());
    }
    use Rounding::*;
    for turn in [false, true] {
        for (key, value) in [
            (Eight, Eight),
            (Symmetric, Symmetric),
            (Affine, Affine),
            (Eight, Symmetric),
            (Eight, Affine),
            (Channel, Eight),
            (Channel, Affine),
        ] {
            let (rows, loss) = read(&model, &ids, f32_cache(), Some(&mut Rounder { key, value, turn, dim }))?;
            let name = format!("{key:?}/{value:?}").to_lowercase();
            println!("{name:20} {turn:<7} {loss:8.4} {:10.5}", divergence(&exact, &rows));
        }
    }
    Ok(())
}
