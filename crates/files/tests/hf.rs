//! Hugging Face settings: both spellings of rotary settings, ids as numbers and lists, unknown fields.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::{Folder, shared};
use meden_files::hf::{Config, GenerationConfig, TokenizerConfig};
use serde_json::{Value, json};

fn base() -> Value {
    json!({"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
           "num_attention_heads": 4, "vocab_size": 320})
}

/// The base with some fields more or changed.
fn with(fields: Value) -> Result<Config, meden_files::FileError> {
    let folder = Folder::new();
    let mut config = base();
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    Config::open(&folder.put("config.json", config.to_string()))
}

#[test]
fn the_older_and_the_newer_spelling_of_rope_mean_the_same() {
    let scaling = json!({"rope_type": "llama3", "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let old = with(json!({"rope_theta": 5e5, "rope_scaling": scaling})).unwrap();
    let mut flat = scaling;
    flat["rope_theta"] = json!(5e5);
    let new = with(json!({"rope_parameters": flat})).unwrap();
    assert_eq!(old.rope("full_attention"), new.rope("full_attention"));
    let rope = new.rope("full_attention");
    assert_eq!((rope.kind(), rope.rope_theta, rope.factor), ("llama3", Some(5e5), Some(8.0)));
    assert_eq!(rope.original_max_position_embeddings, Some(64));
}

#[test]
fn rope_has_a_base_even_where_nothing_is_said() {
    let plain = with(json!({"rope_scaling": null})).unwrap().rope("full_attention");
    assert_eq!((plain.kind(), plain.rope_theta), ("default", Some(1e4)));
    let old_name = with(json!({"rope_scaling": {"type": "linear", "factor": 2}})).unwrap().rope("full_attention");
    assert_eq!((old_name.kind(), old_name.factor), ("linear", Some(2.0)));
}

#[test]
fn gemma3_has_two_bases_in_either_spelling() {
    let scaling = json!({"rope_type": "linear", "factor": 8.0});
    let old = with(
        json!({"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": scaling}),
    )
    .unwrap();
    let new = with(json!({"model_type": "gemma3_text", "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}))
    .unwrap();
    for config in [old, new] {
        let (global, local) = (config.rope("full_attention"), config.rope("sliding_attention"));
        assert_eq!((global.kind(), global.rope_theta, global.factor), ("linear", Some(1e6), Some(8.0)));
        assert_eq!((local.kind(), local.rope_theta, local.factor), ("default", Some(1e4), None));
    }
}

#[test]
fn a_multimodal_config_is_its_text_model() {
    let folder = Folder::new();
    // The fields that gemma-3-4b's file has; the others are the class's defaults.
    let text = json!({"model_type": "gemma3", "eos_token_id": [1, 106], "vision_config": {"hidden_size": 1152},
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
                        "num_hidden_layers": 34, "sliding_window": 1024}});
    let config = Config::open(&folder.put("config.json", text.to_string())).unwrap();
    assert_eq!((config.architecture(), config.hidden_size, config.num_hidden_layers), ("gemma3", 2560, 34));
    assert_eq!((config.num_attention_heads, config.head_dim, config.vocab_size), (8, Some(256), 262_208));
    assert_eq!((config.sliding_window, config.eos_ids()), (Some(1024), &[1, 106][..]));
    assert!(config.extra.contains_key("vision_config"), "unknown fields are kept");
}

#[test]
fn ids_come_as_a_number_a_list_or_none() {
    assert_eq!(with(json!({"eos_token_id": 2})).unwrap().eos_ids(), [2]);
    assert_eq!(with(json!({"eos_token_id": [128_001, 128_009]})).unwrap().eos_ids(), [128_001, 128_009]);
    assert_eq!(with(json!({"eos_token_id": null})).unwrap().eos_ids(), [0u32; 0]);
    assert_eq!(with(json!({"pad_token_id": -1})).unwrap().pad_token_id.unwrap().ids(), [0u32; 0]);
    assert!(with(json!({"eos_token_id": "two"})).is_err());
    let generation: GenerationConfig = serde_json::from_value(
        json!({"eos_token_id": [1, 106], "top_k": 64, "temperature": 1, "cache_implementation": "hybrid"}),
    )
    .unwrap();
    assert_eq!((generation.eos_ids(), generation.top_k), (&[1, 106][..], Some(64)));
    assert_eq!(generation.extra["cache_implementation"], "hybrid");
}

#[test]
fn wrong_sizes_are_refused_with_field_and_remedy() {
    for (fields, says) in [
        (json!({"num_hidden_layers": 0}), "num_hidden_layers: it is 0"),
        (json!({"hidden_size": 1u64 << 40}), "hidden_size is 1099511627776"),
        (json!({"vocab_size": -3}), "invalid value: integer `-3`"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads: 4 query heads are no multiple of 3"),
        (json!({"layer_types": ["full_attention"]}), "layer_types: it has 1 entries for 2 layers"),
        (json!({"model_type": "bert"}), "model_type is \"bert\""),
        (json!({"model_type": null}), "model_type is \"\""),
        (json!({"hidden_size": "64"}), "invalid type: string"),
        (json!({"rope_parameters": {"rope_theta": "x"}}), "rope_parameters: invalid type"),
        (json!({"rope_parameters": [1]}), "invalid type: sequence"),
    ] {
        let text = with(fields).unwrap_err().to_string();
        assert!(text.contains(says) && text.contains("config.json"), "{text}\ndoes not say {says}");
    }
    let folder = Folder::new();
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let text = Config::open(&folder.put("config.json", deep)).unwrap_err().to_string();
    assert!(text.contains("config.json"), "{text}");
    let missing = Config::open(&folder.put("config.json", r#"{"model_type":"llama","hidden_size":1}"#)).unwrap_err();
    assert!(missing.to_string().contains("missing field `intermediate_size`"), "{missing}");
}

#[test]
fn tokens_and_templates_come_in_two_forms() {
    let config: TokenizerConfig = serde_json::from_value(json!({
        "bos_token": {"content": "<s>", "lstrip": true, "special": true}, "eos_token": "</s>", "pad_token": null,
        "add_bos_token": true, "model_max_length": 1e30, "added_tokens_decoder": {"7": {"content": "<x>", "special": true}},
        "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}], "legacy": false}))
    .unwrap();
    assert_eq!(config.bos_token.as_ref().unwrap().text(), "<s>");
    assert_eq!(config.eos_token.as_ref().unwrap().text(), "</s>");
    assert_eq!(config.default_chat_template(), Some("D"));
    assert_eq!(config.added_tokens_decoder["7"].content, "<x>");
    assert_eq!(config.extra["legacy"], false);
    let plain: TokenizerConfig = serde_json::from_value(json!({"chat_template": "P"})).unwrap();
    assert_eq!(plain.default_chat_template(), Some("P"));
}

#[test]
fn a_config_written_again_means_the_same() {
    let Some(tiny) = shared("oracle/tiny") else { return };
    let folder = Folder::new();
    let mut seen = 0;
    for entry in std::fs::read_dir(tiny).unwrap() {
        let path = entry.unwrap().path().join("config.json");
        let config = Config::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let again = folder.put("config.json", serde_json::to_string(&config).unwrap());
        assert_eq!(Config::open(&again).unwrap(), config, "{}", path.display());
        // Field for field: nothing of the file may be lost.
        let (file, ours): (Value, Value) =
            (serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap(), serde_json::to_value(&config).unwrap());
        for (key, value) in file.as_object().unwrap() {
            let same = &ours[key] == value || (value.is_number() && ours[key].as_f64() == value.as_f64());
            assert!(same, "{}: {key} was {value} and is {}", path.display(), ours[key]);
        }
        seen += 1;
    }
    assert!(seen > 0, "no model was found");
}
