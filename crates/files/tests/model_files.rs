//! One door for every kind of model: layouts, names, templates, identity.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::{Folder, f32s, ramp, shared};
use meden_files::gguf::GgufWriter;
use meden_files::safetensors_file::SafetensorsWriter;
use meden_files::{FileError, ModelFiles};
use meden_kernels::dtype::DType;

const CONFIG: &str = r#"{"model_type":"llama","hidden_size":4,"intermediate_size":8,"num_hidden_layers":1,
    "num_attention_heads":1,"vocab_size":3}"#;

fn weights() -> SafetensorsWriter {
    SafetensorsWriter::new().tensor("model.embed_tokens.weight", DType::F32, &[3, 4], ramp(12)).tensor(
        "model.norm.weight",
        DType::F32,
        &[4],
        f32s(&[1.0; 4]),
    )
}

fn gguf() -> GgufWriter {
    GgufWriter::new()
        .meta("general.architecture", "gemma3")
        .meta("tokenizer.chat_template", "G")
        .tensor("token_embd.weight", DType::F32, &[3, 4], ramp(12))
        .tensor("blk.0.ffn_norm.weight", DType::F32, &[4], f32s(&[1.0; 4]))
        .tensor("rope_freqs.weight", DType::F32, &[2], f32s(&[1.0; 2]))
}

#[test]
fn a_gguf_speaks_hugging_face_names() {
    let folder = Folder::new();
    let path = folder.file("m.gguf");
    gguf().write(&path).unwrap();
    let model = ModelFiles::open(&path).unwrap();
    let names: Vec<&str> = model.tensors().map(|t| t.name.as_str()).collect();
    assert_eq!(
        names,
        ["model.embed_tokens.weight", "model.layers.0.pre_feedforward_layernorm.weight", "rope_freqs.weight"]
    );
    let t = model.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!(model.read(t).unwrap(), ramp(12));
    assert_eq!(model.read_rows(t, 1..2).unwrap(), ramp(12)[16..32]);
    let (file, offset) = model.location(t);
    let bytes = std::fs::read(file).unwrap();
    assert_eq!(bytes[offset as usize..offset as usize + 48], ramp(12), "the location is not where the tensor lies");
    assert_eq!((model.architecture(), model.chat_template().as_deref()), ("gemma3", Some("G")));
    assert!(model.norms_hold_plus_one() && !model.permuted_heads());
    assert!(model.config().is_none() && model.tokenizer_json().is_none());
}

#[test]
fn a_folder_a_file_in_it_and_its_config_are_the_same_model() {
    let folder = Folder::new();
    weights().write(&folder.file("model.safetensors")).unwrap();
    folder.put("config.json", CONFIG);
    folder.put("tokenizer.json", "{}");
    folder.put("generation_config.json", r#"{"eos_token_id":[1,2]}"#);
    folder.put("tokenizer_config.json", r#"{"chat_template":"C"}"#);
    let prints: Vec<[u8; 32]> =
        [folder.path().to_owned(), folder.file("model.safetensors"), folder.file("config.json")]
            .iter()
            .map(|path| {
                let model = ModelFiles::open(path).unwrap();
                assert_eq!((model.architecture(), model.tensors().len()), ("llama", 2));
                assert_eq!(model.generation_config().unwrap().eos_ids(), [1, 2]);
                assert_eq!(model.chat_template().as_deref(), Some("C"));
                assert!(model.tokenizer_json().unwrap().ends_with("tokenizer.json"));
                assert!(!model.norms_hold_plus_one() && !model.permuted_heads());
                model.fingerprint().unwrap()
            })
            .collect();
    assert!(prints.windows(2).all(|p| p[0] == p[1]));
    folder.put("chat_template.jinja", "J");
    assert_eq!(ModelFiles::open(folder.path()).unwrap().chat_template().as_deref(), Some("J"), "the newer file first");
}

#[test]
fn a_multimodal_checkpoint_shows_its_language_model() {
    let folder = Folder::new();
    folder.put("config.json", CONFIG.replace("\"llama\"", "\"gemma3\",\"num_key_value_heads\":1"));
    SafetensorsWriter::new()
        .tensor("language_model.model.norm.weight", DType::F32, &[1], f32s(&[1.0]))
        .tensor("vision_tower.x", DType::F32, &[1], f32s(&[2.0]))
        .write(&folder.file("model.safetensors"))
        .unwrap();
    let model = ModelFiles::open(folder.path()).unwrap();
    assert!(model.tensor("model.norm.weight").is_some() && model.tensor("vision_tower.x").is_some());
}

#[test]
fn what_is_no_model_says_what_is_missing() {
    let folder = Folder::new();
    let says = |path: &std::path::Path, words: &[&str]| {
        let error = ModelFiles::open(path).unwrap_err();
        let text = error.to_string();
        assert!(words.iter().all(|w| text.contains(w)), "{text}\ndoes not say {words:?}");
        error
    };
    says(&folder.file("none.gguf"), &["none.gguf", "cannot open"]);
    says(folder.path(), &["no .gguf and no .safetensors"]);
    says(&folder.put("w.pt", "x"), &["PyTorch", ".safetensors"]);
    says(&folder.put("text.txt", "hello, this is text"), &["not a GGUF file"]);
    weights().write(&folder.file("a.safetensors")).unwrap();
    says(folder.path(), &["no config.json beside it"]);
    folder.put("config.json", CONFIG);
    assert!(ModelFiles::open(folder.path()).is_ok(), "the only .safetensors is the model");
    weights().write(&folder.file("b.safetensors")).unwrap();
    says(folder.path(), &["several .safetensors", "index.json"]);

    let ggufs = Folder::new();
    gguf().write(&ggufs.file("x.gguf")).unwrap();
    assert!(ModelFiles::open(ggufs.path()).is_ok(), "the only .gguf is the model");
    gguf().write(&ggufs.file("y.gguf")).unwrap();
    says(ggufs.path(), &["2 .gguf files", "x.gguf, y.gguf"]);
    std::fs::create_dir(ggufs.file("folder.gguf")).unwrap();
    let error = says(&ggufs.file("folder.gguf"), &["folder.gguf"]);
    assert!(matches!(error, FileError::NotAModel { .. }));
}

#[cfg(unix)]
#[test]
fn a_pipe_or_device_is_refused_without_waiting_for_it() {
    let error = ModelFiles::open(std::path::Path::new("/dev/zero")).unwrap_err();
    assert!(error.to_string().contains("a pipe or device"), "{error}");
}

/// Changes one byte of a copy and expects another identity.
#[test]
fn the_fingerprint_sees_bytes_header_and_length_and_not_the_name() {
    let folder = Folder::new();
    let path = folder.file("m.gguf");
    let big = ramp(50_000);
    let write = |last: f32| {
        let mut data = big.clone();
        data.splice(199_996.., f32s(&[last]));
        gguf().tensor("blk.0.ffn_up.weight", DType::F32, &[50, 1000], data).write(&path).unwrap();
    };
    write(1.0);
    let print = |path: &std::path::Path| ModelFiles::open(path).unwrap().fingerprint().unwrap();
    let first = print(&path);
    assert_eq!(first, print(&path), "not the same twice");
    let moved = folder.file("elsewhere.gguf");
    std::fs::copy(&path, &moved).unwrap();
    assert_eq!(first, print(&moved), "the name is no part of it");

    let model = ModelFiles::open(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let places: Vec<u64> = model
        .tensors()
        .flat_map(|t| [t.offset(), t.offset() + t.bytes as u64 - 1])
        .chain([good.windows(8).position(|w| w == b"gemma3\x17\0").unwrap_or(60) as u64 + 1])
        .collect();
    for at in places {
        let mut bad = good.clone();
        bad[at as usize] ^= 1;
        std::fs::write(&moved, &bad).unwrap();
        if let Ok(model) = ModelFiles::open(&moved) {
            assert_ne!(first, model.fingerprint().unwrap(), "byte {at} does not count");
        }
    }
    let longer = [&good[..], &[0]].concat();
    std::fs::write(&moved, longer).unwrap();
    assert_ne!(first, print(&moved), "the length does not count");
    write(2.0);
    assert_ne!(first, print(&path), "the last weight does not count");
}

#[test]
fn the_fingerprint_of_a_folder_sees_its_config() {
    let folder = Folder::new();
    weights().write(&folder.file("model.safetensors")).unwrap();
    folder.put("config.json", CONFIG);
    let before = ModelFiles::open(folder.path()).unwrap().fingerprint().unwrap();
    folder.put("config.json", CONFIG.replace("\"vocab_size\":3", "\"rope_theta\":5.0,\"vocab_size\":3"));
    assert_ne!(before, ModelFiles::open(folder.path()).unwrap().fingerprint().unwrap());
}

#[test]
fn every_tiny_reference_model_opens() {
    let Some(tiny) = shared("oracle/tiny") else { return };
    for entry in std::fs::read_dir(tiny).unwrap() {
        let path = entry.unwrap().path();
        let model = ModelFiles::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let config = model.config().unwrap();
        let embedding = model.require("model.embed_tokens.weight").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(embedding.shape, [config.vocab_size, config.hidden_size], "{}", path.display());
        for i in 0..config.num_hidden_layers {
            model.require(&format!("model.layers.{i}.input_layernorm.weight")).unwrap_or_else(|e| panic!("{e}"));
        }
        assert_eq!(model.read(embedding).unwrap().len(), embedding.bytes);
    }
}
