//! What holds for every text: nothing is lost, streams agree with the whole, plain text stays plain.

use meden_engine::text::{StreamDecoder, Tokenizer};
use proptest::prelude::*;

use crate::common::{gemma3, smollm2};

/// Characters of all scripts and sizes, special tokens and white space among them.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9 ]{1,8}",
        2 => any::<char>().prop_map(String::from),
        1 => prop::sample::select(vec![
            "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<bos>", "<s>", "\n\n", "  ", "\t", "'re", "👩‍👩‍👧", "한국어", "ἄγαν", "\r\n",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], special: bool) -> String {
    let mut stream = StreamDecoder::new(tokenizer);
    if special {
        stream = stream.with_special();
    }
    let pieces: String = ids.iter().map(|&id| stream.push(id)).collect();
    pieces + &stream.finish()
}

fn loses_nothing(tokenizer: &Tokenizer, text: &str) -> Result<(), TestCaseError> {
    for ids in [tokenizer.encode(text, false).unwrap(), tokenizer.encode_plain(text).unwrap()] {
        prop_assert_eq!(tokenizer.decode(&ids, false), text);
        prop_assert_eq!(streamed(tokenizer, &ids, true), text);
    }
    let plain = tokenizer.encode_plain(text).unwrap();
    prop_assert!(!plain.iter().any(|&id| tokenizer.is_special(id)), "{:?}", plain);
    prop_assert_eq!(tokenizer.decode(&plain, true), text);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn byte_level_text_comes_back(text in texts()) {
        let tokenizer = &smollm2().tokenizer;
        // Some control characters and unassigned planes have no tokens in this vocabulary: an error, tested below.
        let text: String = text.chars().filter(|c| tokenizer.encode_plain(&c.to_string()).is_ok()).collect();
        loses_nothing(tokenizer, &text)?;
    }

    #[test]
    fn sentencepiece_text_comes_back(text in texts()) {
        let Some(model) = gemma3() else { return Ok(()) };
        // The vocabulary writes a space as this character and cannot tell the two apart.
        loses_nothing(&model.tokenizer, &text.replace('▁', " "))?;
    }

    #[test]
    fn a_stream_of_any_ids_is_the_whole_text(ids in prop::collection::vec(0u32..270_000, 0..40)) {
        for model in std::iter::once(smollm2()).chain(gemma3()) {
            let size = model.tokenizer.vocab_size() as u32;
            // Byte tokens and single bytes stand at the beginning: half of the ids are taken from there.
            let ids: Vec<u32> = ids.iter().map(|&id| if id % 2 == 0 { id % size } else { id % 600 }).collect();
            for special in [false, true] {
                prop_assert_eq!(streamed(&model.tokenizer, &ids, special), model.tokenizer.decode(&ids, !special));
            }
        }
    }
}

#[test]
fn byte_tokens_assemble_across_pushes() {
    for model in std::iter::once(smollm2()).chain(gemma3()) {
        let tokenizer = &model.tokenizer;
        // A rare ideograph that no vocabulary holds whole.
        let ids = tokenizer.encode("a\u{2A6D6}b", false).unwrap();
        assert!(ids.len() > 3, "{ids:?}");
        let mut stream = StreamDecoder::new(tokenizer);
        let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
        assert!(pieces.iter().any(String::is_empty), "{pieces:?}");
        assert!(!pieces.concat().contains('\u{FFFD}'), "{pieces:?}");
        assert_eq!(pieces.concat(), "a\u{2A6D6}b");
        // Cut off in the middle, the rest is one replacement character.
        let mut stream = StreamDecoder::new(tokenizer);
        let cut: String = ids[..ids.len() - 2].iter().map(|&id| stream.push(id)).collect();
        assert_eq!((cut.as_str(), stream.finish().as_str()), ("a", "\u{FFFD}"));
    }
}

#[test]
fn special_tokens_are_parsed_in_prompts_and_not_in_plain_text() {
    let model = smollm2();
    let tokenizer = &model.tokenizer;
    let end = tokenizer.id_of("<|im_end|>").unwrap();
    assert_eq!(tokenizer.encode("<|im_end|>", false).unwrap(), [end]);
    assert!(!tokenizer.encode_plain("<|im_end|>").unwrap().contains(&end));
    assert_eq!(tokenizer.decode(&[end], true), "");
    assert_eq!(tokenizer.decode(&[end], false), "<|im_end|>");
    assert_eq!(tokenizer.eos(), Some(end));
    let ends: Vec<String> = tokenizer.eos_ids().iter().map(|&id| tokenizer.token_text(id)).collect();
    assert_eq!(ends, ["<|im_end|>", "<|endoftext|>"]);
}

#[test]
fn gemma_begins_a_text_with_bos_and_never_with_two() {
    let Some(model) = gemma3() else { return };
    let tokenizer = &model.tokenizer;
    let bos = tokenizer.bos().unwrap();
    let with = tokenizer.encode("Hi", true).unwrap();
    assert_eq!(with[0], bos);
    assert_eq!(with[1..], tokenizer.encode("Hi", false).unwrap());
    assert_eq!(tokenizer.encode("<bos>Hi", true).unwrap(), with);
    let ends: Vec<String> = tokenizer.eos_ids().iter().map(|&id| tokenizer.token_text(id)).collect();
    assert_eq!(ends, ["<eos>", "<end_of_turn>"]);
}

#[test]
fn a_byte_without_a_token_is_named_with_its_place() {
    for c in (0..128u8).map(char::from).filter(|c| !c.is_control()).chain("\t\n\r".chars()) {
        smollm2().tokenizer.encode_plain(&c.to_string()).unwrap();
    }
    let error = smollm2().tokenizer.encode("ab\u{1d}", false).unwrap_err().to_string();
    assert!(error.contains("0x1D") && error.contains("byte 2 "), "{error}");
}

#[test]
fn ids_outside_the_vocabulary_are_no_text() {
    let tokenizer = &smollm2().tokenizer;
    let size = tokenizer.vocab_size() as u32;
    assert_eq!(tokenizer.decode(&[size, u32::MAX], false), "");
    assert!(tokenizer.token_bytes(size).is_empty());
    assert_eq!(tokenizer.id_of("ĠParis"), tokenizer.id_of(" Paris"));
    assert!(tokenizer.id_of(" Paris").is_some());
    assert_eq!(tokenizer.id_of("no such token"), None);
}

#[test]
fn long_texts_take_linear_time() {
    for model in std::iter::once(smollm2()).chain(gemma3()) {
        for unit in [" ", "a", "7", "\n \t", "ab ", "👩‍👩‍👧", "<|im_end|>"] {
            let text = unit.repeat(600_000 / unit.len());
            let start = std::time::Instant::now();
            let ids = model.tokenizer.encode(&text, false).unwrap();
            assert!(start.elapsed().as_secs() < 10, "{unit:?} took {:?}", start.elapsed());
            assert_eq!(model.tokenizer.decode(&ids, false), text);
        }
    }
}
