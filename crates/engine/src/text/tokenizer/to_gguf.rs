//! A `tokenizer.json` as the keys of a GGUF vocabulary.
//!
//! The two describe a tokenizer in different terms: a pipeline of parts here, the name of a known one there. A part
//! that has no name is an error.

use meden_files::ModelFiles;
use meden_files::gguf::Value;
use serde_json::Value as Json;

use super::super::error::TextError;
use super::vocab::Kind;
use super::{Pipeline, Tokenizer, gguf, json, pretokenizers};

const TYPE_NORMAL: i32 = 1;
const TYPE_UNKNOWN: i32 = 2;
const TYPE_CONTROL: i32 = 3;
const TYPE_USER: i32 = 4;
const TYPE_UNUSED: i32 = 5;
const TYPE_BYTE: i32 = 6;

impl Tokenizer {
    /// The vocabulary's keys: model, pre-tokenizer, tokens, types, merges or scores. The table is filled up to `rows`
    /// tokens, because other readers want as many as the embedding has rows.
    pub(crate) fn gguf_metadata(&self, files: &ModelFiles, rows: usize) -> Result<Vec<(String, Value)>, TextError> {
        let (Some(path), Pipeline::Json(_)) = (files.tokenizer_json(), &self.pipeline) else {
            return Err(TextError::NoTokenizer { path: files.path().display().to_string() });
        };
        let place = path.display().to_string();
        let whole: Json =
            serde_json::from_slice(&json::read(path)?).map_err(|e| TextError::vocabulary(&place, e.to_string()))?;
        Source { whole, place, tokenizer: self }.keys(rows)
    }
}

struct Source<'a> {
    whole: Json,
    place: String,
    tokenizer: &'a Tokenizer,
}

impl Source<'_> {
    fn keys(&self, rows: usize) -> Result<Vec<(String, Value)>, TextError> {
        let model = &self.whole["model"];
        if model["type"].as_str().unwrap_or("BPE") != "BPE" {
            return Err(self.unsupported("model.type", &model["type"], "BPE"));
        }
        let byte_level = mentions(&self.whole["decoder"], "ByteLevel");
        let (tokens, types) = self.tokens(rows, byte_level)?;
        let mut keys: Vec<(&str, Value)> = Vec::new();
        let merges = self.merges()?;
        if byte_level {
            let whole_words = model["ignore_merges"] == true;
            keys.push(("model", "gpt2".into()));
            keys.push(("pre", self.pre_tokenizer(whole_words)?.into()));
            keys.push(("merges", merges.iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>().into()));
            keys.push(("add_space_prefix", Value::Bool(false)));
        } else {
            keys.push(("model", "llama".into()));
            keys.push(("pre", "default".into()));
            keys.push(("scores", scores(&tokens, &merges).into()));
            keys.push(("add_space_prefix", Value::Bool(self.space_prefix()?)));
        }
        keys.push(("tokens", tokens.into()));
        keys.push(("token_type", types.into()));
        Ok(keys.into_iter().map(|(name, value)| (format!("tokenizer.ggml.{name}"), value)).collect())
    }

    fn tokens(&self, rows: usize, byte_level: bool) -> Result<(Vec<String>, Vec<i32>), TextError> {
        let vocab = &self.tokenizer.vocab;
        let count = rows.max(vocab.len());
        let mut tokens: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![TYPE_UNUSED; count];
        let place = |field: &str| format!("{}: {field}", self.place);
        let out = |id: &Json, field: &str| {
            let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < count);
            id.ok_or_else(|| TextError::vocabulary(place(field), "an id that is no place in the vocabulary"))
        };
        let spelled = self.whole["model"]["vocab"].as_object();
        for (spelling, id) in spelled.into_iter().flatten() {
            let id = out(id, "model.vocab")?;
            let byte = !byte_level && gguf::byte_name(spelling).is_some();
            types[id] = if byte { TYPE_BYTE } else { TYPE_NORMAL };
            tokens[id].clone_from(spelling);
        }
        for added in self.whole["added_tokens"].as_array().into_iter().flatten() {
            let id = out(&added["id"], "added_tokens")?;
            types[id] = if vocab.kind(id as u32) == Kind::Control { TYPE_CONTROL } else { TYPE_USER };
            tokens[id] = added["content"].as_str().unwrap_or_default().to_owned();
        }
        // an unknown token that is never written as text is one to the other readers too
        let unknown = self.whole["model"]["unk_token"].as_str().filter(|_| !byte_level);
        if let Some(id) = unknown.and_then(|name| tokens.iter().position(|t| t == name)) {
            types[id] = TYPE_UNKNOWN;
        }
        Ok((tokens, types))
    }

    fn merges(&self) -> Result<Vec<(String, String)>, TextError> {
        let list = self.whole["model"]["merges"].as_array();
        let pair = |merge: &Json| match merge {
            Json::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
            Json::Array(two) => match &two[..] {
                [Json::String(a), Json::String(b)] => Some((a.clone(), b.clone())),
                _ => None,
            },
            _ => None,
        };
        let bad =
            |merge: &Json| TextError::vocabulary(format!("{}: model.merges", self.place), format!("merge {merge}"));
        list.into_iter().flatten().map(|merge| pair(merge).ok_or_else(|| bad(merge))).collect()
    }

    /// The name of the pre-tokenizer whose patterns are those of the file.
    fn pre_tokenizer(&self, whole_words: bool) -> Result<&'static str, TextError> {
        let parts = parts(&self.whole["pre_tokenizer"], "pretokenizers");
        let known = pretokenizers::known();
        if !matches!(self.whole["normalizer"]["type"].as_str(), None | Some("NFC")) {
            return Err(self.unsupported("normalizer", &self.whole["normalizer"], "none, NFC"));
        }
        let mut patterns = Vec::new();
        for part in &parts {
            match part["type"].as_str() {
                Some("Digits") if part["individual_digits"] == true => patterns.push(r"\p{N}".to_owned()),
                Some("Split") if part["behavior"] == "Isolated" && part["invert"] != true => {
                    // the look-ahead is what `Pattern::split` does by other means
                    let pattern = part["pattern"]["Regex"].as_str().unwrap_or_default();
                    patterns.push(pattern.replace(r"\s+(?!\S)|", ""));
                }
                Some("ByteLevel") if part["add_prefix_space"] != true => {
                    if part["use_regex"] != false {
                        patterns.push(pretokenizers::GPT2.to_owned());
                    }
                }
                _ => return Err(self.unsupported("pre_tokenizer", part, &known)),
            }
        }
        pretokenizers::name_of(&patterns, whole_words)
            .ok_or_else(|| self.unsupported("pre_tokenizer", &self.whole["pre_tokenizer"], &known))
    }

    /// Whether a space is put before a text.
    fn space_prefix(&self) -> Result<bool, TextError> {
        let mut prefix = false;
        for (field, inner) in [("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")] {
            for part in parts(&self.whole[field], inner) {
                match part["type"].as_str() {
                    Some("Prepend") if part["prepend"] == "▁" => prefix = true,
                    Some("Replace") if part["pattern"]["String"] == " " && part["content"] == "▁" => {}
                    Some("Metaspace") if part["replacement"] == "▁" => {
                        prefix |= part["prepend_scheme"] != "never" && part["add_prefix_space"] != false;
                    }
                    // gemma cuts at spaces that its normaliser has replaced already: never
                    Some("Split") if part["pattern"]["String"] == " " => {}
                    _ => return Err(self.unsupported(field, part, "Prepend, Replace and Metaspace of \"▁\"")),
                }
            }
        }
        Ok(prefix)
    }

    fn unsupported(&self, field: &str, what: &Json, known: &str) -> TextError {
        let mut text = what.to_string();
        if text.chars().count() > 300 {
            text = text.chars().take(297).chain("...".chars()).collect();
        }
        let (place, what) = (format!("{}: {field}", self.place), format!("{text} in a GGUF file"));
        TextError::Unsupported { place, what, known: known.to_owned() }
    }
}

/// The parts of a sequence, or the one part, or none.
fn parts<'a>(whole: &'a Json, inner: &str) -> Vec<&'a Json> {
    match (whole["type"].as_str(), whole[inner].as_array()) {
        (None, _) => Vec::new(),
        (Some("Sequence"), Some(list)) => list.iter().collect(),
        _ => vec![whole],
    }
}

fn mentions(part: &Json, kind: &str) -> bool {
    part["type"] == kind || part["decoders"].as_array().into_iter().flatten().any(|inner| mentions(inner, kind))
}

/// Scores that merge in the order of the merges: what comes first scores highest. A token that no merge makes is
/// found whole or not at all.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut rank = std::collections::HashMap::with_capacity(merges.len());
    for (at, (a, b)) in merges.iter().enumerate() {
        rank.entry(format!("{a}{b}")).or_insert(at);
    }
    tokens.iter().map(|t| rank.get(t).map_or(-1e9, |&at| -(at as f32))).collect()
}
