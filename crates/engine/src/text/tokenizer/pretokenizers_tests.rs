//! The cuts against the original look-ahead patterns, run by a backtracking engine.

use proptest::prelude::*;
use tokenizers::utils::SysRegex;

use super::*;

fn words(pre: &PreTokenizer, text: &str) -> Vec<String> {
    let mut words = Vec::new();
    pre.split(text, |word| words.push(word.to_owned()));
    words
}

/// Matches of the pattern as the models' files have it, and what lies between them.
fn original(regex: &SysRegex, text: &str) -> Vec<String> {
    let (mut pieces, mut done) = (Vec::new(), 0);
    for (start, end) in regex.find_iter(text) {
        pieces.extend([&text[done..start], &text[start..end]].into_iter().filter(|p| !p.is_empty()).map(str::to_owned));
        done = end;
    }
    pieces.extend(Some(&text[done..]).filter(|p| !p.is_empty()).map(|p| p.to_string()));
    pieces
}

fn with_look_ahead(pattern: &str, space: Space) -> SysRegex {
    let pattern = match pattern.strip_suffix(r"\s+") {
        Some(rest) if space != Literal => format!(r"{rest}\s+(?!\S)|\s+"),
        _ => pattern.to_owned(),
    };
    SysRegex::new(&pattern).unwrap()
}

/// Texts of the characters that patterns tell apart.
fn tricky() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u{a0}",
        "\u{2003}",
        "a",
        "Z",
        "é",
        "e\u{301}",
        "ß",
        "中",
        "あ",
        "ก็",
        "한",
        "7",
        "12",
        "½",
        "٣",
        "'s",
        "'LL",
        "'",
        "’",
        ".",
        "!!",
        "/",
        "$",
        "_",
        "<|",
        "👩‍👩‍👧",
        "\u{0}",
        "ǅ",
        "ʰ",
    ]);
    prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
}

#[test]
fn every_pattern_cuts_as_its_original() {
    let entries: Vec<_> = TABLE
        .iter()
        .map(|entry| {
            let pre = PreTokenizer::named(entry.names[0], "test").unwrap();
            let originals: Vec<_> = entry.patterns.iter().map(|&(p, space)| with_look_ahead(p, space)).collect();
            (pre, originals)
        })
        .collect();
    proptest!(ProptestConfig::with_cases(400), |(text in tricky())| {
        for (pre, originals) in &entries {
            let mut want = vec![text.clone()];
            want.retain(|t| !t.is_empty());
            for regex in originals {
                want = want.iter().flat_map(|piece| original(regex, piece)).collect();
            }
            prop_assert_eq!(words(pre, &text), want, "{} on {:?}", pre.name(), text);
        }
    });
}

#[test]
fn smollm_cuts_every_number_character() {
    let pre = PreTokenizer::named("smollm", "test").unwrap();
    assert_eq!(words(&pre, "in 2024, x½  y"), ["in", " ", "2", "0", "2", "4", ",", " x", "½", " ", " y"]);
}

#[test]
fn numbers_and_contractions_differ_by_name() {
    let cut = |name: &str, text: &str| words(&PreTokenizer::named(name, "test").unwrap(), text);
    assert_eq!(cut("gpt-2", "I'LL pay 12345"), ["I", "'", "LL", " pay", " 12345"]);
    assert_eq!(cut("llama-bpe", "I'LL pay 12345"), ["I", "'LL", " pay", " ", "123", "45"]);
    assert_eq!(cut("qwen2", "a12\n\n  b"), ["a", "1", "2", "\n\n", " ", " b"]);
    assert_eq!(cut("gpt-4o", "camelCase's"), ["camel", "Case's"]);
    assert_eq!(cut("tekken", "camelCase's"), ["camel", "Case", "'s"]);
    assert_eq!(cut("falcon", "a1234.."), ["a", "123", "4", ".."]);
}

#[test]
fn an_unknown_name_is_named_and_the_known_ones_are_listed() {
    let error = PreTokenizer::named("gpt-9", "model.gguf: tokenizer.ggml.pre").unwrap_err().to_string();
    for part in ["gpt-9", "model.gguf", "smollm", "qwen2", "llama-bpe"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn names_stand_in_the_table_once() {
    let mut names: Vec<_> = TABLE.iter().flat_map(|e| e.names).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
