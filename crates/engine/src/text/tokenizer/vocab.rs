//! The vocabulary: what bytes each id stands for, what kind of token it is, and back from bytes to ids.
//!
//! All bytes lie in one buffer, and the table from bytes to ids holds only ids (4 bytes an entry), so that a
//! vocabulary of 262,144 tokens takes about 6 MB and loads in milliseconds. Bytes are those of the text that the
//! token makes (" Paris"), not the vocabulary's spelling ("ĠParis", "▁Paris").

use std::hash::BuildHasher;
use std::sync::OnceLock;

use aho_corasick::AhoCorasick;
use hashbrown::{DefaultHashBuilder, HashTable};

/// What a token is for; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ordinary text (1).
    Normal,
    /// Stands for text that the vocabulary cannot write (2).
    Unknown,
    /// Structure, such as the end of a turn: parsed only where special tokens are, and not shown (3).
    Control,
    /// Text that is always cut out as one token (4).
    UserDefined,
    /// A place in the table that nothing uses (5).
    Unused,
    /// One byte, for text that no other token covers (6).
    Byte,
}

impl Kind {
    /// The kind of a GGUF token type; unknown numbers, and 0 for "undefined", are ordinary text.
    pub(super) fn from_gguf(number: i32) -> Kind {
        match number {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }

    /// Whether ordinary text may turn into this token.
    fn is_text(self) -> bool {
        matches!(self, Kind::Normal | Kind::UserDefined)
    }
}

/// Bytes and kinds by id, ids by bytes.
#[derive(Clone, Debug)]
pub(super) struct Vocab {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    hasher: DefaultHashBuilder,
    /// Tokens of ordinary text.
    texts: HashTable<u32>,
    /// All the others, by the way they are written: "<|im_end|>".
    names: HashTable<u32>,
    /// Finds the names of control tokens in a text; built at first use.
    control_names: OnceLock<Option<AhoCorasick>>,
}

impl Vocab {
    /// A vocabulary with room for `count` tokens.
    pub(super) fn with_capacity(count: usize) -> Vocab {
        Vocab {
            bytes: Vec::with_capacity(count * 8),
            ends: Vec::with_capacity(count),
            kinds: Vec::with_capacity(count),
            hasher: DefaultHashBuilder::default(),
            texts: HashTable::new(),
            names: HashTable::new(),
            control_names: OnceLock::new(),
        }
    }

    /// Adds the token of the next id. Bytes beyond 4 GiB in all are refused with `false`.
    #[must_use]
    pub(super) fn push(&mut self, bytes: &[u8], kind: Kind) -> bool {
        self.bytes.extend_from_slice(bytes);
        let Ok(end) = u32::try_from(self.bytes.len()) else { return false };
        self.ends.push(end);
        self.kinds.push(kind);
        true
    }

    /// What finds the names of control tokens in a text, but for names of one character; `None` without any.
    pub(super) fn control_names(&self) -> Option<&AhoCorasick> {
        let build = || {
            let long = |name: &[u8]| std::str::from_utf8(name).is_ok_and(|name| name.chars().nth(1).is_some());
            let ids = [Kind::Control, Kind::Unknown].into_iter().flat_map(|kind| self.ids_of(kind));
            let names: Vec<&[u8]> = ids.map(|id| self.get(id)).filter(|name| long(name)).collect();
            // The same names are in the automaton that cuts prompts, so they are not too many here.
            (!names.is_empty()).then(|| AhoCorasick::new(names).ok()).flatten()
        };
        self.control_names.get_or_init(build).as_ref()
    }

    /// Fills the tables, once all tokens are there. Of tokens with the same bytes, ordinary text comes before
    /// user-defined, and then the lower id counts.
    pub(super) fn index(&mut self) {
        let ids = 0..self.len() as u32;
        let normal = ids.clone().filter(|&id| self.kind(id) == Kind::Normal);
        let others = ids.filter(|&id| self.kind(id) != Kind::Normal);
        let (mut texts, mut names) = (HashTable::with_capacity(self.len()), HashTable::new());
        for id in normal.chain(others) {
            let table = if self.kind(id).is_text() { &mut texts } else { &mut names };
            let hash = self.hasher.hash_one(self.get(id));
            if table.find(hash, |&other| self.get(other) == self.get(id)).is_none() {
                table.insert_unique(hash, id, |&other| self.hasher.hash_one(self.get(other)));
            }
        }
        (self.texts, self.names) = (texts, names);
    }

    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of a token; none for an id outside the vocabulary.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let at = id as usize;
        let Some(&end) = self.ends.get(at) else { return &[] };
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// Kind of a token; an id outside the vocabulary is unused.
    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    /// The id that ordinary text of these bytes turns into.
    pub(super) fn text_id(&self, bytes: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(bytes);
        self.texts.find(hash, |&id| self.get(id) == bytes).copied()
    }

    /// The id of a token that is not ordinary text, by its name.
    pub(super) fn name_id(&self, bytes: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(bytes);
        self.names.find(hash, |&id| self.get(id) == bytes).copied()
    }

    /// Ids of one kind, ascending.
    pub(super) fn ids_of(&self, kind: Kind) -> impl Iterator<Item = u32> + '_ {
        (0..self.len() as u32).filter(move |&id| self.kind(id) == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_bytes_go_both_ways() {
        let mut vocab = Vocab::with_capacity(6);
        let tokens: &[(&[u8], Kind)] = &[
            (b"<s>", Kind::Control),
            (b"  ", Kind::UserDefined),
            (b"  ", Kind::Normal),
            (b"a", Kind::Normal),
            (b"a", Kind::Normal),
            (b"\n", Kind::Byte),
        ];
        for (bytes, kind) in tokens {
            assert!(vocab.push(bytes, *kind));
        }
        vocab.index();
        assert_eq!(vocab.text_id(b"<s>"), None);
        assert_eq!(vocab.name_id(b"<s>"), Some(0));
        assert_eq!(vocab.text_id(b"  "), Some(2));
        assert_eq!(vocab.text_id(b"a"), Some(3));
        assert_eq!(vocab.text_id(b"\n"), None);
        assert_eq!(vocab.get(5), b"\n");
        assert_eq!(vocab.get(6), b"");
        assert_eq!(vocab.kind(99), Kind::Unused);
        assert_eq!(vocab.ids_of(Kind::Normal).collect::<Vec<_>>(), [2, 3, 4]);
    }
}
