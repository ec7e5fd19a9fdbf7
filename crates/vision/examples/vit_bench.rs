//! Seconds of a forward pass: `vit_bench MODEL BATCH SIDE REPEATS [THREADS]`, one line a repeat. `benches/vision_compare.py`
//! runs it beside PyTorch.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use meden_vision::vit::{Vit, VitFiles};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(Ok(default), |a| a.parse());
    let (batch, side, repeats, threads) = (number(1, 8)?, number(2, 224)?, number(3, 5)?, number(4, 0)?);
    let model = Vit::load(&VitFiles::open(Path::new(args.first().ok_or("which model?")?))?, threads, None)?;
    let pixels: Vec<f32> = (0..batch * 3 * side * side).map(|i| (i * 7919 % 2001) as f32 / 1000.0 - 1.0).collect();
    model.hidden(&pixels, (side, side), None)?;
    for _ in 0..repeats {
        let start = Instant::now();
        let out = model.hidden(&pixels, (side, side), None)?;
        println!("{:.6} {}", start.elapsed().as_secs_f64(), out[0]);
    }
    Ok(())
}
