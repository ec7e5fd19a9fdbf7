//! A tokenizer out of the vocabulary that a GGUF file embeds (`tokenizer.ggml.*`).

use meden_files::gguf::Gguf;

use super::super::error::TextError;
use super::byte_bpe::ByteBpe;
use super::byte_map;
use super::pretokenizers::{self, PreTokenizer};
use super::sentencepiece::{self, SentencePiece};
use super::specials::Specials;
use super::vocab::{Kind, Vocab};
use super::{Encoder, Native, Tokenizer};

/// Kinds of vocabulary that are read, as `tokenizer.ggml.model` names them.
const MODELS: &str = "gpt2 (byte-level BPE), llama (SentencePiece BPE)";

/// Reads the embedded vocabulary.
pub(super) fn load(gguf: &Gguf, architecture: &str) -> Result<Tokenizer, TextError> {
    let place = gguf.path().display().to_string();
    match gguf.str("tokenizer.ggml.model")? {
        // other programs write weights without a vocabulary so
        "none" | "no_vocab" => Err(TextError::NoTokenizer { path: place }),
        "gpt2" => byte_level(gguf, &place),
        "llama" => sentence_piece(gguf, architecture, &place),
        other => Err(TextError::Unsupported {
            place: format!("{place}: tokenizer.ggml.model"),
            what: format!("the vocabulary {other:?}"),
            known: MODELS.to_owned(),
        }),
    }
}

fn byte_level(gguf: &Gguf, place: &str) -> Result<Tokenizer, TextError> {
    let field = format!("{place}: tokenizer.ggml.pre");
    let Some(pre) = gguf.opt_str("tokenizer.ggml.pre")? else {
        return Err(TextError::Unsupported {
            place: field,
            what: "a byte-level vocabulary that does not name its pre-tokenizer".to_owned(),
            known: pretokenizers::known(),
        });
    };
    let pre = PreTokenizer::named(pre, &field)?;
    let table = byte_map::bytes();
    let vocab = vocab(gguf, place, |spelling, kind| match kind {
        // What cannot be spelled in bytes stands for itself, as special tokens do.
        Kind::Normal | Kind::Unused => Some(byte_map::decode(&table, spelling).unwrap_or_else(|| spelling.into())),
        _ => Some(spelling.into()),
    })?;
    let add_bos = pre.add_bos;
    let bpe = ByteBpe::new(&vocab, gguf.str_array("tokenizer.ggml.merges")?, pre, place)?;
    let kind = format!("byte-level BPE, pre-tokenizer {}", bpe.pre_tokenizer());
    let specials = Specials::new(&vocab, |_| false, place)?;
    let native = Native { specials, bpe: Encoder::ByteBpe(bpe), add_bos, add_eos: false, unknown: None };
    finish(gguf, vocab, native, kind, place)
}

fn sentence_piece(gguf: &Gguf, architecture: &str, place: &str) -> Result<Tokenizer, TextError> {
    let vocab = vocab(gguf, place, |spelling, kind| match kind {
        Kind::Byte => byte_name(spelling).map(|byte| vec![byte]),
        Kind::Control => Some(spelling.into()),
        _ => Some(spelling.replace(sentencepiece::SPACE, " ").into()),
    })?;
    let space_prefix = gguf.opt_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let scores = gguf.f32_array("tokenizer.ggml.scores")?;
    let model = SentencePiece::new(&vocab, scores, space_prefix, place)?;
    // Phi 3's special tokens swallow the white space after them (`rstrip` in its tokenizer.json); GGUF has no field
    // for that.
    let keeps_right = [&b"<s>"[..], b"<unk>", b"<|endoftext|>"];
    let strip_right = |id| architecture == "phi3" && !keeps_right.contains(&vocab.get(id));
    let specials = Specials::new(&vocab, strip_right, place)?;
    let unknown = match special(gguf, &vocab, "unknown", place)? {
        Some(id) => Some(id),
        None => vocab.ids_of(Kind::Unknown).next(),
    };
    let bpe = Encoder::SentencePiece(model);
    let native = Native { specials, bpe, add_bos: true, add_eos: false, unknown };
    finish(gguf, vocab, native, "SentencePiece BPE".to_owned(), place)
}

/// The byte that "<0x0A>" names.
pub(super) fn byte_name(spelling: &str) -> Option<u8> {
    let hex = spelling.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 2)
}

/// All tokens; `bytes` says what a token of this spelling and kind stands for.
fn vocab(gguf: &Gguf, place: &str, bytes: impl Fn(&str, Kind) -> Option<Vec<u8>>) -> Result<Vocab, TextError> {
    let tokens = gguf.str_array("tokenizer.ggml.tokens")?;
    let types = gguf.opt_i32_array("tokenizer.ggml.token_type")?;
    if let Some(types) = types.filter(|t| t.len() != tokens.len()) {
        return Err(TextError::vocabulary(
            format!("{place}: tokenizer.ggml.token_type"),
            format!("{} types for {} tokens", types.len(), tokens.len()),
        ));
    }
    let mut vocab = Vocab::with_capacity(tokens.len());
    for (id, spelling) in tokens.iter().enumerate() {
        let kind = types.map_or(Kind::Normal, |t| Kind::from_gguf(t[id]));
        let field = || format!("{place}: tokenizer.ggml.tokens[{id}]");
        let bytes = bytes(spelling, kind).ok_or_else(|| {
            TextError::vocabulary(field(), format!("{spelling:?} is marked as a byte but names none"))
        })?;
        if !vocab.push(&bytes, kind) {
            return Err(TextError::vocabulary(field(), "the tokens before it take 4 GiB"));
        }
    }
    vocab.index();
    Ok(vocab)
}

/// A special token's id, `tokenizer.ggml.<name>_token_id`; one outside the vocabulary is an error.
fn special(gguf: &Gguf, vocab: &Vocab, name: &str, place: &str) -> Result<Option<u32>, TextError> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    match gguf.opt_u32(&key)? {
        Some(id) if id as usize >= vocab.len() => Err(TextError::vocabulary(
            format!("{place}: {key}"),
            format!("id {id} is outside the vocabulary of {} tokens", vocab.len()),
        )),
        id => Ok(id),
    }
}

/// What both kinds of vocabulary have in common: the special ids and what is put around a text.
fn finish(gguf: &Gguf, vocab: Vocab, mut native: Native, kind: String, place: &str) -> Result<Tokenizer, TextError> {
    let id = |name: &str| special(gguf, &vocab, name, place);
    let (bos, eos) = (id("bos")?, id("eos")?);
    let ends = [eos, id("eot")?, id("eom")?].into_iter().flatten().collect();
    for (key, wanted, token) in
        [("add_bos_token", &mut native.add_bos, bos), ("add_eos_token", &mut native.add_eos, eos)]
    {
        let said = gguf.opt_bool(&format!("tokenizer.ggml.{key}"))?;
        if said == Some(true) && token.is_none() {
            let why = "it is true, but the file names no such token";
            return Err(TextError::vocabulary(format!("{place}: tokenizer.ggml.{key}"), why));
        }
        *wanted = said.unwrap_or(*wanted) && token.is_some();
    }
    let strips_space = matches!(&native.bpe, Encoder::SentencePiece(model) if model.space_prefix);
    Ok(Tokenizer { vocab, pipeline: super::Pipeline::Native(Box::new(native)), bos, eos, ends, strips_space, kind })
}
