//! Tokenizers: text to token ids and back.
//!
//! Three sources, one type: a byte-level or SentencePiece vocabulary inside a GGUF file, merged by our own code, and
//! a tokenizer.json, encoded by the `tokenizers` crate. All share [`vocab`], where each id's bytes are known, so
//! decoding and streaming are the same for all.

mod byte_bpe;
mod byte_map;
mod gguf;
mod json;
mod merge;
mod pretokenizers;
mod sentencepiece;
mod specials;
mod to_gguf;
mod vocab;

use std::borrow::Cow;

use aho_corasick::AhoCorasick;
use meden_files::ModelFiles;

use super::error::TextError;
use super::shield::Prompt;
use specials::{Part, Specials};
use vocab::{Kind, Vocab};

/// Control tokens that end a turn or a text under these names, whatever else the files say.
const END_NAMES: [&str; 5] = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>"];

/// Turns text into token ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    pipeline: Pipeline,
    bos: Option<u32>,
    eos: Option<u32>,
    ends: Vec<u32>,
    /// Whether the space that encoding put before the text is taken off again.
    strips_space: bool,
    kind: String,
}

/// How the names of control tokens in a text are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    /// As text.
    Plain,
    /// As tokens.
    Tokens,
    /// As tokens, unless this character breaks them; it is taken out.
    Guarded(char),
}

/// Who encodes.
#[derive(Debug)]
enum Pipeline {
    Native(Box<Native>),
    Json(Box<json::Json>),
}

/// Our own encoders and what is put around a text.
#[derive(Debug)]
struct Native {
    specials: Specials,
    bpe: Encoder,
    add_bos: bool,
    add_eos: bool,
    unknown: Option<u32>,
}

/// The two kinds of merging.
#[derive(Debug)]
enum Encoder {
    ByteBpe(byte_bpe::ByteBpe),
    SentencePiece(sentencepiece::SentencePiece),
}

impl Native {
    fn encode(&self, vocab: &Vocab, text: &str, read: Read) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        for part in self.specials.split(text, read != Read::Plain) {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text, at) => {
                    let text = match read {
                        Read::Guarded(guard) if text.contains(guard) => Cow::Owned(text.replace(guard, "")),
                        _ => Cow::Borrowed(text),
                    };
                    let part = (text.as_ref(), at);
                    match &self.bpe {
                        Encoder::ByteBpe(bpe) => bpe.encode(vocab, part, self.unknown, &mut ids)?,
                        Encoder::SentencePiece(model) => model.encode(vocab, part, self.unknown, &mut ids)?,
                    }
                }
            }
        }
        Ok(ids)
    }
}

impl Tokenizer {
    /// The tokenizer of a model: the vocabulary inside its GGUF file, or the tokenizer.json beside its weights.
    pub fn load(files: &ModelFiles) -> Result<Tokenizer, TextError> {
        let mut tokenizer = match (files.gguf(), files.tokenizer_json()) {
            (Some(gguf), _) => gguf::load(gguf, files.architecture())?,
            (None, Some(path)) => json::load(path, files)?,
            (None, None) => return Err(TextError::NoTokenizer { path: files.path().display().to_string() }),
        };
        let generation = files.generation_config().map_or(&[][..], |c| c.eos_ids());
        tokenizer.add_ends(generation);
        Ok(tokenizer)
    }

    /// Completes the ids that end a text: those the files name, and control tokens with well-known names.
    fn add_ends(&mut self, more: &[u32]) {
        let vocab = &self.vocab;
        let known = END_NAMES.iter().filter_map(|name| vocab.name_id(name.as_bytes()));
        let known = known.filter(|&id| vocab.kind(id) == Kind::Control);
        let more = more.iter().copied().filter(|&id| (id as usize) < vocab.len());
        self.ends.extend(more.chain(known));
        let mut seen = std::collections::BTreeSet::new();
        self.ends.retain(|&id| seen.insert(id));
    }

    /// Ids of a text in which special tokens, such as "<|im_start|>", are parsed: for prompts that a template wrote.
    ///
    /// With `add_special`, what the model wants around a text (bos, eos) is put there, but never doubled: a prompt
    /// whose template wrote the bos token keeps that one.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        match &self.pipeline {
            Pipeline::Native(native) => {
                let mut ids = native.encode(&self.vocab, text, Read::Tokens)?;
                if let Some(bos) = self.bos.filter(|bos| add_special && native.add_bos && ids.first() != Some(bos)) {
                    ids.insert(0, bos);
                }
                if let Some(eos) = self.eos.filter(|eos| add_special && native.add_eos && ids.last() != Some(eos)) {
                    ids.push(eos);
                }
                Ok(ids)
            }
            Pipeline::Json(json) => {
                let mut ids = json.encode(text, add_special)?;
                let doubled = self.bos.is_some_and(|bos| ids.starts_with(&[bos, bos]));
                if add_special && doubled && json.encode(text, false)?.first() == self.bos.as_ref() {
                    ids.remove(0);
                }
                Ok(ids)
            }
        }
    }

    /// Ids of a prompt that a chat template wrote, or of what follows a part of it that has been read. Nothing is put
    /// around it: the template writes bos itself.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, TextError> {
        match &self.pipeline {
            Pipeline::Native(native) => native.encode(&self.vocab, &prompt.text, Read::Guarded(prompt.guard)),
            Pipeline::Json(json) if prompt.text.contains(prompt.guard) => {
                json.encode_guarded(&prompt.text, prompt.guard)
            }
            Pipeline::Json(json) => json.encode(&prompt.text, false),
        }
    }

    /// What finds the names of control tokens in a text; `None` where there is no such token.
    pub(super) fn control_names(&self) -> Option<&AhoCorasick> {
        self.vocab.control_names()
    }

    /// Ids of a text in which the names of control tokens are ordinary text: for words that a user or a document
    /// wrote. Nothing is put around it.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TextError> {
        match &self.pipeline {
            Pipeline::Native(native) => native.encode(&self.vocab, text, Read::Plain),
            Pipeline::Json(json) => json.encode_plain(text),
        }
    }

    /// The text of ids. Bytes that make no character become U+FFFD; an id outside the vocabulary gives nothing.
    /// With `skip_special`, control tokens give nothing either.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let (mut bytes, mut started) = (Vec::with_capacity(ids.len() * 4), false);
        for &id in ids {
            self.append_bytes(id, skip_special, &mut started, &mut bytes);
        }
        String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }

    /// Appends the bytes that an id adds to a text; `started` says whether the text has begun.
    pub(super) fn append_bytes(&self, id: u32, skip_special: bool, started: &mut bool, out: &mut Vec<u8>) {
        let (kind, mut bytes) = (self.vocab.kind(id), self.vocab.get(id));
        if bytes.is_empty() || skip_special && matches!(kind, Kind::Control | Kind::Unknown) {
            return;
        }
        if !*started && self.strips_space && kind == Kind::Normal {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        *started = true;
        out.extend_from_slice(bytes);
    }

    /// The bytes of one token, perhaps a part of a character; empty for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.vocab.get(id).to_vec()
    }

    /// One token for people to read: its text, or its bytes as "<0xE4><0xB8>" where they are no whole characters.
    pub fn token_text(&self, id: u32) -> String {
        let bytes = self.vocab.get(id);
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().map(|byte| format!("<0x{byte:02X}>")).collect(),
        }
    }

    /// The id of one token, by the text it stands for (" Paris") or by the vocabulary's spelling ("ĠParis",
    /// "▁Paris", "<0x0A>").
    pub fn id_of(&self, token: &str) -> Option<u32> {
        let vocab = &self.vocab;
        let byte = || {
            let byte = gguf::byte_name(token)?;
            vocab.ids_of(Kind::Byte).find(|&id| vocab.get(id) == [byte])
        };
        let spelled = || vocab.text_id(&byte_map::decode(&byte_map::bytes(), token)?);
        let spaced = || vocab.text_id(token.replace(sentencepiece::SPACE, " ").as_bytes());
        let (name, text) = (vocab.name_id(token.as_bytes()), vocab.text_id(token.as_bytes()));
        name.or(text).or_else(byte).or_else(spelled).or_else(spaced)
    }

    /// Number of ids. A model's output may be longer: some pad it.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, as the files name it. Generation may end at others too, see
    /// [`Tokenizer::eos_ids`].
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Every token at which generation ends: end of text, of turn, of message, from the vocabulary, from
    /// generation_config.json, and by well-known names.
    pub fn eos_ids(&self) -> &[u32] {
        &self.ends
    }

    /// What it is: "byte-level BPE, pre-tokenizer smollm".
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Whether an id is structure that [`Tokenizer::decode`] leaves out on request.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), Kind::Control | Kind::Unknown)
    }
}
