//! Token ids to text, one at a time.
//!
//! A token may hold half a character (byte-level vocabularies cut emoji in two or three), so bytes wait here until
//! they make whole characters. Put together, the pieces are exactly what [`Tokenizer::decode`] gives for all ids.

use super::tokenizer::Tokenizer;

/// Turns ids into text as they come.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    started: bool,
    pending: Vec<u8>,
}

impl<'t> StreamDecoder<'t> {
    /// For a text that begins here. Special tokens give no text.
    pub fn new(tokenizer: &'t Tokenizer) -> StreamDecoder<'t> {
        StreamDecoder { tokenizer, skip_special: true, started: false, pending: Vec::new() }
    }

    /// For a text that goes on where another ended, as a completion after its prompt: a SentencePiece vocabulary's
    /// first space then separates two words and is kept.
    pub fn continuing(tokenizer: &'t Tokenizer) -> StreamDecoder<'t> {
        StreamDecoder { started: true, ..StreamDecoder::new(tokenizer) }
    }

    /// The same, with special tokens written out.
    #[must_use]
    pub fn with_special(mut self) -> Self {
        self.skip_special = false;
        self
    }

    /// Takes the next id and returns the characters that are complete now, possibly none.
    pub fn push(&mut self, id: u32) -> String {
        let before = self.pending.len();
        self.tokenizer.append_bytes(id, self.skip_special, &mut self.started, &mut self.pending);
        if self.pending.len() == before {
            return String::new();
        }
        take_text(&mut self.pending, false)
    }

    /// What is left at the end: U+FFFD for each piece of a character that was never completed.
    pub fn finish(&mut self) -> String {
        take_text(&mut self.pending, true)
    }
}

/// Takes the whole characters off the front of `bytes`; with `all`, an unfinished one too, as U+FFFD. Bytes that can
/// never become a character are replaced as `String::from_utf8_lossy` does.
fn take_text(bytes: &mut Vec<u8>, all: bool) -> String {
    let mut text = String::new();
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        at += chunk.valid().len();
        let bad = chunk.invalid();
        if bad.is_empty() {
            continue;
        }
        let unfinished = at + bad.len() == bytes.len() && could_go_on(bad);
        if unfinished && !all {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        at += bad.len();
    }
    bytes.drain(..at);
    text
}

/// Whether `bytes` are the beginning of a character that further bytes could complete.
fn could_go_on(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(e) if e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::take_text;

    #[test]
    fn pieces_put_together_are_the_lossy_text() {
        let cases: &[&[u8]] = &[
            "naïve 👩‍👩‍👧 中文".as_bytes(),
            b"\xE2\x82",
            b"\xF0\x9F\x99 \xFF\xFEok\xE2\x82\xAC\xC3",
            b"\xED\xA0\x80\xF4\x90\x80\x80\xC0\xAF",
            b"",
        ];
        for bytes in cases {
            for size in 1..=bytes.len().max(1) {
                let (mut pending, mut text) = (Vec::new(), String::new());
                for piece in bytes.chunks(size) {
                    pending.extend_from_slice(piece);
                    let shown = take_text(&mut pending, false);
                    assert!(pending.len() < 4, "{pending:02x?} is held back");
                    text += &shown;
                }
                text += &take_text(&mut pending, true);
                assert_eq!(text, String::from_utf8_lossy(bytes), "{bytes:02x?} by {size}");
            }
        }
    }
}
