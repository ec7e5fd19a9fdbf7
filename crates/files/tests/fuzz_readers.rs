//! Random damage to good files: no reader may panic, or allocate by a number that a file claims.
//!
//! A bounded number of inputs from a fixed seed, so that a failure comes again. `MEDEN_FUZZ_SEED` and
//! `MEDEN_FUZZ_INPUTS` (for each reader) search elsewhere and longer.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;
mod fuzz;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use common::Folder;
use fuzz::Random;
use meden_files::ModelFiles;
use meden_files::hf::{Config, GenerationConfig, TokenizerConfig};
use meden_files::safetensors_file::Safetensors;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is no number: {v}")))
}

/// Inputs that a reader has taken and refused.
#[derive(Debug, Default)]
struct Count {
    taken: usize,
    refused: usize,
}

/// Lets `read` loose on mutated inputs.
fn fuzz(name: &str, make: fn(&mut Random) -> Vec<u8>, read: fn(&Path) -> bool) -> Count {
    let seed = setting("MEDEN_FUZZ_SEED", 20_261_124);
    let inputs = setting("MEDEN_FUZZ_INPUTS", 6_000);
    println!("{name}: seed {seed}, {inputs} inputs");
    let folder = Folder::in_memory();
    let mut count = Count::default();
    for i in 0..inputs {
        // Each input has a seed of its own: one that fails can be made again alone.
        let bytes = make(&mut Random::new(seed.wrapping_mul(1_000_003).wrapping_add(i)));
        let path = folder.put(name, &bytes);
        match catch_unwind(AssertUnwindSafe(|| read(&path))) {
            Ok(true) => count.taken += 1,
            Ok(false) => count.refused += 1,
            Err(_) => panic!("{name}: input {i} of seed {seed} made the reader panic; its bytes: {bytes:02x?}"),
        }
    }
    println!("{name}: {count:?}");
    count
}

fn read_gguf(path: &Path) -> bool {
    let Ok(model) = ModelFiles::open(path) else { return false };
    for t in model.tensors() {
        assert_eq!(model.read(t).expect("a tensor that was checked").len(), t.bytes);
        let _ = model.read_rows(t, 0..1);
        let _ = t.elements();
    }
    let gguf = model.gguf().expect("a GGUF");
    for (key, _) in gguf.metadata().iter() {
        let _ = (gguf.str(key).is_ok(), gguf.u32(key).is_ok(), gguf.f32(key).is_ok(), gguf.str_array(key).is_ok());
    }
    model.fingerprint().expect("of a file that opened");
    true
}

fn read_safetensors(path: &Path) -> bool {
    let Ok(file) = Safetensors::open(path) else { return false };
    for t in file.tensors() {
        assert_eq!(file.read(t).expect("a tensor that was checked").len(), t.bytes);
    }
    true
}

fn read_config(path: &Path) -> bool {
    let text = std::fs::read(path).expect("the file that was just written");
    let _ = serde_json::from_slice::<GenerationConfig>(&text).map(|g| g.eos_ids().len());
    let _ = serde_json::from_slice::<TokenizerConfig>(&text).map(|t| t.default_chat_template().is_some());
    let Ok(config) = Config::open(path) else { return false };
    let _ = (config.rope("full_attention"), config.rope("sliding_attention").kind().len(), config.eos_ids().len());
    true
}

/// Run by the test below, in a child with little memory: an allocation of a claimed size ends it.
#[test]
#[ignore = "run by no_damage_makes_a_reader_panic_or_swell"]
fn in_little_memory() {
    let counts = [
        fuzz("mutated.gguf", fuzz::gguf, read_gguf),
        fuzz("mutated.safetensors", fuzz::safetensors, read_safetensors),
        fuzz("config.json", fuzz::config, read_config),
    ];
    // A mutator that only makes rubbish, or none, would show nothing.
    for count in counts {
        assert!(count.taken * 100 > count.refused, "hardly an input was taken: {count:?}");
        assert!(count.refused * 10 > count.taken, "hardly an input was refused: {count:?}");
    }
}

#[cfg(unix)]
#[test]
fn no_damage_makes_a_reader_panic_or_swell() {
    assert!(common::passes_within(512, "in_little_memory"), "see above; 512 MB of address space are allowed");
}
