//! The tokenizer's keys, and whether they cut text as the folder's own tokenizer does.

use meden_files::ModelFiles;
use meden_files::gguf::Value;

use crate::text::{TextError, Tokenizer};

/// A text with what vocabularies differ in: case, contractions, digits, runs of spaces and newlines, marks, accents,
/// scripts without spaces, emoji, code, control tokens.
const PROBE: &str = "Hello world! I'm here, they'LL say it's 3.14159 or 2,000,000.\n\n\n  \tTabs  and   spaces \r\n\
    naïve café Ünïcödé ÀÉÎ straße — “quoted” … ½ ² Ⅷ 1234567890\nпривет мир שלום مرحبا नमस्ते 你好世界 こんにちは 한국어 ไทย\n\
    👍🏽 👩‍👩‍👧 🇺🇳 \u{200b}zero\u{feff} e\u{301}a\u{30a}\nfor (int i=0;i<10;++i){ x[i]+=y->z; } // comment\n\
    \"a_b\", 'c-d' #tag @user https://example.org/?q=1&r=2 camelCaseHTTPServer    end   \n ";

pub(super) fn metadata(files: &ModelFiles, original: Option<&Tokenizer>) -> Result<Vec<(String, Value)>, TextError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let Some(tokenizer) = original else { return Ok(vec![(key("model"), "none".into())]) };
    let rows = files.require("model.embed_tokens.weight")?.shape.first().copied().unwrap_or(0);
    let mut made = tokenizer.gguf_metadata(files, rows)?;
    let (bos, eos) = (tokenizer.bos(), tokenizer.eos());
    let other_end = tokenizer.eos_ids().iter().copied().find(|&id| Some(id) != eos);
    let special = |token: Option<&meden_files::hf::SpecialToken>| token.and_then(|t| tokenizer.id_of(t.text()));
    let config = files.tokenizer_config();
    for (name, id) in [
        ("bos_token_id", bos),
        ("eos_token_id", eos),
        ("eot_token_id", other_end),
        ("unknown_token_id", special(config.and_then(|c| c.unk_token.as_ref()))),
        ("padding_token_id", special(config.and_then(|c| c.pad_token.as_ref()))),
    ] {
        if let Some(id) = id {
            made.push((key(name), Value::U32(id)));
        }
    }
    // what the folder's tokenizer puts around a text, whichever of its files says so
    let ids = tokenizer.encode("a", true)?;
    made.push((key("add_bos_token"), Value::Bool(bos.is_some() && ids.first() == bos.as_ref())));
    made.push((key("add_eos_token"), Value::Bool(eos.is_some() && ids.last() == eos.as_ref())));
    if let Some(template) = files.chat_template() {
        made.push(("tokenizer.chat_template".to_owned(), Value::String(template)));
    }
    Ok(made)
}

/// Refuses a vocabulary that came back from the keys as another.
pub(super) fn check(files: &ModelFiles, original: &Tokenizer, again: &Tokenizer) -> Result<(), TextError> {
    let refuse = |what: String| {
        let place = files.tokenizer_json().unwrap_or(files.path()).display().to_string();
        let known = "in GGUF, vocabularies whose text is cut by one of its named pre-tokenizers".to_owned();
        Err(TextError::Unsupported { place, what, known })
    };
    for (name, wanted, got) in [("bos", original.bos(), again.bos()), ("eos", original.eos(), again.eos())] {
        if wanted != got {
            return refuse(format!("the {name} token {wanted:?}, which becomes {got:?},"));
        }
    }
    for line in PROBE.split_inclusive('\n').chain([PROBE, "a", " a", ""]) {
        for (wanted, got) in [
            (original.encode(line, true)?, again.encode(line, true)?),
            (original.encode_plain(line)?, again.encode_plain(line)?),
        ] {
            if wanted != got {
                let at = wanted.iter().zip(&got).take_while(|(a, b)| a == b).count();
                let piece = |ids: &[u32], t: &Tokenizer| ids.get(at).map_or(String::new(), |&id| t.token_text(id));
                let (a, b) = (piece(&wanted, original), piece(&got, again));
                return refuse(format!("a tokenizer that cuts {line:?} into {a:?} where its GGUF form has {b:?}"));
            }
        }
    }
    Ok(())
}
