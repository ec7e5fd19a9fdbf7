//! What every task promises.

use super::*;

const TEXT: &str = include_str!("tests_text.txt");

fn with_source(check: impl Fn(&Source<'_>)) {
    let codec = Codec::new(None, None, 256).unwrap();
    let texts = Texts::new("test", TEXT, &codec).unwrap();
    check(&Source { texts: &texts, codec: &codec, template: true });
}

fn length_of(item: &Item) -> usize {
    match &item.content {
        Content::Ask { context, .. } => context.len(),
        Content::Continue { context, .. } => context.len(),
        Content::Capped { ids } => ids.len(),
        Content::Decode { tokens, .. } => *tokens,
    }
}

#[test]
fn an_item_depends_on_its_place_alone_and_other_seeds_give_others() {
    with_source(|source| {
        for kind in TaskKind::ALL {
            let task = kind.task();
            let first = task.items((7, 1500), 4, source).unwrap();
            assert_eq!(first, task.items((7, 1500), 4, source).unwrap(), "{kind}");
            assert_eq!(first[2], task.item(Place { seed: 7, number: 2, length: 1500 }, source).unwrap(), "{kind}");
            let other = task.items((8, 1500), 4, source).unwrap();
            for (a, b) in first.iter().zip(&other) {
                assert_ne!(a.content, b.content, "{kind}");
            }
            assert_ne!(first[0].content, first[1].content, "{kind}");
        }
    });
}

#[test]
fn contexts_fill_their_length_and_never_exceed_it() {
    with_source(|source| {
        for kind in TaskKind::ALL {
            for length in [700, 1500] {
                for item in kind.task().items((1, length), 10, source).unwrap() {
                    let tokens = length_of(&item);
                    assert!(tokens <= length, "{kind}: {tokens} of {length}");
                    // one passkey block, a long sentence, or a list of all words
                    let least = if kind == TaskKind::KeyValue { length.min(800) / 2 } else { length / 2 };
                    assert!(tokens > least, "{kind}: {tokens} of {length}");
                }
            }
        }
    });
}

#[test]
fn the_answer_stands_in_the_context_and_not_in_the_question() {
    with_source(|source| {
        for kind in TaskKind::ALL.into_iter().filter(|k| k.is_asked()) {
            for item in kind.task().items((3, 1200), 20, source).unwrap() {
                let Content::Ask { context, probes } = &item.content else { panic!("{kind}") };
                for probe in probes {
                    assert!(context.contains(&probe.answer), "{kind}: {}", probe.answer);
                    let asked = format!("{} {}", probe.question, probe.prefix);
                    assert!(!asked.contains(&probe.answer), "{kind}: {asked}");
                    assert!(probe.judge.is_right(probe, &format!(" {}.", probe.answer)), "{kind}");
                    assert!(!probe.judge.is_right(probe, " something else 1"), "{kind}");
                    for wrong in &probe.candidates {
                        assert!(!probe.judge.is_right(probe, &format!(" {wrong}")), "{kind}: {wrong}");
                    }
                }
            }
        }
    });
}

#[test]
fn needles_go_through_all_depths() {
    with_source(|source| {
        for kind in [TaskKind::Passkey, TaskKind::NeedleNumber, TaskKind::NeedleUuid] {
            let items = kind.task().items((5, 3000), 20, source).unwrap();
            let place = |item: &Item| {
                let Content::Ask { context, probes } = &item.content else { panic!("{kind}") };
                context.find(&probes[0].answer).unwrap() as f64 / context.len() as f64
            };
            for (number, item) in items.iter().enumerate() {
                let (nominal, real) = ((number % 10) as f64 / 9.0, place(item));
                // sentences of this book are long
                assert!((nominal - real).abs() < 0.15, "{kind}, item {number}: {real}");
                let said = item.depth.unwrap();
                assert!((said - real).abs() < 0.06, "{kind}, item {number}: {said}, {real}");
            }
        }
    });
}

#[test]
fn a_length_too_small_is_refused_with_one_that_does() {
    with_source(|source| {
        for kind in TaskKind::ALL {
            let error = kind.task().item(Place { seed: 0, number: 0, length: 10 }, source).unwrap_err();
            let EvalError::Setting { allowed, .. } = &error else { panic!("{kind}: {error}") };
            let needed: usize = allowed.split_whitespace().find_map(|w| w.parse().ok()).unwrap();
            assert!(kind.task().item(Place { seed: 0, number: 0, length: needed }, source).is_ok(), "{kind}: {needed}");
        }
    });
}

#[test]
fn a_layout_puts_the_question_behind_the_border_or_before_it() {
    with_source(|source| {
        let item = passkey_item(source);
        let Content::Ask { context, probes } = &item.content else { panic!() };
        let unseen = source.codec.layout(context, &probes[0], (Question::Unseen, true)).unwrap();
        let seen = source.codec.layout(context, &probes[0], (Question::Seen, true)).unwrap();
        assert_eq!(source.codec.decode(&unseen.compressed), *context);
        assert_eq!(seen.tail.len(), 1, "the last token always comes from the compressed cache");
        assert_eq!([unseen.compressed, unseen.tail].concat(), [seen.compressed, seen.tail].concat());
        assert_eq!(source.codec.decode(&unseen.answer), format!(" {}", probes[0].answer));
    });
}

fn passkey_item(source: &Source<'_>) -> Item {
    TaskKind::Passkey.task().item(Place { seed: 1, number: 3, length: 900 }, source).unwrap()
}

#[test]
fn every_task_is_found_by_its_name() {
    for kind in TaskKind::ALL {
        assert_eq!(kind.to_string().parse::<TaskKind>().unwrap(), kind);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.to_string(), "one name everywhere");
    }
    let error = "pass_key".parse::<TaskKind>().unwrap_err().to_string();
    assert!(error.contains("passkey") && error.contains("needle_uuid"), "{error}");
}
