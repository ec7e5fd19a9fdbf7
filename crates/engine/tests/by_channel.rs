//! Keys by channel in whole sessions: nearer than keys by row, through evictions too, and within the bytes they claim.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ids, kept, log_softmax, policy, run};
use meden_engine::text::Tokenizer;
use meden_engine::{Budget, KvType, KvTypes, Policy, Run, Session, SessionOptions, WeightMode};
use meden_files::ModelFiles;

const Q4_Q8: KvTypes = KvTypes { key: KvType::Q4, value: KvType::Q8 };

fn text_ids(tokens: usize) -> Option<Vec<u32>> {
    let text = common::text("moby-dick.txt")?;
    let tokenizer = Tokenizer::load(&ModelFiles::open(common::smollm2_path()).unwrap()).unwrap();
    let mut ids = tokenizer.encode(&text[..8 * tokens], true).unwrap();
    ids.truncate(tokens);
    Some(ids)
}

/// Mean divergence of the next token's distribution from the first session's, over all rows.
fn divergence(exact: &[f32], rows: &[f32], vocab: usize) -> f64 {
    let rows = exact.chunks_exact(vocab).zip(rows.chunks_exact(vocab));
    let count = rows.len();
    let one = |(p, q): (&[f32], &[f32])| -> f64 {
        let (p, q) = (log_softmax(p), log_softmax(q));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    rows.map(one).sum::<f64>() / count as f64
}

#[test]
fn four_bits_by_channel_are_nearer_than_four_bits_by_row_dense_and_pressed() {
    let Some(ids) = text_ids(400) else { return };
    let model = common::smollm2();
    let vocab = model.config().vocab;
    for press in [None, Some("knorm")] {
        let read = |kv_type: KvTypes| {
            let policy = press.map(|press| {
                let policy = Policy::new(press.parse().unwrap(), Budget::Tokens(200));
                Policy { schedule: "prefill_chunk:64,decode_every:16".parse().unwrap(), recents: 32, ..policy }
            });
            let mut session =
                Session::new(model.clone(), SessionOptions { kv_type, policy, ..SessionOptions::default() }).unwrap();
            run(&mut session, &ids[..300]);
            let rows = run(&mut session, &ids[300..]);
            (rows, kept(&session), session.stats().kv_bytes)
        };
        let exact = read(KvTypes::F32);
        let (row, channel) = (read(Q4_Q8), read(KvTypes::Q4C_Q8));
        let (by_row, by_channel) = (divergence(&exact.0, &row.0, vocab), divergence(&exact.0, &channel.0, vocab));
        println!("{press:?}: by row {by_row:.4}, {} bytes; by channel {by_channel:.4}, {} bytes", row.2, channel.2);
        assert!(by_channel < 0.6 * by_row, "{press:?}: by channel {by_channel}, by row {by_row}");
        assert!(channel.2 < row.2 * 3 / 2, "{press:?}: {} bytes against {}", channel.2, row.2);
        // norms are those of the keys as they came, so the choice is that of an exact cache, but for near ties
        let all: usize = exact.1.iter().flatten().map(Vec::len).sum();
        let same = exact.1.iter().flatten().zip(channel.1.iter().flatten());
        let same: usize = same.map(|(a, b)| a.iter().filter(|p| b.contains(p)).count()).sum();
        assert!(same * 10 > all * 8, "{press:?}: {same} of {all}");
    }
}

#[test]
fn bytes_are_forecast_exactly_without_a_press_and_from_above_with_one() {
    let Some(folder) = common::oracle("tiny") else { return };
    for family in ["llama", "gemma3", "mistral-sliding"] {
        let model = common::load(&folder.join(family), WeightMode::Native, 1);
        let policies = [None, Some("prefill_end"), Some("prefill_chunk:24,decode_every:8")];
        for schedule in policies.into_iter().take(if family == "mistral-sliding" { 1 } else { 3 }) {
            for kv_type in [KvTypes::Q4C_Q8, KvTypes::Q4C_Q4] {
                for (prompt, decode) in [(300, 21), (131, 5), (3, 0), (0, 3)] {
                    let policy = schedule.map(|s| policy(&"knorm".parse().unwrap(), "60", s));
                    let options = SessionOptions { kv_type, policy, ..SessionOptions::default() };
                    let forecast = options.forecast(model.config(), Run { prompt, decode }).unwrap();
                    let mut session = Session::new(model.clone(), options.clone()).unwrap();
                    if prompt > 0 {
                        run(&mut session, &ids(prompt));
                    }
                    ids(decode).iter().for_each(|&id| drop(run(&mut session, &[id])));
                    let stats = session.stats();
                    let what = format!("{family}, {schedule:?}, {kv_type}, {prompt} and {decode}");
                    assert_eq!(forecast.dense_bytes, stats.dense_bytes, "{what}");
                    assert_eq!(forecast.kept_tokens_mean, stats.kept_tokens_mean, "{what}");
                    if stats.evicted == 0 {
                        assert!(forecast.exact, "{what}");
                        assert_eq!(forecast.kv_bytes, stats.kv_bytes, "{what}");
                        assert_eq!(forecast.peak_page_bytes, stats.peak_page_bytes, "{what}");
                    } else {
                        assert!(!forecast.exact && forecast.kv_bytes >= stats.kv_bytes, "{what}");
                        assert!(forecast.peak_page_bytes >= stats.peak_page_bytes, "{what}");
                        assert!(forecast.kv_bytes < 3 * stats.kv_bytes, "{what}: a bound, not a guess");
                    }
                }
            }
        }
    }
}

#[test]
fn a_budget_in_bytes_holds_although_pages_are_not_full() {
    let Some(model) = common::tiny("llama") else { return };
    for schedule in ["prefill_end", "prefill_chunk:32,decode_every:8"] {
        for press in ["knorm", "random", "adakv(knorm)"] {
            let options = SessionOptions {
                kv_type: KvTypes::Q4C_Q8,
                policy: Some(policy(&press.parse().unwrap(), "140KiB", schedule)),
                ..SessionOptions::default()
            };
            let mut session = match Session::new(model.clone(), options) {
                Ok(session) => session,
                Err(error) => panic!("{press}: {error}"),
            };
            run(&mut session, &ids(450));
            for &id in &ids(40) {
                let every = if schedule == "prefill_end" { 0 } else { 8 };
                run(&mut session, &[id]);
                let stats = session.stats();
                let slack = (every * stats.kv_bytes as usize) / stats.kept_tokens_mean as usize;
                if schedule != "prefill_end" {
                    let most = (140 << 10) + slack as u64;
                    assert!(stats.kv_bytes <= most, "{press}: {} of {most}", stats.kv_bytes);
                }
            }
            assert!(session.stats().evicted > 0, "{press}");
        }
    }
}

#[test]
fn what_has_no_keys_by_channel_is_refused_with_the_reason() {
    let Some(model) = common::tiny("llama") else { return };
    let open = |kv_type, press: &str| {
        let policy = Some(Policy::new(press.parse().unwrap(), Budget::Press));
        Session::new(model.clone(), SessionOptions { kv_type, policy, ..SessionOptions::default() })
    };
    let error = open(KvTypes::Q4C_Q8, "think").unwrap_err().to_string();
    assert!(error.contains("another type of keys"), "{error}");
    let values = KvTypes { key: KvType::Q8, value: KvType::Q4c };
    let error = open(values, "think").unwrap_err().to_string();
    assert!(error.contains("only keys"), "{error}");
    assert!("q4c".parse::<KvTypes>().unwrap_err().to_string().contains("q4c/q8"));
}
