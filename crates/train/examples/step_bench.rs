//! Seconds of a training step: `step_bench MODEL BATCH SIDE STEPS THREADS METHOD [bits]`, one line a step, then what was kept
//! and the peak of the process. METHOD: full, probe, alast0 (ALaST with alpha 0), alast (adaptive), tokens (all blocks
//! trained, patches dropped). With `bits` a hash of all weights after the last step is printed, to be compared between
//! runs. `benches/vision_compare.py --train` runs it beside PyTorch.

use std::error::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::Instant;

use meden_kernels::{Isa, Pool};
use meden_train::vision::alast::{AlastOptions, Alpha, Layers};
use meden_train::vision::{Method, Network, Trainer, TrainerOptions, fresh_head, tuned_config};
use meden_vision::vit::VitFiles;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, batch, side, steps, threads, method, rest @ ..] = args.as_slice() else {
        return Err("step_bench MODEL BATCH SIDE STEPS THREADS METHOD [bits]".into());
    };
    let (batch, side, steps): (usize, usize, usize) = (batch.parse()?, side.parse()?, steps.parse()?);
    let still = AlastOptions { alpha: Alpha::Fixed(0.0), ..AlastOptions::default() };
    let method = match method.as_str() {
        "full" => Method::Full,
        "probe" => Method::Probe,
        "alast" => Method::Alast(AlastOptions::default()),
        "alast0" => Method::Alast(still),
        "tokens" => Method::Alast(AlastOptions { layers: Layers::All, ..still }),
        other => return Err(format!("{other}: no such method").into()),
    };
    let files = VitFiles::open(Path::new(model))?;
    let classes: Vec<String> = (0..10).map(|i| i.to_string()).collect();
    let config = tuned_config(&files.config, &classes)?;
    let mut params = files.params()?;
    fresh_head(&config, &mut params, 1);
    let network = Network::new(config, params, Pool::new(threads.parse()?), Isa::best())?;
    let options = TrainerOptions { method, seed: 1, ..TrainerOptions::default() };
    let mut trainer = Trainer::new(network, options)?;
    let pixels: Vec<f32> = (0..batch * 3 * side * side).map(|i| (i * 7919 % 2001) as f32 / 1000.0 - 1.0).collect();
    let labels: Vec<usize> = (0..batch).map(|i| i % classes.len()).collect();
    let mut kept = 0;
    for _ in 0..steps {
        let start = Instant::now();
        let report = trainer.step((&pixels, (side, side)), &labels, 1e-5)?;
        println!("{:.6} {:.6} {:.3}", start.elapsed().as_secs_f64(), report.loss, report.flops.total() as f64 / 1e9);
        kept = kept.max(report.activation_bytes);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("-").trim().to_owned();
    eprintln!("activations kept {:.1} MB, process peak {peak}", kept as f64 / 1e6);
    if rest.first().is_some_and(|r| r == "bits") {
        let mut hash = DefaultHasher::new();
        for (_, values) in trainer.network.params.iter() {
            values.iter().for_each(|v| v.to_bits().hash(&mut hash));
        }
        println!("bits {:016x}", hash.finish());
    }
    Ok(())
}
