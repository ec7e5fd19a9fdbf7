//! Budgets that hold at every moment, and presses that say when they did nothing.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ids, kept, max_diff, open, oracle, policy, presses, run, tensors};
use meden_engine::hook::{Hook, Site, SiteVisit};
use meden_engine::{
    Budget, Control, EngineError, KvTypes, LayerView, Needs, Policy, Press, PressSpec, Schedule, Scores, Session,
    SessionOptions, SkipOverflow,
};

#[test]
fn a_press_with_room_to_spare_is_bit_identical_to_no_press() {
    for name in ["llama", "gemma3", "mistral-sliding", "llama-mha-bias"] {
        let Some(model) = common::tiny(name) else { return };
        if model.config().attention.iter().all(|a| a.window.is_some()) {
            continue; // refused: see below
        }
        for schedule in ["prefill_end", "prefill_chunk:8", "decode_every:4", "prefill_chunk:8,decode_every:4"] {
            let text = ids(40);
            for press in presses() {
                let mut with = open(&model, Some(policy(&press, "100", schedule)));
                let mut without = open(&model, None);
                // the same pieces: a chunked schedule changes the order of f32 sums, not the press
                let mut sizes = vec![8; 5];
                if schedule.starts_with("decode") {
                    sizes = vec![4; 10];
                }
                let mut done = 0;
                for size in sizes {
                    let (a, b) =
                        (run(&mut with, &text[done..done + size]), run(&mut without, &text[done..done + size]));
                    assert!(
                        a.iter().zip(&b).all(|(x, y)| x.to_bits() == y.to_bits()),
                        "{name} {schedule} {}",
                        press.name()
                    );
                    done += size;
                }
                let stats = with.stats();
                assert_eq!(stats.evicted, 0);
                assert!(stats.notes.iter().any(|n| n.contains("evicted nothing")), "a press that did nothing says so");
            }
        }
    }
}
#[test]
fn prefill_in_chunks_keeps_what_prefill_in_one_piece_keeps() {
    let Some(model) = common::tiny("llama3-rope") else { return };
    for press in presses() {
        let mut whole = open(&model, Some(policy(&press, "50%", "prefill_end")));
        let mut options = whole.options().clone();
        options.prefill_chunk = 7;
        let mut pieces = Session::new(model.clone(), options).unwrap();
        let a = whole.prefill(&ids(60), &mut Control::default()).unwrap();
        let b = pieces.prefill(&ids(60), &mut Control::default()).unwrap();
        assert_eq!(kept(&whole), kept(&pieces), "{}", press.name());
        assert!(max_diff(&a, &b) < 1e-4);
        for (layer, heads) in kept(&whole).iter().enumerate() {
            for head in heads {
                assert!(head.windows(2).all(|w| w[0] < w[1]), "positions increase");
                assert_eq!(head.len(), 30, "layer {layer}: half of 60, skipped layers included");
            }
        }
    }
}
#[test]
fn a_uniform_share_keeps_exactly_that_many_in_each_head() {
    let Some(model) = common::tiny("llama") else { return };
    for (n, share, want) in [(10, "10%", 1), (50, "10%", 5), (33, "50%", 17), (33, "100%", 33), (7, "1%", 1)] {
        let bare =
            Policy { sinks: 0, recents: 0, skip_layers: Some(vec![]), ..policy(&presses()[0], share, "prefill_end") };
        let mut session = open(&model, Some(bare));
        session.prefill(&ids(n), &mut Control::default()).unwrap();
        for head in kept(&session).iter().flatten() {
            assert_eq!(head.len(), want, "{share} of {n}");
        }
    }
}
/// Keeps the oldest slots, so that what is lost early can be seen.
struct Oldest;

impl Press for Oldest {
    fn name(&self) -> &'static str {
        "oldest"
    }
    fn needs(&self) -> Needs {
        Needs::default()
    }
    fn score(&self, layer: &LayerView<'_>, scores: &mut Scores) -> Result<(), EngineError> {
        scores.each(layer, |_, head, row| {
            row.iter_mut().zip(head.positions()).for_each(|(score, &p)| *score = -(p as f32));
        });
        Ok(())
    }
}

fn open_oldest(model: &std::sync::Arc<meden_engine::Model>, share: &str, schedule: &str) -> Session {
    let policy = Policy { skip_layers: Some(vec![]), ..policy(&presses()[0], share, schedule) };
    let options = SessionOptions { kv_type: KvTypes::F32, policy: Some(policy), ..SessionOptions::default() };
    Session::with_press(model.clone(), options, std::sync::Arc::new(Oldest)).unwrap()
}

#[test]
fn a_share_of_a_prompt_read_in_chunks_is_one_of_the_whole_prompt_from_the_first_chunk_on() {
    let Some(model) = common::tiny("llama") else { return };
    for schedule in ["prefill_chunk:16", "prefill_chunk:16,decode_every:4", "decode_every:4", "prefill_end"] {
        let mut session = open_oldest(&model, "25%", schedule);
        let mut pieces = Lengths(0);
        let mut control = Control { hooks: vec![&mut pieces], ..Control::default() };
        session.prefill(&ids(200), &mut control).unwrap();
        drop(control);
        // 50 of 200, and in decode fewer than 4 more; 4 of them are the newest
        let lag = if schedule == "decode_every:4" { 4 } else { 1 };
        for head in kept(&session).iter().flatten() {
            assert!((50..50 + lag).contains(&head.len()), "{schedule}: {}", head.len());
            let early: Vec<u32> = (0..46).collect();
            assert!(head.starts_with(&early), "{schedule}: the first text is there to be chosen: {head:?}");
        }
        let layout = session.cache().layers()[0].heads()[0].layout();
        let most = if schedule == "prefill_end" { 200 } else { 50 + 16 };
        let config = model.config();
        let pages = config.layers * config.kv_heads * layout.pages_for(most);
        assert!(session.cache().slab().peak_pages() <= pages, "{schedule}: no more than the budget and a chunk");
    }
}

#[test]
fn while_the_length_is_not_known_a_share_leaves_room_to_choose() {
    let Some(model) = common::tiny("llama") else { return };
    // 2 sinks and 4 recents are protected: a tenth never means fewer than 24 slots while tokens come one by one
    let mut session = open_oldest(&model, "10%", "decode_every:4");
    let mut most = 0;
    for (at, &id) in ids(300).iter().enumerate() {
        run(&mut session, &[id]);
        let len = kept(&session)[0][0].len();
        most = most.max(len);
        let target = (at + 1 - ((at + 1) * 9) / 10).max(24);
        assert!(len == at + 1 || (target..target + 4).contains(&len), "{len} after {}", at + 1);
    }
    assert!((30..34).contains(&most), "{most}: a tenth of 300, and fewer than 4 more");
    // a call of many tokens says how long it is
    let mut session = open_oldest(&model, "25%", "prefill_chunk:16");
    run(&mut session, &ids(60));
    run(&mut session, &ids(200));
    for head in kept(&session).iter().flatten() {
        assert!(head.starts_with(&(0..11).collect::<Vec<u32>>()) && head.contains(&90), "{head:?}");
        assert!((65..65 + 16).contains(&head.len()), "{}: a quarter of 260", head.len());
    }
}

#[test]
fn growing_skipped_layers_are_paid_for_by_the_others() {
    let Some(model) = common::tiny("llama") else { return };
    let grow = Policy { skip_overflow: SkipOverflow::Grow, ..policy(&presses()[0], "50%", "prefill_end") };
    let mut session = open(&model, Some(grow.clone()));
    session.prefill(&ids(60), &mut Control::default()).unwrap();
    let lens: Vec<usize> = kept(&session).iter().map(|l| l[0].len()).collect();
    assert_eq!(lens[0], 60, "the skipped layer is untouched");
    assert_eq!(lens.iter().sum::<usize>(), 30 * lens.len(), "the whole cache meets the share");
    assert!(session.stats().notes.iter().any(|n| n.contains("not bounded")));
    // one of four layers is skipped and grows: no more than 75% can go
    let impossible = Policy { budget: "20%".parse().unwrap(), ..grow };
    let options = SessionOptions { policy: Some(impossible), ..SessionOptions::default() };
    let error = Session::new(model, options).unwrap_err().to_string();
    assert!(error.contains("25%") && error.contains("75%"), "{error}");
}
#[test]
fn a_decoding_cache_stays_between_budget_and_budget_plus_interval() {
    let Some(model) = common::tiny("llama") else { return };
    for press in presses() {
        let mut session = open(&model, Some(policy(&press, "16", "decode_every:5")));
        let text = ids(120);
        let mut done = 0;
        // single tokens, then question batches of all sizes
        for size in [1; 40].into_iter().chain([13, 3, 30, 1, 1, 5]) {
            run(&mut session, &text[done..done + size]);
            done += size;
            for (layer, heads) in kept(&session).iter().enumerate() {
                for head in heads {
                    let limit = 16 + 5;
                    assert!(head.len() < limit, "{}, layer {layer}: {} after {done}", press.name(), head.len());
                    assert!(done < 16 || head.len() >= 16);
                    assert_eq!(head.last().copied(), Some(done as u32 - 1), "the newest token survives");
                    assert!(head.starts_with(&[0, 1][..done.min(2)]), "sinks survive");
                }
            }
        }
        assert_eq!(session.seen(), done);
    }
}
/// Watches how many slots each layer holds when its attention reads them.
struct Lengths(usize);

impl Hook for Lengths {
    fn name(&self) -> &str {
        "lengths"
    }
    fn wants(&self, site: Site, _: usize) -> bool {
        site == Site::Z
    }
    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        self.0 = self.0.max(visit.positions.len());
        Ok(())
    }
}
#[test]
fn a_chunked_prefill_never_holds_more_than_budget_plus_chunk() {
    let Some(model) = common::tiny("llama") else { return };
    for budget in [16usize, 40] {
        for chunk in [8usize, 16] {
            let schedule = format!("prefill_chunk:{chunk}");
            let mut session = open(&model, Some(policy(&presses()[0], &budget.to_string(), &schedule)));
            let mut pieces = Lengths(0);
            let mut control = Control { hooks: vec![&mut pieces], ..Control::default() };
            session.prefill(&ids(200), &mut control).unwrap();
            drop(control);
            assert_eq!(pieces.0, chunk, "the prefill goes chunk by chunk");
            let config = model.config();
            let layout = session.cache().layers()[0].heads()[0].layout();
            let most = config.layers * config.kv_heads * layout.pages_for(budget + chunk);
            assert!(session.cache().slab().peak_pages() <= most, "{} pages", session.cache().slab().peak_pages());
            for head in kept(&session).iter().flatten() {
                assert_eq!(head.len(), budget);
            }
        }
    }
}
#[test]
fn a_budget_in_bytes_holds_for_the_whole_cache() {
    // five of gemma3's six layers slide: only the sixth has anything to give
    for (name, shares) in [("llama", [0.33, 0.5]), ("gemma3", [0.7, 0.85])] {
        let Some(model) = common::tiny(name) else { return };
        let mut probe = open(&model, None);
        run(&mut probe, &ids(400));
        for share in shares {
            let budget = (probe.stats().kv_bytes as f64 * share) as u64;
            let mut session = open(&model, Some(policy(&presses()[0], &format!("{budget}B"), "prefill_end")));
            run(&mut session, &ids(400));
            let stats = session.stats();
            assert!(stats.kv_bytes <= budget, "{name}: {} of {budget}", stats.kv_bytes);
            assert!(stats.kv_bytes * 2 > budget, "{name}: {} of {budget} is used", stats.kv_bytes);
        }
        let options =
            SessionOptions { policy: Some(policy(&presses()[0], "1KiB", "prefill_end")), ..SessionOptions::default() };
        let error = Session::new(model, options).unwrap_err().to_string();
        assert!(error.contains("smallest"), "{error}");
    }
}
#[test]
fn reported_bytes_are_those_of_the_allocator() {
    let Some(model) = common::tiny("qwen3") else { return };
    let mut session = open(&model, Some(policy(&presses()[0], "20", "prefill_chunk:16,decode_every:8")));
    for size in [50, 1, 1, 20, 7] {
        run(&mut session, &ids(size));
        let stats = session.stats();
        let slab = session.cache().slab();
        assert_eq!(stats.page_bytes, (slab.live_pages() * slab.page_bytes()) as u64);
        let slots: usize = stats.layers.iter().flat_map(|l| &l.kept).sum();
        assert_eq!(stats.metadata_bytes, 8 * slots as u64, "a position and a norm for each slot");
        assert_eq!(stats.kv_bytes, stats.page_bytes + stats.metadata_bytes);
        assert!(stats.peak_page_bytes >= stats.page_bytes);
    }
}
#[test]
fn short_texts_are_kept_whole_and_never_panic() {
    let Some(model) = common::tiny("llama") else { return };
    for press in presses() {
        for schedule in ["prefill_end", "prefill_chunk:2", "decode_every:1"] {
            for n in [1, 2, 3, 5, 6, 7] {
                let mut session = open(&model, Some(policy(&press, "6", schedule)));
                run(&mut session, &ids(n));
                for head in kept(&session).iter().flatten() {
                    assert_eq!(head.len(), n.min(6), "{} {schedule} {n}", press.name());
                }
            }
        }
        let mut session = open(&model, None);
        assert!(matches!(session.prefill(&[], &mut Control::default()), Err(EngineError::NoTokens)));
    }
}
#[test]
fn knorm_chooses_the_same_in_every_cache_type() {
    let Some(model) = common::tiny("llama") else { return };
    let choose = |kv_type| {
        let policy = policy(&presses()[0], "30%", "prefill_end");
        let options = SessionOptions { kv_type, policy: Some(policy), ..SessionOptions::default() };
        let mut session = Session::new(model.clone(), options).unwrap();
        // the first layer's norms do not depend on what was cached before
        run(&mut session, &ids(60));
        kept(&session)[1].clone()
    };
    let skip_none = choose(KvTypes::F32);
    assert_eq!(skip_none, choose(KvTypes::F32));
    let (f16, q8) = (choose(KvTypes::F16), choose(KvTypes::Q8));
    // layer 1 reads a stream that the rounded cache of layer 0 has touched: sets agree but for near ties
    for (a, b) in [(&skip_none, &f16), (&skip_none, &q8)] {
        for (a, b) in a.iter().zip(b) {
            let common = a.iter().filter(|p| b.contains(p)).count();
            assert!(common + 1 >= a.len(), "{a:?} {b:?}");
        }
    }
}
#[test]
fn sliding_layers_free_their_pages_and_a_model_of_them_alone_is_not_pressed() {
    let Some(model) = common::tiny("mistral-sliding") else { return };
    let window = model.config().attention[0].window.unwrap() as usize;
    let mut session = open(&model, None);
    let text = ids(400);
    for piece in text.chunks(16) {
        run(&mut session, piece);
        let layout = session.cache().layers()[0].heads()[0].layout();
        for head in kept(&session).iter().flatten() {
            assert!(head.len() <= window + 16 + layout.tokens());
        }
    }
    let options =
        SessionOptions { policy: Some(policy(&presses()[0], "8", "prefill_end")), ..SessionOptions::default() };
    assert!(Session::new(model, options).unwrap_err().to_string().contains("sliding"));
}
#[test]
fn bad_policies_are_refused_with_the_smallest_that_would_do() {
    let Some(model) = common::tiny("llama") else { return };
    let refused = |policy: Policy| {
        let options = SessionOptions { policy: Some(policy), ..SessionOptions::default() };
        Session::new(model.clone(), options).unwrap_err().to_string()
    };
    let base = policy(&presses()[0], "5", "prefill_end");
    assert!(refused(base.clone()).contains("the smallest is 6"));
    let budget = Budget::Tokens(50);
    assert!(refused(Policy { budget, skip_layers: Some(vec![99]), ..base.clone() }).contains("99"));
    let all = (0..model.config().layers).collect();
    assert!(refused(Policy { budget, skip_layers: Some(all), ..base.clone() }).contains("nothing is left"));
    assert!("knorm2".parse::<PressSpec>().unwrap_err().to_string().contains("streaming_llm"));
    assert!("{\"kind\": \"knorm\", \"x\": 1}".parse::<PressSpec>().is_err());
    assert!("prefill_end:2".parse::<Schedule>().is_err());
}
#[test]
fn key_norms_do_not_change_under_rotation() {
    let Some(root) = oracle("tiny/llama") else { return };
    let model = common::load(&root, meden_engine::WeightMode::Native, 1);
    assert!(!tensors(&root.join("expected.safetensors")).is_empty());
    let config = model.config();
    let mut table = meden_engine::model::rope::RopeTable::default();
    let positions: Vec<u32> = (0..50).map(|p| p * 97).collect();
    config.ropes[0].fill(&positions, false, &mut table);
    let key: Vec<f32> = (0..config.head_dim).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
    let mut rows: Vec<f32> = positions.iter().flat_map(|_| key.clone()).collect();
    meden_kernels::ops::rope(
        model.pool(),
        model.isa(),
        &mut rows,
        config.head_dim,
        &table.cos,
        &table.sin,
        config.ropes[0].rotated(),
    );
    let before = meden_kernels::ops::l2_norm(&key);
    for row in rows.chunks_exact(config.head_dim) {
        assert!((meden_kernels::ops::l2_norm(row) - before).abs() < 1e-5 * before);
    }
}
