//! Real text: passages of a book, cut between sentences.

use meden_stats::Rng;

use super::Codec;
use crate::error::EvalError;

/// A text with the borders of its sentences and what each of them weighs in tokens.
pub struct Texts {
    name: String,
    text: String,
    /// First byte of each sentence, and the end of the text.
    starts: Vec<usize>,
    /// Tokens before each sentence, and in all.
    before: Vec<usize>,
}

impl Texts {
    /// A text under the name that reports and result files give it.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn new(name: &str, text: &str, codec: &Codec<'_>) -> Result<Texts, EvalError> {
        let text = text.replace("\r\n", "\n");
        let starts = sentence_starts(&text);
        let mut before = vec![0];
        for part in starts.windows(2) {
            before.push(before[before.len() - 1] + codec.encode(&text[part[0]..part[1]])?.len());
        }
        Ok(Texts { name: name.to_owned(), text, starts, before })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens in all, counted sentence by sentence.
    pub fn tokens(&self) -> usize {
        self.before[self.before.len() - 1]
    }

    /// Sentences of at most `tokens` tokens together, from a random place, as the text has them; the last is cut
    /// between two words.
    ///
    /// # Errors
    /// A text with fewer tokens, and what the tokenizer refuses.
    pub fn passage(&self, rng: &mut Rng, tokens: usize, codec: &Codec<'_>) -> Result<Vec<&str>, EvalError> {
        let first = self.start(rng, tokens)?;
        let end = self.before.partition_point(|&b| b <= self.before[first] + tokens) - 1;
        let sentence = |s: usize| &self.text[self.starts[s]..self.starts[s + 1]];
        let mut passage: Vec<&str> = (first..end).map(sentence).collect();
        let left = self.before[first] + tokens - self.before[end];
        if end + 1 < self.starts.len() {
            let mut part = sentence(end);
            while let Some(space) = part.trim_end().rfind(' ') {
                part = &part[..=space];
                if codec.encode(part)?.len() <= left {
                    passage.push(part);
                    break;
                }
            }
        }
        Ok(passage)
    }

    /// Exactly `tokens` ids from the beginning of a random sentence.
    ///
    /// # Errors
    /// A text with fewer tokens, and what the tokenizer refuses.
    pub fn ids(&self, rng: &mut Rng, tokens: usize, codec: &Codec<'_>) -> Result<Vec<u32>, EvalError> {
        // sentences weigh a little less together than apart; a sixteenth more is enough
        let wanted = tokens + tokens / 16 + 16;
        let first = self.start(rng, wanted)?;
        let end = self.before.partition_point(|&b| b < self.before[first] + wanted).min(self.starts.len() - 1);
        let mut ids = codec.encode_document(&self.text[self.starts[first]..self.starts[end]])?;
        if ids.len() < tokens {
            return Err(self.short(tokens));
        }
        ids.truncate(tokens);
        Ok(ids)
    }

    /// A random sentence with at least `tokens` tokens from there on.
    fn start(&self, rng: &mut Rng, tokens: usize) -> Result<usize, EvalError> {
        let last = self.before.partition_point(|&b| b + tokens <= self.tokens());
        if last == 0 {
            return Err(self.short(tokens));
        }
        Ok(rng.below(last as u64) as usize)
    }

    fn short(&self, tokens: usize) -> EvalError {
        EvalError::TextTooShort { name: self.name.clone(), tokens: self.tokens(), needed: tokens }
    }
}

/// Where sentences begin: after a full stop, a question mark or an exclamation mark (with what closes a quotation)
/// and white space, and after an empty line.
fn sentence_starts(text: &str) -> Vec<usize> {
    let mut starts = vec![0];
    let bytes = text.as_bytes();
    let mut ended = false;
    for (at, c) in text.char_indices() {
        let spaced = text[..at].ends_with(char::is_whitespace);
        match c {
            '.' | '?' | '!' => ended = true,
            // what closes a quotation belongs to its sentence; after a space it opens the next
            '"' | '\'' | ')' | '”' | '’' | '_' if !spaced => {}
            c if c.is_whitespace() => {
                let blank = c == '\n' && at > 0 && bytes[at - 1] == b'\n';
                ended |= blank;
            }
            _ => {
                if ended && spaced && at > 0 {
                    starts.push(at);
                }
                ended = false;
            }
        }
    }
    // A text of white space alone is one sentence.
    starts.push(text.len());
    starts.dedup();
    if starts.len() == 1 {
        starts.push(text.len());
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        sentence_starts(text).windows(2).map(|w| &text[w[0]..w[1]]).collect()
    }

    #[test]
    fn sentences_are_cut_and_nothing_is_lost() {
        let text = "One. Two is 2.5 long! \"Three?\" he said.\n\nA title\n\nFour";
        assert_eq!(cut(text), ["One. ", "Two is 2.5 long! ", "\"Three?\" ", "he said.\n\n", "A title\n\n", "Four"]);
        assert_eq!(cut(text).concat(), text);
        for odd in ["", " ", "\n\n", "...", "é. ü"] {
            assert_eq!(cut(odd).concat(), odd);
        }
    }

    #[test]
    fn passages_fit_and_a_short_text_is_refused_with_both_numbers() {
        let codec = Codec::new(None, None, 256).unwrap();
        let text: String = (0..60).map(|i| format!("This is sentence {i}. ")).collect();
        let texts = Texts::new("t", &text, &codec).unwrap();
        assert_eq!(texts.tokens(), text.len());
        let mut starts = std::collections::BTreeSet::new();
        for stream in 0..30 {
            let passage = texts.passage(&mut Rng::new(7, stream), 200, &codec).unwrap().concat();
            assert!(passage.len() <= 200 && passage.len() > 180 && text.contains(&passage), "{passage}");
            starts.insert(passage);
            let ids = texts.ids(&mut Rng::new(7, stream), 200, &codec).unwrap();
            assert_eq!(ids.len(), 200);
        }
        assert!(starts.len() > 10, "passages begin at random places");
        let error = texts.passage(&mut Rng::new(0, 0), 5000, &codec).unwrap_err().to_string();
        assert!(error.contains("5000") && error.contains(&text.len().to_string()), "{error}");
    }
}
