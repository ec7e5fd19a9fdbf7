//! Vocabularies inside GGUF files: what they may say, and what is refused.

use meden_engine::text::{ChatTemplate, Message, StreamDecoder, Tokenizer};
use meden_files::ModelFiles;
use meden_files::gguf::{GgufWriter, Value};

use crate::common::Folder;

/// A SentencePiece vocabulary as Llama 2 has it, small.
fn llama() -> Vec<(&'static str, Value)> {
    let mut tokens = vec![
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<0x0A>", 0.0, 6),
        ("<0xC3>", 0.0, 6),
        ("<0xA9>", 0.0, 6),
    ];
    tokens.extend([
        ("▁", -3.0, 1),
        ("a", -4.0, 1),
        ("b", -5.0, 1),
        ("▁a", -1.0, 1),
        ("ab", -2.0, 1),
        ("<|user|>", 0.0, 3),
        ("<|end|>", 0.0, 3),
    ]);
    vec![
        ("general.architecture", "llama".into()),
        ("tokenizer.ggml.model", "llama".into()),
        ("tokenizer.ggml.tokens", tokens.iter().map(|t| t.0.to_owned()).collect::<Vec<_>>().into()),
        ("tokenizer.ggml.scores", tokens.iter().map(|t| t.1 as f32).collect::<Vec<_>>().into()),
        ("tokenizer.ggml.token_type", tokens.iter().map(|t| t.2).collect::<Vec<i32>>().into()),
        ("tokenizer.ggml.bos_token_id", 1u32.into()),
        ("tokenizer.ggml.eos_token_id", 2u32.into()),
    ]
}

/// A byte-level vocabulary of a few tokens.
fn gpt2() -> Vec<(&'static str, Value)> {
    let tokens = ["a", "b", "Ġ", "ab", "Ġab", "<|endoftext|>", "  "].map(str::to_owned).to_vec();
    vec![
        ("general.architecture", "llama".into()),
        ("tokenizer.ggml.model", "gpt2".into()),
        ("tokenizer.ggml.pre", "gpt-2".into()),
        ("tokenizer.ggml.tokens", tokens.into()),
        ("tokenizer.ggml.token_type", vec![1, 1, 1, 1, 1, 3, 4].into()),
        ("tokenizer.ggml.merges", vec!["a b".to_owned(), "Ġ ab".to_owned()].into()),
        ("tokenizer.ggml.eos_token_id", 5u32.into()),
    ]
}

/// Loads a vocabulary after one key was replaced, or left out with `None`.
fn load(mut meta: Vec<(&'static str, Value)>, key: &'static str, value: Option<Value>) -> Result<Tokenizer, String> {
    meta.retain(|(name, _)| *name != key);
    meta.extend(value.map(|value| (key, value)));
    let folder = Folder::new(&format!("gguf-{key}"));
    let path = folder.path().join("m.gguf");
    meta.into_iter().fold(GgufWriter::new(), |w, (key, value)| w.meta(key, value)).write(&path).unwrap();
    Tokenizer::load(&ModelFiles::open(&path).unwrap()).map_err(|e| e.to_string())
}

#[test]
fn a_vocabulary_like_llama_2_puts_a_space_and_bos_before_a_text() {
    let t = load(llama(), "general.name", None).unwrap();
    assert_eq!(t.kind(), "SentencePiece BPE");
    assert_eq!(t.encode("a", true).unwrap(), [1, 9]);
    assert_eq!(t.encode("aé\n", false).unwrap(), [9, 4, 5, 3]);
    assert_eq!(t.encode("<|user|>a<|end|>", false).unwrap(), [11, 9, 12]);
    assert_eq!(t.encode("", true).unwrap(), [1]);
    assert_eq!(t.decode(&[1, 9, 6, 7], true), "a a");
    assert_eq!(t.eos_ids(), [2, 12]);
    // A character that neither a piece nor byte tokens cover is the unknown token.
    assert_eq!(t.encode("aż", false).unwrap(), [9, 0]);
}

#[test]
fn a_text_that_goes_on_keeps_its_first_space() {
    let t = load(llama(), "general.name", None).unwrap();
    let text = |mut stream: StreamDecoder| [9, 9].map(|id| stream.push(id)).concat();
    assert_eq!(text(StreamDecoder::new(&t)), "a a");
    assert_eq!(text(StreamDecoder::continuing(&t)), " a a");
}

#[test]
fn switches_of_the_file_are_obeyed() {
    let set = |key, value: bool| load(llama(), key, Some(value.into())).unwrap();
    assert_eq!(set("tokenizer.ggml.add_space_prefix", false).encode("a", true).unwrap(), [1, 7]);
    assert_eq!(set("tokenizer.ggml.add_bos_token", false).encode("a", true).unwrap(), [9]);
    assert_eq!(set("tokenizer.ggml.add_eos_token", true).encode("a", true).unwrap(), [1, 9, 2]);
    let bos = load(llama(), "tokenizer.ggml.add_bos_token", Some(true.into())).unwrap();
    assert_eq!(bos.encode("a", false).unwrap(), [9]);
}

#[test]
fn phi_3_swallows_white_space_after_its_special_tokens() {
    let t = load(llama(), "general.architecture", Some("phi3".into())).unwrap();
    assert_eq!(t.encode("<|user|>\n a<|end|>\n", false).unwrap(), [11, 9, 12]);
    assert_eq!(t.encode("<s>\na", false).unwrap(), [1, 6, 3, 7]);
}

#[test]
fn user_defined_tokens_are_cut_out_of_plain_text_too() {
    let t = load(gpt2(), "general.name", None).unwrap();
    assert_eq!(t.encode_plain("ab  ab").unwrap(), [3, 6, 3]);
    assert_eq!(t.encode("ab ab<|endoftext|>", true).unwrap(), [3, 4, 5]);
    assert_eq!(t.decode(&[3, 6, 4, 5], true), "ab   ab");
    assert!(t.encode_plain("<|endoftext|>").unwrap_err().to_string().contains("0x3C"));
}

#[test]
fn contradictions_are_named_with_their_field() {
    type Case = (fn() -> Vec<(&'static str, Value)>, &'static str, Option<Value>, &'static [&'static str]);
    let strings = |list: &[&str]| Some(Value::from(list.iter().map(|s| s.to_string()).collect::<Vec<_>>()));
    let cases: Vec<Case> = vec![
        (gpt2, "tokenizer.ggml.model", Some("bert".into()), &["bert", "gpt2", "llama"]),
        (gpt2, "tokenizer.ggml.model", None, &["tokenizer.ggml.model"]),
        (gpt2, "tokenizer.ggml.pre", Some("gpt-9".into()), &["gpt-9", "smollm"]),
        (gpt2, "tokenizer.ggml.pre", None, &["tokenizer.ggml.pre", "smollm"]),
        (gpt2, "tokenizer.ggml.merges", strings(&["a b", "b zz"]), &["merges[1]", "zz"]),
        (gpt2, "tokenizer.ggml.merges", strings(&["ab"]), &["merges[0]"]),
        (gpt2, "tokenizer.ggml.merges", strings(&["a "]), &["merges[0]"]),
        (gpt2, "tokenizer.ggml.merges", strings(&[""]), &["merges[0]"]),
        (gpt2, "tokenizer.ggml.merges", None, &["tokenizer.ggml.merges"]),
        (gpt2, "tokenizer.ggml.token_type", Some(vec![1i32; 3].into()), &["token_type", "3 types for 7"]),
        (gpt2, "tokenizer.ggml.eos_token_id", Some(7u32.into()), &["eos_token_id", "7"]),
        (gpt2, "tokenizer.ggml.add_bos_token", Some(true.into()), &["add_bos_token"]),
        (llama, "tokenizer.ggml.scores", Some(vec![0.0f32; 3].into()), &["scores", "3 scores for 13"]),
        (llama, "tokenizer.ggml.scores", Some(vec![f32::NAN; 13].into()), &["scores[0]"]),
        (llama, "tokenizer.ggml.token_type", Some(vec![6i32; 13].into()), &["tokens[0]", "byte"]),
        (llama, "tokenizer.ggml.tokens", None, &["tokenizer.ggml.tokens"]),
        (llama, "tokenizer.ggml.tokens", Some(3u32.into()), &["tokenizer.ggml.tokens"]),
    ];
    for (meta, key, value, parts) in cases {
        let shown = format!("{key} = {value:?}");
        let error = load(meta(), key, value).map(|_| ()).expect_err(&shown);
        for part in parts.iter().chain(&["m.gguf"]) {
            assert!(error.contains(part), "{shown}: {error}");
        }
    }
}

#[test]
fn a_chat_template_of_a_file_is_found_and_names_the_file_in_errors() {
    let folder = Folder::new("template");
    let path = folder.path().join("m.gguf");
    let source = "{{ bos_token }}{% for m in messages %}{% if m.role not in ['user'] %}\n{{ raise_exception('unknown role ' + m.role) }}{% endif %}{{ m.content + eos_token }}{% endfor %}";
    let meta = llama().into_iter().chain([("tokenizer.chat_template", source.into())]);
    meta.fold(GgufWriter::new(), |w, (key, value)| w.meta(key, value)).write(&path).unwrap();
    let files = ModelFiles::open(&path).unwrap();
    let tokenizer = Tokenizer::load(&files).unwrap();
    let template = ChatTemplate::load(&files, &tokenizer).unwrap().unwrap();
    assert_eq!(template.render(&[Message::new("user", "ab")], true).unwrap(), "<s>ab</s>");
    let error = template.render(&[Message::new("critic", "ab")], true).unwrap_err().to_string();
    for part in ["m.gguf", "line 2", "unknown role critic"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_file_without_a_template_has_none() {
    let folder = Folder::new("no-template");
    let path = folder.path().join("m.gguf");
    llama().into_iter().fold(GgufWriter::new(), |w, (key, value)| w.meta(key, value)).write(&path).unwrap();
    let files = ModelFiles::open(&path).unwrap();
    let tokenizer = Tokenizer::load(&files).unwrap();
    assert!(ChatTemplate::load(&files, &tokenizer).unwrap().is_none());
}
