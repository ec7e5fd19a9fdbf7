//! Byte-level BPE (GPT-2 and its heirs): words of bytes, merged pair by pair in the order of the merge list.
//!
//! Works on ids: a merge is "ids a and b become id c at rank r", looked up in one hash table, so no text is copied
//! while merging. Words repeat in any text; what they became is remembered for the length of one call.

use hashbrown::HashMap;

use super::super::error::TextError;
use super::byte_map;
use super::merge::{Merger, NONE};
use super::pretokenizers::PreTokenizer;
use super::vocab::Vocab;

/// Longest word, in bytes, that is remembered; longer ones hardly repeat.
const REMEMBERED: usize = 32;

/// Merge table of a byte-level vocabulary.
#[derive(Clone, Debug)]
pub(super) struct ByteBpe {
    pre: PreTokenizer,
    /// (left id, right id) to (rank, merged id).
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// Token of each single byte; [`NONE`] where there is none.
    byte_ids: Box<[u32; 256]>,
}

impl ByteBpe {
    /// `merges` are lines "left right" in the vocabulary's spelling, best first; `place` is the file, for errors.
    pub(super) fn new(vocab: &Vocab, merges: &[String], pre: PreTokenizer, place: &str) -> Result<ByteBpe, TextError> {
        let table = byte_map::bytes();
        let mut ranks = HashMap::with_capacity(merges.len());
        let mut bytes = Vec::new();
        for (rank, line) in merges.iter().enumerate() {
            let fail = |why: String| TextError::vocabulary(format!("{place}: tokenizer.ggml.merges[{rank}]"), why);
            // A token may itself be a space-like character, but never begins with the separator.
            let cut = line.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| at);
            let Some(cut) = cut.filter(|&at| at + 1 < line.len()) else {
                return Err(fail(format!("{line:?} is not two tokens with a space between")));
            };
            let (left, right) = (&line[..cut], &line[cut + 1..]);
            bytes.clear();
            let left_spelled = byte_map::decode_into(&table, left, &mut bytes);
            let middle = bytes.len();
            let spelled = left_spelled && byte_map::decode_into(&table, right, &mut bytes);
            // Some files mark a token that merges lead to as a special one; those are known by their spelling.
            let find = |bytes: &[u8], spelling: &dyn Fn() -> String| {
                let id = if spelled { vocab.text_id(bytes) } else { None };
                id.or_else(|| vocab.name_id(spelling().as_bytes()))
                    .ok_or_else(|| fail(format!("token {:?} is not in the vocabulary of {}", spelling(), vocab.len())))
            };
            let a = find(&bytes[..middle], &|| left.to_owned())?;
            let b = find(&bytes[middle..], &|| right.to_owned())?;
            let c = find(&bytes, &|| format!("{left}{right}"))?;
            ranks.entry((a, b)).or_insert((rank as u32, c));
        }
        let byte_ids = std::array::from_fn(|byte| vocab.text_id(&[byte as u8]).unwrap_or(NONE));
        Ok(ByteBpe { pre, merges: ranks, byte_ids: Box::new(byte_ids) })
    }

    /// Name of the pre-tokenizer.
    pub(super) fn pre_tokenizer(&self) -> &'static str {
        self.pre.name()
    }

    /// Appends the ids of a text that holds no special tokens. `unknown` stands for bytes without a token; `at` is
    /// where the text starts in the whole, for errors.
    pub(super) fn encode(
        &self,
        vocab: &Vocab,
        (text, at): (&str, usize),
        unknown: Option<u32>,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        let mut words = Words { merger: Merger::default(), seen: HashMap::new() };
        let (mut done, mut result) = (at, Ok(()));
        self.pre.split(text, |word| {
            if result.is_ok() {
                result = self.word(vocab, (word, done), unknown, (&mut words, ids));
            }
            done += word.len();
        });
        result
    }

    /// Appends the ids of one word, remembered or merged.
    fn word(
        &self,
        vocab: &Vocab,
        (word, at): (&str, usize),
        unknown: Option<u32>,
        (words, ids): (&mut Words, &mut Vec<u32>),
    ) -> Result<(), TextError> {
        if self.pre.whole_words
            && let Some(id) = vocab.text_id(word.as_bytes())
        {
            ids.push(id);
            return Ok(());
        }
        if let Some(&(start, end)) = words.seen.get(word) {
            ids.extend_from_within(start..end);
            return Ok(());
        }
        let start = ids.len();
        words.merger.clear();
        for (i, &byte) in word.as_bytes().iter().enumerate() {
            let id = match self.byte_ids[usize::from(byte)] {
                NONE => unknown.ok_or(TextError::NoToken { byte, at: at + i })?,
                id => id,
            };
            words.merger.push(i as u32, 1, id);
        }
        let found = words.merger.merge(|l, r| self.merges.get(&(l.id, r.id)).copied());
        ids.extend(found.map(|s| s.id));
        if word.len() <= REMEMBERED {
            words.seen.insert(word.to_owned(), (start, ids.len()));
        }
        Ok(())
    }
}

/// What is kept from word to word of one text.
struct Words {
    merger: Merger,
    /// Where the ids of a word stand among those written so far.
    seen: HashMap<String, (usize, usize)>,
}
