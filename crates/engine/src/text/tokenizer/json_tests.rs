//! tokenizer.json as models have it, and as an attacker would.

use std::time::{Duration, Instant};

use meden_stats::Rng;
use serde_json::json;

use super::*;

/// A byte-level file with three merges, two special tokens and one that is not special.
fn byte_level() -> Value {
    let bytes = byte_map::characters().into_iter().enumerate().map(|(id, c)| (c.to_string(), id));
    let mut vocab: serde_json::Map<String, Value> = bytes.map(|(c, id)| (c, id.into())).collect();
    for (id, token) in (256..).zip(["he", "hel", "Ġ7"]) {
        vocab.insert(token.to_owned(), id.into());
    }
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": special})
    };
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [added(259, "<s>", true), added(260, "<|im_end|>", true), added(261, "<tool>", false)],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [259], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["h", "e"], ["he", "l"], ["Ġ", "7"]]}
    })
}

/// A SentencePiece file: byte fallback, "▁" before the text.
fn sentence_piece() -> Value {
    let mut vocab: serde_json::Map<String, Value> = (0..256).map(|b| (format!("<0x{b:02X}>"), b.into())).collect();
    for (id, token) in (256..).zip(["<unk>", "▁", "a", "b", "▁a", "<s>"]) {
        vocab.insert(token.to_owned(), id.into());
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 261, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": [["▁", "a"]]}
    })
}

fn tokenizer(file: &Value) -> Result<Tokenizer, TextError> {
    let (json, vocab, rule) = parse(file.to_string().as_bytes(), "t.json")?;
    let bos = vocab.name_id(b"<s>");
    let pipeline = Pipeline::Json(Box::new(json));
    let strips_space = rule.strips_space;
    Ok(Tokenizer { vocab, pipeline, bos, eos: None, ends: Vec::new(), strips_space, kind: String::new() })
}

#[test]
fn a_byte_level_file_encodes_and_decodes() {
    let t = tokenizer(&byte_level()).unwrap();
    let ids = t.encode("hello 7<|im_end|><tool>", true).unwrap();
    let [l, o] = ["l", "o"].map(|letter| t.id_of(letter).unwrap());
    assert_eq!(ids, [259, 257, l, o, 258, 260, 261]);
    assert_eq!(t.decode(&ids, true), "hello 7<tool>");
    assert_eq!(t.decode(&ids, false), "<s>hello 7<|im_end|><tool>");
    // A prompt whose template wrote the bos token keeps that one.
    assert_eq!(t.encode("<s>he", true).unwrap(), [259, 256]);
    assert_eq!(t.encode("<s><s>he", true).unwrap(), [259, 259, 256]);
    assert_eq!(t.encode("<s><s>he", false).unwrap(), [259, 259, 256]);
    assert_eq!(t.encode("", true).unwrap(), [259]);
}

#[test]
fn the_training_length_of_the_file_cuts_nothing() {
    let t = tokenizer(&byte_level()).unwrap();
    assert_eq!(t.encode(&"x".repeat(1000), false).unwrap().len(), 1000);
}

#[test]
fn special_tokens_are_ordinary_text_in_plain_text() {
    let t = tokenizer(&byte_level()).unwrap();
    let ids = t.encode_plain("<|im_end|><tool>he").unwrap();
    assert_eq!(ids.len(), "<|im_end|>".len() + 2);
    assert_eq!(ids[10..], [261, 256]);
    assert_eq!(t.decode(&ids, true), "<|im_end|><tool>he");
}

#[test]
fn a_sentencepiece_file_encodes_and_decodes() {
    let t = tokenizer(&sentence_piece()).unwrap();
    let ids = t.encode("a é a", false).unwrap();
    assert_eq!(ids, [260, 257, 0xC3, 0xA9, 260]);
    assert_eq!(t.decode(&ids, true), "a é a");
    assert_eq!(t.id_of("▁a"), Some(260));
    assert_eq!(t.id_of("<0xC3>"), Some(0xC3));
    assert_eq!(t.token_text(0xC3), "<0xC3>");
}

#[test]
fn a_decoder_without_a_rule_is_named() {
    for decoder in [json!(null), json!({"type": "WordPiece", "prefix": "##", "cleanup": true})] {
        let mut file = byte_level();
        file["decoder"] = decoder;
        let error = tokenizer(&file).unwrap_err().to_string();
        assert!(error.contains("t.json: decoder") && error.contains("ByteLevel"), "{error}");
    }
}

#[test]
fn an_id_of_four_billion_asks_for_no_table_of_that_size() {
    let mut file = byte_level();
    file["model"]["vocab"]["zz"] = 4_000_000_000u32.into();
    let error = tokenizer(&file).unwrap_err().to_string();
    assert!(error.contains("4000000000"), "{error}");
}

/// Everything that happens to a file that was read: it is used.
fn exercise(bytes: &[u8]) {
    if let Ok((json, vocab, _)) = parse(bytes, "t.json") {
        let _ = json.encode("hello 7 <s> é\n", true);
        let _ = json.encode_plain("hello 7 <s> é\n");
        let _ = vocab.len();
    }
}

#[test]
fn damaged_files_are_errors_and_never_panics() {
    let files = [byte_level().to_string().into_bytes(), sentence_piece().to_string().into_bytes()];
    let mut rng = Rng::new(1, 1);
    let start = Instant::now();
    for round in 0..4000 {
        let mut bytes = files[round % 2].clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(3) {
                0 => bytes[at] = rng.below(256) as u8,
                1 => drop(bytes.drain(at..(at + rng.below(9) as usize).min(bytes.len()))),
                _ => bytes.insert(at, b"0-\"{}[],:e9"[rng.below(11) as usize]),
            }
        }
        exercise(&bytes);
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// Values swapped for others that are valid JSON reach further than damaged bytes do.
#[test]
fn fields_with_strange_values_are_errors_and_never_panics() {
    let strange = [
        json!(null),
        json!(-1),
        json!(0),
        json!(1e308),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!("\u{0}"),
        json!([]),
        json!({}),
        json!([[]]),
        json!(["a", "b"]),
        json!([["a", "b"]]),
        json!(true),
        json!("(a{999}){999}"),
        json!({"Regex": "(((a*)*)*)*b"}),
        json!({"type": "Sequence"}),
        json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    ];
    let start = Instant::now();
    for file in [byte_level(), sentence_piece()] {
        let mut places = Vec::new();
        collect(&file, String::new(), &mut places);
        for place in places {
            for value in &strange {
                let mut file = file.clone();
                if let Some(field) = file.pointer_mut(&place) {
                    *field = value.clone();
                }
                exercise(file.to_string().as_bytes());
            }
        }
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// JSON pointers of all fields but those of the vocabulary.
fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    if !at.ends_with("/vocab") {
        for (key, child) in children {
            collect(child, format!("{at}/{key}"), places);
        }
    }
    places.push(at);
}

#[test]
fn nested_parts_are_read_or_refused_quickly() {
    let parts = [
        ("normalizer", "normalizers", json!({"type": "NFC"})),
        ("pre_tokenizer", "pretokenizers", json!({"type": "Whitespace"})),
        ("decoder", "decoders", json!({"type": "Fuse"})),
        (
            "post_processor",
            "processors",
            json!({"type": "ByteLevel", "trim_offsets": true, "add_prefix_space": false, "use_regex": true}),
        ),
    ];
    for (field, list, innermost) in parts {
        for depth in [1, 10, 50, 1000] {
            let (mut text, mut end) = (String::new(), String::new());
            for _ in 0..depth {
                text += &format!("{{\"type\": \"Sequence\", \"{list}\": [");
                end += "]}";
            }
            let nested = format!("{text}{innermost}{end}");
            let mut file = byte_level();
            file[field] = "HERE".into();
            let start = Instant::now();
            exercise(file.to_string().replace("\"HERE\"", &nested).as_bytes());
            assert!(start.elapsed() < Duration::from_secs(5), "{field} {depth} deep took {:?}", start.elapsed());
        }
    }
}
