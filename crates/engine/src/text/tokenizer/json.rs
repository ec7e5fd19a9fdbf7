//! A tokenizer out of a `tokenizer.json`, by the `tokenizers` crate.
//!
//! The crate encodes; ids are turned back to bytes here, so that streaming works on bytes whatever the vocabulary.
//! A tokenizer.json comes from a stranger: it is bounded in size, and a panic inside the crate becomes an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use meden_files::{FileError, ModelFiles};
use serde_json::Value;
use tokenizers::{AddedVocabulary, Model, OffsetType, PreTokenizer};

use super::super::error::TextError;
use super::gguf::byte_name;
use super::sentencepiece::SPACE;
use super::vocab::{Kind, Vocab};
use super::{Pipeline, Tokenizer, byte_map};

/// Largest file that is read; the largest vocabularies take about 35 MB.
const FILE_MAX: u64 = 256 << 20;
/// Longest run of white space that is encoded. The crate's regular expressions go back through such a run character
/// by character, give up after a million, and then go on with other cuts without saying so.
const SPACES_MAX: usize = 500_000;
/// Decoders that can be turned into a rule for bytes.
const DECODERS: &str = "ByteLevel, Metaspace, and Sequence of Replace, ByteFallback, Fuse and Strip";

/// The crate's tokenizer, and its special tokens as they are treated in plain text.
pub(super) struct Json {
    inner: tokenizers::Tokenizer,
    plain: AddedVocabulary,
}

impl std::fmt::Debug for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Json").finish_non_exhaustive()
    }
}

/// Reads tokenizer.json, and the special tokens that the files beside it name.
pub(super) fn load(path: &Path, files: &ModelFiles) -> Result<Tokenizer, TextError> {
    let place = path.display().to_string();
    let (json, vocab, rule) = parse(&read(path)?, &place)?;
    let id_of = |text: &str| vocab.name_id(text.as_bytes()).or_else(|| vocab.text_id(text.as_bytes()));
    let config = files.tokenizer_config();
    let named = |token: fn(&meden_files::hf::TokenizerConfig) -> Option<&meden_files::hf::SpecialToken>| {
        config.and_then(token).and_then(|t| id_of(t.text()))
    };
    let model_config = files.config();
    let in_vocab = |id: &u32| (*id as usize) < vocab.len();
    let first = model_config.and_then(|c| c.bos_token_id.as_ref()).and_then(|ids| ids.ids().first().copied());
    let bos = named(|c| c.bos_token.as_ref()).or(first.filter(in_vocab));
    let stated: Vec<u32> = model_config.map_or(&[][..], |c| c.eos_ids()).iter().copied().filter(in_vocab).collect();
    let eos = named(|c| c.eos_token.as_ref()).or(stated.first().copied());
    let ends = eos.into_iter().chain(stated).collect();
    let kind = format!("tokenizer.json, {}", if rule.byte_level { "byte-level" } else { "SentencePiece" });
    let strips_space = rule.strips_space;
    Ok(Tokenizer { vocab, pipeline: Pipeline::Json(Box::new(json)), bos, eos, ends, strips_space, kind })
}

/// The file's content: the encoder, each id's bytes, and how spellings become bytes.
fn parse(bytes: &[u8], place: &str) -> Result<(Json, Vocab, Rule), TextError> {
    let inner = guard(|| tokenizers::Tokenizer::from_bytes(bytes));
    let mut inner = inner.map_err(|why| TextError::vocabulary(place, why))?;
    // Cutting or padding a prompt to a training length is nobody's wish here.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|e| TextError::vocabulary(place, e.to_string()))?;
    let rule = rule(&inner, place)?;
    let vocab = vocab(&inner, &rule, place)?;
    let mut plain = inner.get_added_vocabulary().clone();
    plain.set_encode_special_tokens(true);
    Ok((Json { inner, plain }, vocab, rule))
}

impl Json {
    /// Ids of a text in which special tokens are parsed; `add_special` puts around it what the file says.
    pub(super) fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        check_spaces(text)?;
        let encoding = guard(|| self.inner.encode_fast(text, add_special)).map_err(|why| TextError::Encode { why })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of a text in which special tokens are parsed and `guard`, which breaks those that must not be, is taken out.
    pub(super) fn encode_guarded(&self, text: &str, guard: char) -> Result<Vec<u32>, TextError> {
        self.encode_pieces(self.inner.get_added_vocabulary(), text, Some(guard))
    }

    /// Ids of a text in which special tokens are ordinary text.
    pub(super) fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode_pieces(&self.plain, text, None)
    }

    fn encode_pieces(&self, added: &AddedVocabulary, text: &str, remove: Option<char>) -> Result<Vec<u32>, TextError> {
        check_spaces(text)?;
        let encoding = guard(|| {
            let mut pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
            if let Some(remove) = remove {
                pieces.normalize(|piece| piece.replace(remove, ""))?;
            }
            if let Some(pre) = self.inner.get_pre_tokenizer() {
                pre.pre_tokenize(&mut pieces)?;
            }
            pieces.tokenize(|piece| self.inner.get_model().tokenize(piece.get()))?;
            pieces.into_encoding(None, 0, OffsetType::None)
        });
        Ok(encoding.map_err(|why| TextError::Encode { why })?.get_ids().to_vec())
    }
}

fn check_spaces(text: &str) -> Result<(), TextError> {
    if text.len() <= SPACES_MAX {
        return Ok(());
    }
    let longest = text.split(|c: char| !c.is_whitespace()).map(|run| run.chars().count()).max().unwrap_or(0);
    if longest > SPACES_MAX {
        let why = format!("it holds {longest} white-space characters in a row, the most is {SPACES_MAX}");
        return Err(TextError::Encode { why });
    }
    Ok(())
}

/// Runs the crate's code; a panic in it is an error like any other.
fn guard<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(format!("the tokenizers library panicked: {said}"))
        }
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let fail = |action: &str, source| FileError::Io { path: path.to_owned(), action: action.to_owned(), source };
    let len = std::fs::metadata(path).map_err(|e| fail("open", e))?.len();
    if len > FILE_MAX {
        let (path, field) = (path.to_owned(), "the length of the file".to_owned());
        return Err(FileError::TooLarge { path, field, value: len, limit: FILE_MAX });
    }
    std::fs::read(path).map_err(|e| fail("read", e))
}

/// How the file's decoder turns spellings into bytes.
#[derive(Debug, Default, PartialEq)]
struct Rule {
    byte_level: bool,
    byte_fallback: bool,
    strips_space: bool,
}

fn rule(inner: &tokenizers::Tokenizer, place: &str) -> Result<Rule, TextError> {
    let place = format!("{place}: decoder");
    let decoder =
        serde_json::to_value(inner.get_decoder()).map_err(|e| TextError::vocabulary(&place, e.to_string()))?;
    let mut rule = Rule::default();
    match rule.add(&decoder) {
        Ok(()) => Ok(rule),
        Err(what) => Err(TextError::Unsupported { place, what, known: DECODERS.to_owned() }),
    }
}

impl Rule {
    /// Takes in one decoder; the error is the part that has no rule.
    fn add(&mut self, decoder: &Value) -> Result<(), String> {
        let field = |name: &str| decoder.get(name);
        let space = |name: &str, text: &str| field(name).and_then(Value::as_str) == Some(text);
        match field("type").and_then(Value::as_str).unwrap_or("none") {
            "ByteLevel" => self.byte_level = true,
            "ByteFallback" => self.byte_fallback = true,
            "Fuse" => {}
            "Metaspace" if space("replacement", "▁") => {
                self.strips_space |= !space("prepend_scheme", "never");
            }
            "Replace" if space("content", " ") && field("pattern").is_some_and(|p| p["String"] == "▁") => {}
            "Strip"
                if space("content", " ") && field("start") == Some(&1.into()) && field("stop") == Some(&0.into()) =>
            {
                self.strips_space = true;
            }
            "Sequence" => {
                let parts = field("decoders").and_then(Value::as_array);
                parts.into_iter().flatten().try_for_each(|part| self.add(part))?;
            }
            _ => return Err(format!("the decoder {decoder}")),
        }
        Ok(())
    }
}

fn vocab(inner: &tokenizers::Tokenizer, rule: &Rule, place: &str) -> Result<Vocab, TextError> {
    let tokens = inner.get_vocab(true);
    let added = inner.get_added_tokens_decoder();
    let most = tokens.values().copied().max().map_or(0, |id| id as usize + 1);
    // Ids are places in a table: one token with id four billion must not ask for a table of that size.
    if most > 2 * tokens.len() + 65_536 {
        let why = format!("the highest id is {}, but there are {} tokens", most - 1, tokens.len());
        return Err(TextError::vocabulary(format!("{place}: vocab"), why));
    }
    let mut spellings: Vec<&str> = vec![""; most];
    for (spelling, &id) in &tokens {
        spellings[id as usize] = spelling;
    }
    let table = byte_map::bytes();
    let mut vocab = Vocab::with_capacity(most);
    for (id, spelling) in spellings.into_iter().enumerate() {
        let token = added.get(&(id as u32));
        let (kind, bytes) = match token {
            Some(token) if token.special => (Kind::Control, token.content.clone().into_bytes()),
            Some(token) => (Kind::UserDefined, token.content.clone().into_bytes()),
            None if spelling.is_empty() => (Kind::Unused, Vec::new()),
            None => plain_token(spelling, rule, &table),
        };
        if !vocab.push(&bytes, kind) {
            return Err(TextError::vocabulary(format!("{place}: vocab"), "its tokens take more than 4 GiB"));
        }
    }
    vocab.index();
    Ok(vocab)
}

/// Kind and bytes of a token of the model itself.
fn plain_token(spelling: &str, rule: &Rule, table: &[Option<u8>; 0x144]) -> (Kind, Vec<u8>) {
    if rule.byte_level {
        return (Kind::Normal, byte_map::decode(table, spelling).unwrap_or_else(|| spelling.into()));
    }
    match byte_name(spelling).filter(|_| rule.byte_fallback) {
        Some(byte) => (Kind::Byte, vec![byte]),
        None => (Kind::Normal, spelling.replace(SPACE, " ").into()),
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
