//! SentencePiece BPE (`tokenizer.ggml.model` = llama: Llama 1 and 2, Mistral, Phi 3, Gemma).
//!
//! There is no merge list: two neighbours may merge when together they are a piece of the vocabulary, and the piece
//! with the highest score goes first, the leftmost of equals. Characters that no piece covers become byte tokens.
//! Kudo and Richardson, "SentencePiece", EMNLP 2018 (<https://arxiv.org/abs/1808.06226>).
//!
//! The vocabulary writes a space as "▁" and cannot tell the two apart; here pieces hold the space itself.

use super::super::error::TextError;
use super::merge::{Merger, NONE, Symbol};
use super::vocab::Vocab;

/// The character that stands for a space in the vocabulary.
pub(super) const SPACE: char = '▁';

/// Scores and byte tokens of a SentencePiece vocabulary.
#[derive(Clone, Debug)]
pub(super) struct SentencePiece {
    /// By id: smaller merges first. The order of the scores, turned round and made integers.
    keys: Vec<u32>,
    /// Token of each single byte; [`NONE`] where there is none.
    byte_ids: Box<[u32; 256]>,
    /// Whether a text gets a space before it, after special tokens too.
    pub(super) space_prefix: bool,
}

impl SentencePiece {
    /// `scores` by id; `place` is the file, for errors.
    pub(super) fn new(
        vocab: &Vocab,
        scores: &[f32],
        space_prefix: bool,
        place: &str,
    ) -> Result<SentencePiece, TextError> {
        if scores.len() != vocab.len() {
            return Err(TextError::vocabulary(
                format!("{place}: tokenizer.ggml.scores"),
                format!("{} scores for {} tokens", scores.len(), vocab.len()),
            ));
        }
        if let Some(id) = scores.iter().position(|s| s.is_nan()) {
            let field = format!("{place}: tokenizer.ggml.scores[{id}]");
            return Err(TextError::vocabulary(field, "it is not a number"));
        }
        let mut byte_ids = Box::new([NONE; 256]);
        for id in vocab.ids_of(super::vocab::Kind::Byte) {
            if let [byte] = *vocab.get(id) {
                byte_ids[usize::from(byte)] = id;
            }
        }
        Ok(SentencePiece { keys: scores.iter().copied().map(key).collect(), byte_ids, space_prefix })
    }

    /// Appends the ids of a text that holds no special tokens. `unknown` stands for characters without pieces; `at`
    /// is where the text starts in the whole, for errors.
    pub(super) fn encode(
        &self,
        vocab: &Vocab,
        (text, at): (&str, usize),
        unknown: Option<u32>,
        ids: &mut Vec<u32>,
    ) -> Result<(), TextError> {
        let prefix = if self.space_prefix { " " } else { "" };
        let text = format!("{prefix}{text}").replace(SPACE, " ");
        if u32::try_from(text.len()).is_err() {
            return Err(TextError::Encode { why: format!("it has {} bytes, the most is 4 GiB", text.len()) });
        }
        let bytes = text.as_bytes();
        let of = |s: &Symbol| s.start as usize..(s.start + s.len) as usize;
        let mut merger = Merger::default();
        for (start, c) in text.char_indices() {
            let len = c.len_utf8();
            let id = vocab.text_id(&bytes[start..start + len]).unwrap_or(NONE);
            merger.push(start as u32, len as u32, id);
        }
        let found = merger.merge(|l, r| {
            let id = vocab.text_id(&bytes[l.start as usize..(r.start + r.len) as usize])?;
            Some((self.keys[id as usize], id))
        });
        for symbol in found {
            if symbol.id == NONE {
                let at = (at + symbol.start as usize).saturating_sub(prefix.len());
                self.bytes(&bytes[of(symbol)], at, unknown, ids)?;
            } else {
                ids.push(symbol.id);
            }
        }
        Ok(())
    }

    /// A character that no piece covers: its byte tokens, or else one unknown token.
    fn bytes(&self, character: &[u8], at: usize, unknown: Option<u32>, ids: &mut Vec<u32>) -> Result<(), TextError> {
        let found = character.iter().map(|&byte| (byte, self.byte_ids[usize::from(byte)]));
        match found.clone().find(|&(_, id)| id == NONE) {
            None => ids.extend(found.map(|(_, id)| id)),
            Some((byte, _)) => ids.push(unknown.ok_or(TextError::NoToken { byte, at })?),
        }
        Ok(())
    }
}

/// A key that falls as the score rises: the bits of a float order like integers once the sign is dealt with.
fn key(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::super::vocab::Kind;
    use super::*;

    #[test]
    fn keys_fall_as_scores_rise() {
        let scores = [f32::NEG_INFINITY, -1e6, -2.5, -0.0, 0.0, 1e-20, 3.0, f32::INFINITY];
        for pair in scores.windows(2) {
            assert!(key(pair[0]) >= key(pair[1]), "{pair:?}");
        }
        assert_eq!(key(-0.0), key(0.0));
        assert!(key(-2.5) > key(-2.4));
    }

    /// Pieces, their scores, and byte tokens for the letters of "é".
    fn model(space_prefix: bool) -> (Vocab, SentencePiece) {
        let pieces: &[(&str, f32)] =
            &[("a", -9.0), ("b", -9.0), (" ", -9.0), ("ab", -2.0), ("ba", -1.0), (" a", -3.0), ("aba", -4.0)];
        let mut vocab = Vocab::with_capacity(9);
        for (text, _) in pieces {
            assert!(vocab.push(text.as_bytes(), Kind::Normal));
        }
        assert!(vocab.push(b"\xC3", Kind::Byte));
        assert!(vocab.push(b"\xA9", Kind::Byte));
        vocab.index();
        let mut scores: Vec<f32> = pieces.iter().map(|p| p.1).collect();
        scores.extend([0.0, 0.0]);
        let model = SentencePiece::new(&vocab, &scores, space_prefix, "test").unwrap();
        (vocab, model)
    }

    #[test]
    fn the_highest_score_merges_first() {
        let (vocab, model) = model(false);
        let ids = |text: &str| {
            let mut ids = Vec::new();
            model.encode(&vocab, (text, 0), None, &mut ids).map(|()| ids)
        };
        assert_eq!(ids("abab").unwrap(), [6, 1]);
        assert_eq!(ids("aba").unwrap(), [6]);
        assert_eq!(ids("aéb").unwrap(), [0, 7, 8, 1]);
        assert_eq!(ids(" a▁a").unwrap(), [5, 5]);
        assert!(matches!(ids("aż").unwrap_err(), TextError::NoToken { byte: 0xC5, at: 1 }));
    }

    #[test]
    fn a_space_goes_before_a_text_where_the_vocabulary_wants_one() {
        let (vocab, model) = model(true);
        let mut ids = Vec::new();
        model.encode(&vocab, ("a", 0), None, &mut ids).unwrap();
        assert_eq!(ids, [5]);
    }

    #[test]
    fn scores_have_to_fit_the_vocabulary() {
        let (vocab, _) = model(false);
        let error = SentencePiece::new(&vocab, &[0.0; 3], false, "f.gguf").unwrap_err();
        assert!(error.to_string().contains("3 scores for 9 tokens"), "{error}");
        let mut scores = [0.0; 9];
        scores[4] = f32::NAN;
        let error = SentencePiece::new(&vocab, &scores, false, "f.gguf").unwrap_err();
        assert!(error.to_string().contains("scores[4]"), "{error}");
    }
}
