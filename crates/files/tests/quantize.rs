//! Quantising whole files: what is carried over, what is refused, what is left behind when it stops.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use meden_files::ModelFiles;
use meden_files::gguf::{Gguf, GgufStream, GgufWriter, TensorHead, Value};
use meden_files::quantize::{Additions, Plan, QuantizeError, Recipe, Watch, write};
use meden_kernels::{DType, Pool, weights};

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("meden-quantize-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn values(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Two layers, tied; rows of 256, of 96 and of 20.
fn model(path: &Path, bad: Option<f32>) {
    let mut file = GgufWriter::new()
        .meta("general.architecture", "llama")
        .meta("general.name", "probe")
        .meta("general.alignment", 64u32)
        .meta("general.file_type", 0u32)
        .meta("llama.odd", vec![1i64, -2])
        .tensor("token_embd.weight", DType::F32, &[70, 256], bytes(&values(1, 70 * 256)))
        .tensor("output_norm.weight", DType::F32, &[256], bytes(&values(2, 256)));
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let mut up = values(3 + layer, 96 * 256);
        if let Some(bad) = bad.filter(|_| layer == 1) {
            up[5 * 256 + 17] = bad;
        }
        file = file
            .tensor(&name("attn_norm"), DType::F16, &[256], weights::quantize_f16(&values(4, 256)))
            .tensor(&name("ffn_up"), DType::F32, &[96, 256], bytes(&up))
            .tensor(&name("ffn_down"), DType::BF16, &[256, 96], weights::quantize_bf16(&values(5, 256 * 96)))
            .tensor(&name("attn_v"), DType::F32, &[3, 20], bytes(&values(6, 60)));
    }
    file.write(path).unwrap();
}

fn run(from: &Path, to: &Path, recipe: &str, force: bool) -> Result<(), QuantizeError> {
    let files = ModelFiles::open(from)?;
    let plan = Plan::new(&files, recipe.parse()?, Additions::default())?;
    write(&plan, to, force, &Pool::new(2), Watch::default()).map(|_| ())
}

#[test]
fn every_recipe_writes_what_it_says_and_carries_the_metadata_over() {
    let folder = folder("recipes");
    let (from, to) = (folder.join("in.gguf"), folder.join("out.gguf"));
    model(&from, None);
    let source = Gguf::open(&from).unwrap();
    for recipe in Recipe::all() {
        run(&from, &to, recipe.name(), true).unwrap();
        let made = Gguf::open(&to).unwrap();
        assert_eq!(made.alignment(), 64);
        assert_eq!(made.u32("general.file_type").unwrap(), recipe.file_type());
        assert_eq!(made.u32("general.quantization_version").unwrap(), 2);
        assert_eq!(made.metadata().get("llama.odd"), Some(&Value::from(vec![1i64, -2])));
        assert_eq!(made.str("general.name").unwrap(), "probe");
        let names = |g: &Gguf| g.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect::<Vec<_>>();
        assert_eq!(names(&made), names(&source));
        for (old, new) in source.tensors().iter().zip(made.tensors()) {
            let mut wanted = vec![0.0; old.elements()];
            weights::dequantize(old.dtype, &source.read(old).unwrap(), &mut wanted).unwrap();
            let mut expected = vec![0; new.bytes];
            weights::quantize(new.dtype, &wanted, &mut expected).unwrap();
            assert_eq!(made.read(new).unwrap(), expected, "{recipe} {}", new.name);
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn substitutes_and_second_rounding_are_counted() {
    let folder = folder("counts");
    let (from, to) = (folder.join("in.gguf"), folder.join("out.gguf"));
    model(&from, None);
    run(&from, &to, "q4_k", false).unwrap();
    let files = ModelFiles::open(&to).unwrap();
    let plan = Plan::new(&files, "q6_k".parse().unwrap(), Additions::default()).unwrap();
    let rows: Vec<String> = plan.substitutes().rows().iter().map(ToString::to_string).collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows[0].starts_with("2 tensors in Q8_0 instead of Q6_K"), "{rows:?}");
    assert!(rows[1].starts_with("2 tensors in F16 instead of Q6_K"), "{rows:?}");
    // the embedding is Q6_K already and is copied
    assert_eq!(plan.requantized(), 4);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_value_that_is_no_number_is_named_with_its_tensor_and_index_and_leaves_no_file() {
    let folder = folder("bad");
    let (from, to) = (folder.join("in.gguf"), folder.join("out.gguf"));
    model(&from, Some(f32::NAN));
    let error = run(&from, &to, "q4_k", false).unwrap_err().to_string();
    assert!(error.contains("blk.1.ffn_up.weight") || error.contains("layers.1.mlp.up_proj"), "{error}");
    assert!(error.contains(&(5 * 256 + 17).to_string()) && error.contains("NaN"), "{error}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "only the input is left");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_scale_that_is_no_number_is_found_in_a_tensor_that_would_be_copied() {
    let folder = folder("copied");
    let (from, mid, to) = (folder.join("in.gguf"), folder.join("mid.gguf"), folder.join("out.gguf"));
    model(&from, None);
    run(&from, &mid, "q8_0", false).unwrap();
    let gguf = Gguf::open(&mid).unwrap();
    let tensor = gguf.tensor("blk.1.ffn_up.weight").unwrap();
    assert_eq!(tensor.dtype, DType::Q8_0);
    let mut bytes = std::fs::read(&mid).unwrap();
    // the scale (f16) of the third block of the sixth row becomes NaN
    let at = tensor.offset() as usize + 5 * DType::Q8_0.row_bytes(256).unwrap() + 2 * 34;
    bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    std::fs::write(&mid, bytes).unwrap();
    let error = run(&mid, &to, "q8_0", false).unwrap_err();
    assert!(matches!(error, QuantizeError::Tensor { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("up") && text.contains(&(5 * 256 + 64).to_string()), "{text}");
    assert!(!to.exists());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn values_that_a_format_cannot_hold_are_counted_by_tensor() {
    let folder = folder("beyond");
    let (from, to) = (folder.join("in.gguf"), folder.join("out.gguf"));
    model(&from, Some(1e30));
    let files = ModelFiles::open(&from).unwrap();
    for (recipe, beyond) in [("f32", 0), ("bf16", 0), ("f16", 1), ("q8_0", 1), ("q4_k", 1), ("iq4_xs", 1)] {
        let plan = Plan::new(&files, recipe.parse().unwrap(), Additions::default()).unwrap();
        let done = write(&plan, &to, true, &Pool::new(2), Watch::default()).unwrap();
        assert_eq!(done.clamped.values(), beyond, "{recipe}: {:?}", done.clamped);
        if beyond > 0 {
            let [row] = done.clamped.rows() else { panic!("one tensor: {:?}", done.clamped) };
            assert!(row.tensor.contains("1") && row.tensor.contains("up"), "{row:?}");
            assert!(done.clamped.to_string().contains(&row.tensor), "{}", done.clamped);
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn outputs_that_are_there_or_are_the_input_are_refused() {
    let folder = folder("targets");
    let (from, to) = (folder.join("in.gguf"), folder.join("out.gguf"));
    model(&from, None);
    std::fs::write(&to, b"precious").unwrap();
    assert!(matches!(run(&from, &to, "q8_0", false), Err(QuantizeError::Exists { .. })));
    assert_eq!(std::fs::read(&to).unwrap(), b"precious");
    let detour = folder.join("..").join(folder.file_name().unwrap()).join("in.gguf");
    for target in [&from, &detour] {
        assert!(matches!(run(&from, target, "q8_0", true), Err(QuantizeError::SameFile { .. })));
    }
    run(&from, &to, "q8_0", true).unwrap();
    Gguf::open(&to).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_interruption_leaves_no_file() {
    let folder = folder("stop");
    let (from, to) = (folder.join("in.gguf"), folder.join("out.gguf"));
    model(&from, None);
    let files = ModelFiles::open(&from).unwrap();
    let plan = Plan::new(&files, "q8_0".parse().unwrap(), Additions::default()).unwrap();
    let stop = AtomicBool::new(false);
    let mut show = |_, _| stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let watch = Watch { progress: Some(&mut show), cancel: Some(&stop) };
    let error = write(&plan, &to, false, &Pool::new(1), watch).unwrap_err();
    assert!(matches!(error, QuantizeError::Cancelled { done, total } if 0 < done && done < total), "{error}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_stream_takes_exactly_the_bytes_of_its_head() {
    let folder = folder("stream");
    let path = folder.join("x.gguf");
    let head = |name: &str, cols| TensorHead { name: name.into(), dtype: DType::Q8_0, shape: vec![2, cols] };
    let heads = [head("a", 32), head("b", 64)];
    let open = || GgufStream::create(&path, &[("general.architecture".into(), "llama".into())], &heads).unwrap();
    let mut stream = open();
    assert!(stream.put(&[0; 69]).is_err(), "one byte into the next tensor");
    let mut stream = open();
    stream.put(&[1; 30]).unwrap();
    stream.put(&[1; 38]).unwrap();
    assert!(stream.finish().unwrap_err().to_string().contains("tensor b"), "bytes are missing");
    let mut stream = open();
    stream.put(&[1; 68]).unwrap();
    stream.put(&[2; 136]).unwrap();
    assert!(stream.put(&[3]).is_err(), "a byte too many");
    let mut stream = open();
    stream.put(&[1; 68]).unwrap();
    stream.put(&[2; 136]).unwrap();
    stream.finish().unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.read(gguf.tensor("b").unwrap()).unwrap(), vec![2; 136]);
    std::fs::remove_dir_all(folder).unwrap();
}
