//! Every family from GGUF gives what it gives from safetensors: permuted rows, norms with their +1, fused tensors,
//! rotation factors, and the facts that the file does not tell.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Tensor, max_diff, oracle, tensors};
use meden_engine::{Control, KvTypes, LogitRows, Session, SessionOptions, WeightMode};
use meden_files::gguf::{GgufWriter, Value};
use meden_files::names;
use meden_kernels::dtype::DType;
use serde_json::Value as Json;

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Rows of one head in the order that interleaved rotation wants: (i, i + half) side by side.
fn interleave(values: &[f32], rows: usize, head_dim: usize) -> Vec<f32> {
    let cols = values.len() / rows;
    let mut out = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (head, at) = (row / head_dim, row % head_dim);
        let source = head * head_dim + at / 2 + (at % 2) * head_dim / 2;
        out.extend_from_slice(&values[source * cols..(source + 1) * cols]);
    }
    out
}

/// llama3's rotation factors as the tensor that GGUF files carry: old frequency over new.
fn llama3_factors(rope: &Json, head_dim: usize) -> Vec<f32> {
    let number = |key: &str| rope[key].as_f64().unwrap();
    let (theta, factor) = (number("rope_theta"), number("factor"));
    let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
    let original = number("original_max_position_embeddings");
    (0..head_dim / 2)
        .map(|i| {
            let wavelength = 2.0 * std::f64::consts::PI * theta.powf(2.0 * i as f64 / head_dim as f64);
            let smooth = (original / wavelength - low) / (high - low);
            if wavelength < original / high {
                1.0
            } else if wavelength > original / low {
                factor as f32
            } else {
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            }
        })
        .collect()
}

fn write_gguf(config: &Json, weights: &BTreeMap<String, Tensor>, path: &Path) {
    let architecture = config["model_type"].as_str().unwrap().trim_end_matches("_text");
    // GGUF has no mistral: the format's converters write it as a llama
    let prefix = if architecture == "mistral" { "llama" } else { architecture };
    let size = |key: &str| config[key].as_u64().map(|v| v as u32);
    let heads = size("num_attention_heads").unwrap();
    let hidden = size("hidden_size").unwrap();
    let head_dim = size("head_dim").unwrap_or(hidden / heads);
    let rope = match &config["rope_parameters"]["full_attention"] {
        Json::Null => &config["rope_parameters"],
        full => full,
    };
    let key = |name: &str| format!("{prefix}.{name}");
    let mut file = GgufWriter::new().meta("general.architecture", prefix);
    for (name, value) in [
        ("embedding_length", size("hidden_size")),
        ("block_count", size("num_hidden_layers")),
        ("feed_forward_length", size("intermediate_size")),
        ("context_length", size("max_position_embeddings")),
        ("attention.head_count", Some(heads)),
        ("attention.head_count_kv", size("num_key_value_heads")),
        ("attention.key_length", Some(head_dim)),
        ("attention.value_length", Some(head_dim)),
        ("attention.sliding_window", size("sliding_window")),
    ] {
        if let Some(value) = value {
            file = file.meta(&key(name), value);
        }
    }
    for (name, value) in [
        ("attention.layer_norm_rms_epsilon", &config["rms_norm_eps"]),
        ("rope.freq_base", &rope["rope_theta"]),
        ("attn_logit_softcapping", &config["attn_logit_softcapping"]),
        ("final_logit_softcapping", &config["final_logit_softcapping"]),
    ] {
        if let Some(value) = value.as_f64() {
            file = file.meta(&key(name), Value::F32(value as f32));
        }
    }
    if rope["rope_type"] == "llama3" {
        let factors = llama3_factors(rope, head_dim as usize);
        file = file.tensor("rope_freqs.weight", DType::F32, &[factors.len()], bytes(&factors));
    }
    for (name, tensor) in weights {
        if name == "lm_head.weight" && config["tie_word_embeddings"] == true {
            continue;
        }
        let mut values = tensor.f.clone();
        if names::norms_hold_plus_one(architecture) && name.contains("norm") {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
        if names::permuted_heads(architecture) && (name.contains("q_proj") || name.contains("k_proj")) {
            values = interleave(&values, tensor.shape[0], head_dim as usize);
        }
        file = file.tensor(&names::to_gguf(architecture, name), DType::F32, &tensor.shape, bytes(&values));
    }
    file.write(path).unwrap();
}

fn logits(path: &Path, ids: &[u32]) -> Vec<f32> {
    let model = common::load(path, WeightMode::Native, 1);
    let options = SessionOptions { kv_type: KvTypes::F32, ..SessionOptions::default() };
    let mut session = Session::new(model, options).unwrap();
    session.forward(ids, LogitRows::All, &mut Control::default()).unwrap()
}

#[test]
fn every_family_reads_the_same_from_gguf_and_from_safetensors() {
    let Some(root) = oracle("tiny") else { return };
    let dir = std::env::temp_dir().join(format!("meden-gguf-{}", std::process::id()));
    let mut families = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let source = entry.unwrap().path();
        let name = source.file_name().unwrap().to_string_lossy().to_string();
        let mut config: Json = serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
        let ids = tensors(&source.join("expected.safetensors"))["input_ids"].ids();
        let weights = tensors(&source.join("model.safetensors"));
        let folder = dir.join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        if config["query_pre_attn_scalar"].is_number() {
            // GGUF does not tell the query scale: its readers derive it from the head size
            config["query_pre_attn_scalar"] = config["head_dim"].clone();
        }
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        std::fs::copy(source.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
        let gguf = dir.join(format!("{name}.gguf"));
        write_gguf(&config, &weights, &gguf);
        let diff = max_diff(&logits(&folder, &ids), &logits(&gguf, &ids));
        assert!(diff < 2e-5, "{name}: logits differ by {diff}");
        families += 1;
    }
    assert!(families > 0);
    std::fs::remove_dir_all(dir).unwrap();
}
