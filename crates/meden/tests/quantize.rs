//! `meden quantize` and `--quantize` with the real binary.

mod common;

use std::fs;
use std::path::Path;

use common::{default_model, run, scratch, shared};
use meden_files::gguf::Gguf;
use meden_kernels::{DType, weights};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_folder_becomes_a_file_that_runs_and_says_what_it_holds() {
    let Some(model) = shared("oracle/tiny/llama") else { return };
    let out = scratch("quantize-folder").join("tiny.gguf");
    let said = run(["quantize", text(&model), text(&out), "--type", "q4_k_m", "--json"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    let report = said.json();
    assert_eq!(report["type"], "q4_k_m");
    assert_eq!(report["bytes_after"], fs::metadata(&out).expect("written").len());
    assert!(report["bytes_before"].as_u64() > report["bytes_after"].as_u64());
    assert!(report["substitutes"][0]["tensors"].as_u64() > Some(0), "{report}");
    let wrote = |args: &[&str]| {
        let said = run(args.iter().copied().chain(["--ids", "5,6,7", "-n", "6", "--json"]));
        assert_eq!(said.code, 0, "{}", said.err);
        (said.json()["ids"].clone(), said.err)
    };
    let (from_file, notes) = wrote(&["run", "-m", text(&out)]);
    assert_eq!(notes, "");
    let (at_load, notes) = wrote(&["run", "-m", text(&model), "--quantize", "q4_k_m"]);
    assert_eq!(from_file, at_load);
    assert!(notes.contains("note: ") && notes.contains("instead of"), "{notes}");
}

#[test]
fn refusals_say_what_to_do_and_touch_nothing() {
    let Some(model) = shared("oracle/tiny/llama") else { return };
    let folder = scratch("quantize-refusals");
    let out = folder.join("tiny.gguf");
    let quantize =
        |from: &Path, more: &[&str]| run(["quantize", text(from), text(&out)].into_iter().chain(more.iter().copied()));
    let said = quantize(&model, &["--type", "q9_k"]);
    assert_eq!(said.code, 2);
    assert!(said.complaint().contains("q4_k_m"), "{}", said.err);
    assert_eq!(quantize(&model, &["--type", "q8_0", "-q"]).code, 0);
    let before = fs::read(&out).expect("written");
    let said = quantize(&model, &["--type", "q4_0"]);
    assert_eq!(said.code, 2);
    assert!(said.complaint().contains("--force"), "{}", said.err);
    let said = quantize(&out, &["--type", "q4_0", "--force"]);
    assert_eq!(said.code, 2);
    assert!(said.complaint().contains("tiny.gguf"), "{}", said.err);
    assert_eq!(fs::read(&out).expect("still there"), before);
    let said = quantize(&model, &["--type", "q4_0", "--force"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("bits a weight") && fs::read(&out).expect("written") != before);
    assert_eq!(fs::read_dir(&folder).expect("readable").count(), 1, "no temporary file is left");
    let said = run(["run", "-m", text(&model), "--ids", "5", "--quantize", "q8_0", "--weights", "f32"]);
    assert_eq!(said.code, 2);
    assert!(said.complaint().contains("native"), "{}", said.err);
}

#[test]
fn values_that_were_held_at_the_end_of_a_format_are_told_in_one_line() {
    let Some(model) = shared("oracle/tiny/llama") else { return };
    let folder = scratch("quantize-beyond");
    for file in ["config.json", "model.safetensors"] {
        fs::write(folder.join(file), fs::read(model.join(file)).expect("readable")).expect("written");
    }
    let files = meden_files::ModelFiles::open(&folder).expect("a model");
    let name = "model.layers.0.mlp.down_proj.weight";
    let (file, offset) = files.location(files.require(name).expect("a weight"));
    let mut bytes = fs::read(file).expect("readable");
    for at in [0, 4 * 300] {
        bytes[offset as usize + at..][..4].copy_from_slice(&1e20f32.to_le_bytes());
    }
    fs::write(file, bytes).expect("written");
    let quantize = |more: &[&str]| {
        let out = folder.join("out.gguf");
        run(["quantize", text(&folder), text(&out), "--type", "f16", "--force"].into_iter().chain(more.iter().copied()))
    };
    let said = quantize(&[]);
    let lines: Vec<&str> = said.err.lines().filter(|line| line.contains("beyond")).collect();
    assert_eq!(lines.len(), 1, "{}", said.err);
    assert!(lines[0].starts_with("note: 2 values of 1 tensor") && lines[0].contains(name), "{}", said.err);
    let report = quantize(&["--json", "-q"]).json();
    assert_eq!(report["clamped"], serde_json::json!([{"tensor": name, "format": "F16", "values": 2}]));
    let said = run(["run", "-m", text(&folder), "--ids", "5,6", "-n", "1", "--quantize", "f16"]);
    assert!(said.err.contains("note: 2 values of 1 tensor"), "{}", said.err);
    let said = run(["quantize", text(&model), text(&folder.join("good.gguf")), "--type", "f16"]);
    assert!(said.code == 0 && !said.err.contains("beyond"), "{}", said.err);
}

/// Tensor data against the kernels' own rounding, which is held against the reference in their tests.
#[test]
fn the_default_model_is_rewritten_tensor_by_tensor_and_still_predicts() {
    let Some(model) = default_model() else { return };
    let out = scratch("quantize-default").join("smollm2.gguf");
    let source = Gguf::open(model).expect("readable");
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let perplexity = |model: &Path| {
        let said = run(["eval", "perplexity", "-m", text(model), "-f", readme, "--max-tokens", "600", "--json"]);
        said.json()["perplexity"].as_f64().expect("a number")
    };
    let before = perplexity(model);
    for (recipe, most) in [("q4_0", 1.25), ("q8_0", 1.02)] {
        let said = run(["quantize", text(model), text(&out), "--type", recipe, "--force"]);
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.err.contains("were quantised before"), "{}", said.err);
        let made = Gguf::open(&out).expect("readable");
        let base = DType::from_name(recipe).expect("a format");
        for (old, new) in source.tensors().iter().zip(made.tensors()) {
            assert_eq!((&old.name, &old.shape), (&new.name, &new.shape));
            let vector = old.shape.len() < 2;
            let wanted = if vector { DType::F32 } else { base };
            // the tied embedding keeps more bits
            assert!(new.dtype == wanted || old.name == "token_embd.weight" && new.dtype == DType::Q8_0);
            let mut values = vec![0.0; old.elements()];
            weights::dequantize(old.dtype, &source.read(old).expect("data"), &mut values).expect("lengths");
            let mut bytes = vec![0; new.bytes];
            weights::quantize(new.dtype, &values, &mut bytes).expect("finite");
            assert!(old.dtype == new.dtype || made.read(new).expect("data") == bytes, "{recipe} {}", old.name);
        }
        let after = perplexity(&out);
        assert!(after < most * before && after > 0.9 * before, "{recipe}: {before} became {after}");
    }
}
