//! How a byte-level vocabulary cuts text into words before merging, by the name in `tokenizer.ggml.pre`.
//!
//! The cuts belong to the vocabulary: with others the ids look right and the model reads gibberish, so an unknown
//! name is an error. The patterns are those of the models' own tokenizer.json files, and of llama.cpp where the two
//! agree; like llama.cpp, nothing is normalised (no NFC).
//!
//! The original patterns end in `\s+(?!\S)|\s+`: of white space before a word, the last character goes with the
//! word. Look-ahead needs a backtracking engine that may give up on long texts, so here `\s+` is matched by the
//! linear-time `regex` crate and the last character given back in [`Pattern::split`].

use regex::Regex;

use super::super::error::TextError;

/// GPT-2.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
/// Llama 3: numbers in threes.
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
/// Qwen 2: digits one by one.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
/// Qwen 3.5: marks belong to words.
const QWEN35: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
/// GPT-4o: words also end where lower case turns to upper.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+";
/// Mistral's Tekken: the same without contractions, digits one by one.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+";
/// Seed-Coder.
const SEED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+";
/// DeepSeek V3, after numbers and East Asian runs are cut out.
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"##;

/// One row of the table: names, patterns applied one after another, and what else goes with the name.
struct Entry {
    names: &'static [&'static str],
    patterns: &'static [(&'static str, Space)],
    /// A word that is a token is taken whole, whatever the merges say.
    whole_words: bool,
    /// Whether a text begins with bos when the file does not say.
    add_bos: bool,
}

/// What becomes of white space before a word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    /// Nothing special: the pattern is taken literally.
    Literal,
    /// The last character goes with the word.
    GiveBack,
    /// The same, but white space that ends in a newline stays whole.
    GiveBackUnlessNewline,
}

use Space::{GiveBack, GiveBackUnlessNewline, Literal};

const fn entry(names: &'static [&'static str], patterns: &'static [(&'static str, Space)]) -> Entry {
    Entry { names, patterns, whole_words: false, add_bos: false }
}

const TABLE: &[Entry] = &[
    entry(
        &["default"],
        &[(r"[\p{P}\$\+<=>\^~\|]+", Literal), (GPT2, GiveBack), (r"\p{N}+", Literal), (r"[0-9][0-9][0-9]", Literal)],
    ),
    entry(&["gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4"], &[(GPT2, GiveBack)]),
    entry(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        &[(r"\p{N}", Literal), (GPT2, GiveBack)],
    ),
    entry(&["falcon"], &[(r"[\p{P}\$\+<=>\^~\|`]+", Literal), (GPT2, GiveBack), (r"[0-9][0-9][0-9]", Literal)]),
    Entry {
        whole_words: true,
        add_bos: true,
        ..entry(&["llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2"], &[(LLAMA3, GiveBackUnlessNewline)])
    },
    entry(&["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], &[(LLAMA3, GiveBackUnlessNewline)]),
    entry(
        &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2"],
        &[(QWEN2, GiveBackUnlessNewline)],
    ),
    entry(&["qwen35"], &[(QWEN35, GiveBackUnlessNewline)]),
    entry(&["gpt-4o", "llama4"], &[(GPT4O, GiveBackUnlessNewline)]),
    Entry { whole_words: true, add_bos: true, ..entry(&["tekken"], &[(TEKKEN, GiveBackUnlessNewline)]) },
    entry(&["seed-coder"], &[(SEED, GiveBackUnlessNewline)]),
    entry(
        &["deepseek-coder"],
        &[
            (r"[\r\n]", Literal),
            (r"\s?\p{L}+", Literal),
            (r"\s?\p{P}+", Literal),
            (r"[\u{4E00}-\u{9FA5}\u{0800}-\u{4E00}\u{AC00}-\u{D7FF}]+", Literal),
            (r"\p{N}", Literal),
        ],
    ),
    entry(
        &["deepseek-v3", "hunyuan-dense"],
        &[
            (r"\p{N}{1,3}", Literal),
            (r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+", Literal),
            (DEEPSEEK3, GiveBackUnlessNewline),
        ],
    ),
];

/// Every name that is known, in the order of the table.
pub(super) fn known() -> String {
    let names: Vec<&str> = TABLE.iter().flat_map(|e| e.names).copied().collect();
    names.join(", ")
}

/// The name of the entry with these patterns, one after another; `None` if there is none.
pub(super) fn name_of(patterns: &[String], whole_words: bool) -> Option<&'static str> {
    let same = |e: &&Entry| {
        e.whole_words == whole_words
            && e.patterns.len() == patterns.len()
            && e.patterns.iter().zip(patterns).all(|((a, _), b)| a == b)
    };
    TABLE.iter().find(same).map(|e| e.names[0])
}

/// One pattern, compiled.
#[derive(Clone, Debug)]
struct Pattern {
    regex: Regex,
    give_back: bool,
    newline_stays: bool,
}

impl Pattern {
    /// Cuts `text` at the pattern's matches; matches and what lies between them are pieces.
    fn split(&self, text: &str, mut piece: impl FnMut(&str)) {
        let (mut at, mut done) = (0, 0);
        while let Some(found) = self.regex.find_at(text, at) {
            let end = found.start() + self.keep(text, found.as_str(), found.end());
            if done < found.start() {
                piece(&text[done..found.start()]);
            }
            if found.start() < end {
                piece(&text[found.start()..end]);
            }
            (at, done) = (end, end);
            if found.is_empty() {
                break; // No pattern of the table matches nothing; a loop would be the worse surprise.
            }
        }
        if done < text.len() {
            piece(&text[done..]);
        }
    }

    /// Bytes of a match that stay: white space before a word gives its last character back, unless it is the only.
    fn keep(&self, text: &str, found: &str, end: usize) -> usize {
        let whole = found.len();
        let Some(last) = found.chars().next_back().filter(|c| self.give_back && c.is_whitespace()) else {
            return whole;
        };
        let before_word = text[end..].chars().next().is_some_and(|c| !c.is_whitespace());
        let newline = self.newline_stays && matches!(last, '\r' | '\n');
        if before_word && !newline && found.chars().all(char::is_whitespace) && whole > last.len_utf8() {
            return whole - last.len_utf8();
        }
        whole
    }
}

/// The cutter of one vocabulary.
#[derive(Clone, Debug)]
pub(super) struct PreTokenizer {
    name: &'static str,
    patterns: Vec<Pattern>,
    /// A word that is a token is taken whole, whatever the merges say.
    pub(super) whole_words: bool,
    /// Whether a text begins with bos when the file does not say.
    pub(super) add_bos: bool,
}

impl PreTokenizer {
    /// The pre-tokenizer of this name; `place` is the file and field for the error.
    pub(super) fn named(name: &str, place: &str) -> Result<PreTokenizer, TextError> {
        let found = TABLE.iter().find_map(|e| Some((e, *e.names.iter().find(|n| **n == name)?)));
        let Some((entry, name)) = found else {
            return Err(TextError::Unsupported {
                place: place.to_owned(),
                what: format!("the pre-tokenizer {name:?}"),
                known: known(),
            });
        };
        let compile = |(pattern, space): &(&str, Space)| {
            let regex =
                Regex::new(pattern).map_err(|e| TextError::vocabulary(place, format!("pattern of {name}: {e}")))?;
            let newline_stays = *space == GiveBackUnlessNewline;
            Ok(Pattern { regex, give_back: *space != Literal, newline_stays })
        };
        let patterns = entry.patterns.iter().map(compile).collect::<Result<_, TextError>>()?;
        Ok(PreTokenizer { name, patterns, whole_words: entry.whole_words, add_bos: entry.add_bos })
    }

    /// The name it was asked for by.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Cuts a text into words, in order.
    pub(super) fn split(&self, text: &str, mut word: impl FnMut(&str)) {
        split_all(&self.patterns, text, &mut word);
    }
}

/// Each pattern cuts the pieces that the one before it left.
fn split_all(patterns: &[Pattern], text: &str, word: &mut dyn FnMut(&str)) {
    match patterns.split_first() {
        Some((first, rest)) => first.split(text, |piece| split_all(rest, piece, word)),
        None => word(text),
    }
}

#[cfg(test)]
#[path = "pretokenizers_tests.rs"]
mod tests;
