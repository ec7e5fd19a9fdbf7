//! From a Hugging Face folder to GGUF and into the engine: every family, its tokenizer, and quantising at load.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{ids, max_diff, oracle};
use meden_engine::text::Tokenizer;
use meden_engine::{LoadOptions, Model, WeightMode, export};
use meden_files::ModelFiles;
use meden_files::quantize::{Plan, Recipe, Watch, write};
use meden_kernels::pool::Pool;
use serde_json::{Value as Json, json};

fn scratch(name: &str) -> PathBuf {
    // several tests of one process copy the same model
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("meden-export-{}-{n}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A copy of a tiny model; GGUF does not tell the query scale, so gemma's is the one that its readers derive.
fn copy(name: &str) -> Option<PathBuf> {
    let source = oracle(&format!("tiny/{name}"))?;
    let folder = scratch(name);
    let mut config: Json = serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    if config["query_pre_attn_scalar"].is_number() {
        config["query_pre_attn_scalar"] = config["head_dim"].clone();
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(source.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    Some(folder)
}

fn convert(folder: &Path, recipe: &str) -> PathBuf {
    let files = ModelFiles::open(folder).unwrap();
    let out = folder.join(format!("{recipe}.gguf"));
    let additions = export::additions(&files, &folder.join("scratch")).unwrap();
    let plan = Plan::new(&files, recipe.parse().unwrap(), additions).unwrap();
    write(&plan, &out, true, &Pool::new(2), Watch::default()).unwrap();
    assert!(!folder.join("scratch").exists());
    out
}

fn logits(path: &Path, quantize: Option<&str>) -> Vec<f32> {
    let quantize: Option<Recipe> = quantize.map(|q| q.parse().unwrap());
    let files = ModelFiles::open(path).unwrap();
    let model = Model::load(&files, &LoadOptions { threads: 2, quantize, ..LoadOptions::default() }).unwrap();
    common::run(&mut common::open(&model, None), &ids(40))
}

fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn every_family_survives_the_way_through_gguf_and_eight_bits_stay_close() {
    let Some(root) = oracle("tiny") else { return };
    let mut families = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().to_string();
        let folder = copy(&name).unwrap();
        let plain = logits(&folder, None);
        let diff = max_diff(&plain, &logits(&convert(&folder, "f32"), None));
        assert!(diff < 2e-5, "{name}: f32 logits differ by {diff}");
        // random weights have no slack: sixteen times the step is 256 times what eight bits lose
        for (recipe, least) in [("bf16", 0.999), ("q8_0", 0.995), ("q4_0", 0.5), ("q4_k_m", 0.5)] {
            let made = convert(&folder, recipe);
            // in f32, so that it is the weights' rounding alone that shows, not that of the activations
            let exact = common::run(&mut common::open(&common::load(&made, WeightMode::F32, 2), None), &ids(40));
            let close = correlation(&plain, &exact);
            assert!(close > least, "{name}: logits in {recipe} correlate by {close}");
            let file = logits(&made, None);
            // the same rounding, whichever way the weights came
            assert_eq!(file, logits(&folder, Some(recipe)), "{name}: {recipe} at load");
        }
        std::fs::remove_dir_all(folder).unwrap();
        families += 1;
    }
    assert!(families > 0);
}

#[test]
fn a_shape_that_gguf_cannot_tell_is_refused_by_name() {
    for (model, field, value) in [
        ("gemma2", "query_pre_attn_scalar", json!(17)),
        ("gemma3", "sliding_window_pattern", json!(3)),
        ("llama", "hidden_act", json!("gelu_pytorch_tanh")),
    ] {
        let Some(folder) = copy(model) else { return };
        let path = folder.join("config.json");
        let mut config: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[field] = value;
        config.as_object_mut().unwrap().remove("layer_types");
        std::fs::write(&path, config.to_string()).unwrap();
        let files = ModelFiles::open(&folder).unwrap();
        let error = export::additions(&files, &folder.join("scratch")).unwrap_err().to_string();
        let word = if field == "sliding_window_pattern" { "layer_types" } else { field };
        assert!(error.contains(word), "{model}: {error}");
        assert!(!folder.join("scratch").exists());
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// The characters that stand for the 256 bytes in byte-level vocabularies.
fn byte_letters() -> Vec<char> {
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    let mut letter = |b: u32| {
        if plain(b) {
            return char::from_u32(b).unwrap();
        }
        next += 1;
        char::from_u32(next - 1).unwrap()
    };
    (0..256).map(&mut letter).collect()
}

/// A byte-level vocabulary of 256 bytes, some merges and one control token.
fn byte_level(pre_tokenizer: Json) -> Json {
    let mut tokens: Vec<String> = byte_letters().into_iter().map(String::from).collect();
    let merges = [("h", "e"), ("l", "l"), ("Ġ", "w"), ("he", "ll"), ("1", "2"), ("Ġ", "Ġ"), ("o", "r"), ("Ġw", "or")];
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let end = tokens.len();
    let vocab: serde_json::Map<String, Json> = tokens.into_iter().zip((0..).map(|i: usize| json!(i))).collect();
    let merges: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": end, "content": "<|im_end|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": pre_tokenizer,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges}
    })
}

/// A SentencePiece vocabulary with bytes, letters and merges.
fn sentence_piece(normalizer: Json, decoders: Json) -> Json {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    tokens.extend("▁helowrd1.,".chars().map(String::from));
    let merges =
        [("▁", "h"), ("e", "l"), ("l", "o"), ("▁h", "el"), ("▁hel", "lo"), ("o", "r"), ("▁", "w"), ("▁w", "or")];
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let vocab: serde_json::Map<String, Json> = tokens.into_iter().zip((0..).map(|i: usize| json!(i))).collect();
    let special = |id: usize, text: &str| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": normalizer, "pre_tokenizer": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": merges.iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>()}
    })
}

fn with_tokenizer(tokenizer: &Json, config: Json) -> Option<PathBuf> {
    let folder = copy("llama")?;
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    Some(folder)
}

fn digits_and_words() -> Json {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]})
}

#[test]
fn tokenizers_cut_the_same_from_both_files() {
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let back = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let fallback = json!([back, {"type": "ByteFallback"}, {"type": "Fuse"}]);
    let stripped = json!([back, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]);
    let prefixed = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]});
    let ends = json!({"eos_token": "<|im_end|>", "chat_template": "{{ messages }}"});
    let pieces = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    for (name, tokenizer, config) in [
        ("smollm", byte_level(digits_and_words()), &ends),
        ("sentence pieces after a space", sentence_piece(prefixed, stripped), &pieces),
        ("sentence pieces as they stand", sentence_piece(space.clone(), fallback), &pieces),
    ] {
        let Some(folder) = with_tokenizer(&tokenizer, config.clone()) else { return };
        let files = ModelFiles::open(&folder).unwrap();
        let gguf = ModelFiles::open(&convert(&folder, "q8_0")).unwrap();
        let (from, to) = (Tokenizer::load(&files).unwrap(), Tokenizer::load(&gguf).unwrap());
        for text in ["hello world 12 121", "  well  \n", "", "<|im_end|> héllo", "</s>lo"] {
            assert_eq!(from.encode(text, true).unwrap(), to.encode(text, true).unwrap(), "{name}: {text:?}");
            let ids = from.encode(text, false).unwrap();
            assert_eq!(from.decode(&ids, false), to.decode(&ids, false), "{name}: {text:?}");
        }
        assert_eq!((from.bos(), from.eos()), (to.bos(), to.eos()), "{name}");
        assert_eq!(gguf.chat_template(), files.chat_template(), "{name}");
        // other readers want a token for each row of the embedding
        assert_eq!(to.vocab_size(), gguf.require("model.embed_tokens.weight").unwrap().shape[0], "{name}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_pre_tokenizer_without_a_name_is_refused_and_named() {
    for (part, word) in [
        (json!({"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated", "invert": false}), "[a-z]+"),
        (json!({"type": "Whitespace"}), "Whitespace"),
    ] {
        let byte_only = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": false});
        let parts = json!({"type": "Sequence", "pretokenizers": [part, byte_only]});
        let Some(folder) = with_tokenizer(&byte_level(parts), json!({})) else { return };
        let files = ModelFiles::open(&folder).unwrap();
        let error = export::additions(&files, &folder.join("scratch")).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains(word) && error.contains("smollm"), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// Puts a value into a tensor of a model's file, which holds floats of four bytes.
fn put(path: &Path, tensor: &str, index: usize, value: f32) {
    let files = ModelFiles::open(path).unwrap();
    let info = files.require(tensor).unwrap();
    assert_eq!(info.bytes, 4 * info.elements(), "{tensor}");
    let (file, offset) = files.location(info);
    let mut bytes = std::fs::read(file).unwrap();
    bytes[offset as usize + 4 * index..][..4].copy_from_slice(&value.to_le_bytes());
    std::fs::write(file, bytes).unwrap();
}

fn quantized(path: &Path, recipe: &str) -> Result<std::sync::Arc<Model>, meden_engine::EngineError> {
    let quantize = Some(recipe.parse().unwrap());
    Model::load(&ModelFiles::open(path).unwrap(), &LoadOptions { quantize, ..LoadOptions::default() })
}

#[test]
fn a_weight_that_is_no_number_is_named_by_its_place_in_the_file_whatever_way_its_rows_move() {
    // q of llama changes the order of its rows on the way into GGUF, and back on the way into the engine
    for (tensor, row) in [("q_proj", 5), ("v_proj", 5)] {
        let name = format!("model.layers.1.self_attn.{tensor}.weight");
        let Some(folder) = copy("llama") else { return };
        let gguf = convert(&folder, "f32");
        let files = ModelFiles::open(&folder).unwrap();
        let index = row * files.require(&name).unwrap().shape[1] + 3;
        put(&folder, &name, index, f32::NAN);
        put(&gguf, &name, index, f32::NAN);
        let place = format!("value {index} is NaN");
        for path in [&folder, &gguf] {
            let error = quantized(path, "q8_0").unwrap_err().to_string();
            assert!(error.contains(&name) && error.contains(&place), "{error}");
        }
        let files = ModelFiles::open(&folder).unwrap();
        let additions = export::additions(&files, &folder.join("scratch")).unwrap();
        let plan = Plan::new(&files, "q8_0".parse().unwrap(), additions).unwrap();
        let error = write(&plan, &folder.join("out.gguf"), true, &Pool::new(2), Watch::default()).unwrap_err();
        assert!(error.to_string().contains(&name) && error.to_string().contains(&place), "{error}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn loading_counts_what_a_format_cannot_hold_and_looks_at_what_it_only_copies() {
    let Some(folder) = copy("llama") else { return };
    let name = "model.layers.0.mlp.up_proj.weight";
    put(&folder, name, 7, 1e30);
    let model = quantized(&folder, "q8_0").unwrap();
    let [row] = model.clamped().rows() else { panic!("one tensor: {:?}", model.clamped()) };
    assert_eq!((row.tensor.as_str(), row.values), (name, 1));
    let plain = Model::load(&ModelFiles::open(&folder).unwrap(), &LoadOptions::default()).unwrap();
    assert!(plain.clamped().is_empty());
    // vectors and tensors of the wanted type are not converted, but looked at
    for (tensor, index) in [(name, 9), ("model.layers.1.input_layernorm.weight", 2)] {
        put(&folder, name, 7, 0.0);
        put(&folder, tensor, index, f32::INFINITY);
        let error = quantized(&folder, "f32").unwrap_err().to_string();
        assert!(error.contains(tensor) && error.contains(&format!("value {index} is inf")), "{error}");
        put(&folder, tensor, index, 1.0);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn quantising_at_load_refuses_other_ways_of_holding_weights_and_marks_the_model() {
    let Some(folder) = oracle("tiny/llama") else { return };
    let files = ModelFiles::open(&folder).unwrap();
    let quantize = Some("q8_0".parse().unwrap());
    for weights in [WeightMode::F32, WeightMode::Mapped] {
        let error = Model::load(&files, &LoadOptions { weights, quantize, ..LoadOptions::default() }).unwrap_err();
        assert!(error.to_string().contains("q8_0"), "{error}");
    }
    let load = |quantize| Model::load(&files, &LoadOptions { quantize, ..LoadOptions::default() }).unwrap();
    let (plain, eight) = (load(None), load(quantize));
    assert_ne!(plain.fingerprint(), eight.fingerprint());
    assert!(eight.weight_bytes() < plain.weight_bytes() / 2);
    let needed = |quantize| Model::bytes_needed(&files, &LoadOptions { quantize, ..LoadOptions::default() });
    assert!(needed(quantize) < needed(None));
}
