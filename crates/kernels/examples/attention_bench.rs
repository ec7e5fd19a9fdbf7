//! How fast attention is: bytes a second when decoding, operations a second when prefilling.
//!
//! `cargo run --release -p meden-kernels --example attention_bench [-- decode|prefill|columns]`. Each figure is the best of
//! several runs, because other work on the machine can only make a run slower. Decoding visits many layers in turn, so
//! that it reads from memory and not from the processor's own caches.

use meden_kernels::attention::{
    AttendInput, AttendParams, AttendScratch, Columns, HeadView, KvType, PageLayout, Reduce,
};
use meden_kernels::attention::{attend, attend_lse, attention_columns};
use meden_kernels::isa::Isa;
use meden_kernels::mem::{PageBuf, Slab};
use meden_kernels::pool::Pool;
use std::time::{Duration, Instant};

/// Shapes of a model's attention.
#[derive(Clone, Copy)]
struct Model {
    name: &'static str,
    q_heads: usize,
    kv_heads: usize,
    dim: usize,
}

const MODELS: [Model; 4] = [
    Model { name: "9 over 3 heads, d 64", q_heads: 9, kv_heads: 3, dim: 64 },
    Model { name: "32 over 8 heads, d 128", q_heads: 32, kv_heads: 8, dim: 128 },
    Model { name: "4 over 1 head, d 256", q_heads: 4, kv_heads: 1, dim: 256 },
    Model { name: "16 over 16 heads, d 96", q_heads: 16, kv_heads: 16, dim: 96 },
];

/// One layer's cache: (kv_heads, slots).
struct Layer {
    layout: PageLayout,
    pages: Vec<Vec<PageBuf>>,
    positions: Vec<u32>,
}

impl Layer {
    fn new(model: &Model, kind: KvType, slots: usize) -> Layer {
        let layout = PageLayout::new(model.dim, model.dim, kind, kind);
        let slab = Slab::new(layout.page_bytes());
        let mut noise = 1u32;
        let mut row = vec![0.0; model.dim];
        let pages = (0..model.kv_heads).map(|_| {
            let mut pages: Vec<PageBuf> = (0..layout.pages_for(slots)).map(|_| slab.alloc()).collect();
            for slot in 0..slots {
                for x in &mut row {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *x = (noise >> 8) as f32 / (1 << 23) as f32 - 1.0;
                }
                layout.write(&mut pages[slot / layout.tokens()], slot % layout.tokens(), &row, &row);
            }
            pages
        });
        Layer { layout, pages: pages.collect(), positions: (0..slots as u32).collect() }
    }
}

/// What is asked of a cache.
#[derive(Clone, Copy, PartialEq)]
enum What {
    Attend,
    Lse,
    Columns,
}

/// Queries at the end of a cache, and what they need.
struct Work {
    what: What,
    pool: Pool,
    m: usize,
    runs: usize,
}

/// Seconds a layer takes: the best of several runs for each layer, averaged over the layers, which are visited in turn.
fn seconds(work: &Work, model: &Model, layers: &[Layer]) -> f64 {
    let (m, slots) = (work.m, layers[0].positions.len());
    let q: Vec<f32> = (0..m * model.q_heads * model.dim).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let q_positions: Vec<u32> = (slots - m..slots).map(|p| p as u32).collect();
    let mut out = vec![0.0; m * model.q_heads * model.dim];
    let mut lse = vec![10.0; m * model.q_heads];
    let mut mass = vec![vec![0.0; slots]; model.q_heads];
    let mut scratch = AttendScratch::default();
    let params = AttendParams { scale: 1.0 / (model.dim as f32).sqrt(), softcap: None, window: None };
    let pages: Vec<Vec<Vec<&[u8]>>> =
        layers.iter().map(|l| l.pages.iter().map(|head| head.iter().map(|p| &**p).collect()).collect()).collect();
    let mut best = vec![Duration::MAX; layers.len()];
    for _ in 0..work.runs {
        for ((layer, pages), best) in layers.iter().zip(&pages).zip(&mut best) {
            let view = |pages| HeadView { layout: layer.layout, pages, positions: &layer.positions, starts: &[] };
            let heads: Vec<HeadView> = pages.iter().map(|p| view(p)).collect();
            let input = AttendInput { q: &q, q_positions: &q_positions, q_heads: model.q_heads, heads: &heads, params };
            let start = Instant::now();
            let (pool, isa) = (&work.pool, Isa::best());
            let done = match work.what {
                What::Attend => attend(pool, isa, &input, &mut out, None, &mut scratch),
                What::Lse => attend_lse(pool, isa, &input, &mut lse, &mut scratch),
                What::Columns => {
                    let columns = Columns { input: &input, lse: &lse, weights: None, reduce: Reduce::Sum };
                    attention_columns(pool, isa, &columns, &mut mass, &mut scratch)
                }
            };
            done.expect("shapes fit");
            *best = start.elapsed().min(*best);
        }
    }
    best.iter().sum::<Duration>().as_secs_f64() / layers.len() as f64
}

fn decode() {
    println!("decode, one query: GB/s of stored keys and values (microseconds a layer)");
    for model in &MODELS {
        for kind in KvType::ALL {
            for slots in [256, 1024, 8192] {
                let token = PageLayout::new(model.dim, model.dim, kind, kind).token_bytes();
                let bytes = token * slots * model.kv_heads;
                let layers: Vec<Layer> =
                    (0..(160 << 20) / bytes.max(4 << 20) + 1).map(|_| Layer::new(model, kind, slots)).collect();
                print!("{:24} {kind:4} {slots:6} slots", model.name);
                for threads in [1, 2] {
                    let time =
                        seconds(&Work { what: What::Attend, pool: Pool::new(threads), m: 1, runs: 9 }, model, &layers);
                    print!("   {threads} thr {:6.1} ({:7.1})", bytes as f64 / time / 1e9, time * 1e6);
                }
                println!();
            }
        }
    }
}

fn prefill() {
    println!("prefill: GFLOP/s, counting 4 d for each visible pair");
    for model in &MODELS {
        for (m, slots) in [(16, 2048), (64, 2048), (512, 512), (512, 2048), (512, 8192)] {
            for kind in KvType::ALL {
                let layers = [Layer::new(model, kind, slots)];
                let pairs = m as f64 * (slots as f64 - (m as f64 - 1.0) / 2.0) * model.q_heads as f64;
                print!("{:24} {kind:4} m {m:4} n {slots:5}", model.name);
                for threads in [1, 2] {
                    let time =
                        seconds(&Work { what: What::Attend, pool: Pool::new(threads), m, runs: 5 }, model, &layers);
                    print!("   {threads} thr {:6.1}", 4.0 * model.dim as f64 * pairs / time / 1e9);
                }
                println!();
            }
        }
    }
}

/// The mass of each column, beside the attention that had to come before it.
fn columns() {
    println!("milliseconds a layer, one thread: attention, its lse alone, mass by column");
    for model in &MODELS[..3] {
        for (m, slots) in [(1, 8192), (4, 8192), (32, 8192), (512, 512), (512, 4096)] {
            for kind in KvType::ALL {
                let layers = [Layer::new(model, kind, slots)];
                print!("{:24} {kind:4} m {m:4} n {slots:5}", model.name);
                for what in [What::Attend, What::Lse, What::Columns] {
                    let time = seconds(&Work { what, pool: Pool::new(1), m, runs: 5 }, model, &layers);
                    print!(" {:9.3}", time * 1e3);
                }
                println!();
            }
        }
    }
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("decode") => decode(),
        Some("prefill") => prefill(),
        Some("columns") => columns(),
        _ => {
            decode();
            prefill();
            columns();
        }
    }
}
