//! Presses that read the text again: their exact rule against a scalar twin, and what a replay may not disturb.
#![allow(clippy::unwrap_used, clippy::needless_range_loop, clippy::manual_range_contains)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::twin::{Record, assert_close, dot, norm, rows, softmax, wide};
use common::{ids, kept, oracle, run, tensors};
use meden_engine::{Control, EngineError, KvTypes, LogitRows, Model, Policy, PressSpec, Session, SessionOptions};

fn dense(model: &Arc<Model>) -> Session {
    Session::new(model.clone(), SessionOptions { kv_type: KvTypes::F32, prefill_chunk: 16, ..Default::default() })
        .unwrap()
}

fn policy(press: &str, budget: &str) -> Policy {
    let press: PressSpec = press.parse().unwrap();
    Policy { sinks: 2, recents: 3, ..Policy::new(press, budget.parse().unwrap()) }
}

/// KVzip by its words: for each chunk a session of its own reads text and repeat, and every weight is worked out.
fn kvzip_twin(model: &Arc<Model>, text: &[u32], chunk: usize, instruction: &[u32], plus: bool) -> Vec<Vec<Vec<f64>>> {
    let c = model.config().clone();
    let (n, group, d) = (text.len(), c.q_heads / c.kv_heads, c.head_dim);
    let output = plus.then(|| tensors(&oracle("tiny/llama").unwrap().join("model.safetensors")));
    let mut scores = vec![vec![vec![0.0; n]; c.kv_heads]; c.layers];
    for start in (0..n).step_by(chunk) {
        let end = (start + chunk).min(n);
        let repeat = [instruction, &text[start.saturating_sub(8)..start], &text[start..end]].concat();
        let mut session = dense(model);
        run(&mut session, text);
        let record = Record::of(&mut session, &repeat);
        for layer in 0..c.layers {
            for h in 0..c.kv_heads {
                let head = &session.cache().layers()[layer].heads()[h];
                let (keys, values) = (rows(head.keys(), d), rows(head.values(), d));
                for q_head in h * group..(h + 1) * group {
                    let projected: Vec<f64> = match &output {
                        None => vec![1.0; n],
                        Some(file) => {
                            let wo = &file[&format!("model.layers.{layer}.self_attn.o_proj.weight")].f;
                            let row = |r: usize| wide(&wo[r * c.q_heads * d + q_head * d..][..d]);
                            let wo: Vec<Vec<f64>> = (0..c.hidden).map(row).collect();
                            let of = |v: &Vec<f64>| norm(&wo.iter().map(|w| dot(w, v)).collect::<Vec<f64>>());
                            values[..n].iter().map(of).collect()
                        }
                    };
                    for i in 0..repeat.len() {
                        let q = record.q(&c, layer, i, q_head);
                        let seen: Vec<usize> =
                            (0..=n + i).filter(|&p| p < 4 || (start..end).contains(&p) || p >= n).collect();
                        let logits: Vec<f64> =
                            seen.iter().map(|&p| dot(&q, &keys[p]) * f64::from(c.attention_scale)).collect();
                        let h_norm = if plus { norm(&record.stream(&c, layer, i)) } else { 1.0 };
                        for (&p, a) in seen.iter().zip(softmax(&logits)) {
                            if (start..end).contains(&p) {
                                let best = &mut scores[layer][h][p];
                                *best = f64::max(*best, a * projected[p] / h_norm);
                            }
                        }
                    }
                }
            }
        }
    }
    scores
}

#[test]
fn kvzip_scores_are_the_largest_attention_of_a_repeat() {
    let Some(model) = common::tiny_once("llama") else { return };
    let text = ids(50);
    let mut session = dense(&model);
    run(&mut session, &text);
    for (press, plus) in [
        ("kvzip(chunk_size=20, instruction=[9, 8, 7])", false),
        ("kvzip(chunk_size=20, instruction=[9, 8, 7], plus=true)", true),
    ] {
        let want = kvzip_twin(&model, &text, 20, &[9, 8, 7], plus);
        let mut prepared = session.fork().unwrap();
        assert_eq!(prepared.replay(&press.parse().unwrap(), &mut Control::default()).unwrap(), 50 + 3 * 3 + 2 * 8);
        assert_eq!(prepared.replay(&press.parse().unwrap(), &mut Control::default()).unwrap(), 0, "once is enough");
        for layer in 0..model.config().layers {
            let (fresh, _) = session.press_scores(layer, &policy(press, "50%")).unwrap();
            let (again, _) = prepared.press_scores(layer, &policy(press, "50%")).unwrap();
            assert_eq!(fresh.rows(), again.rows());
            for (h, row) in fresh.rows().iter().enumerate() {
                assert_close(row, &want[layer][h], 0..50, &format!("{press}, layer {layer}, head {h}"));
            }
        }
    }
}

#[test]
fn kvzip_evicts_the_lowest_of_all_layers_and_heads_but_what_is_protected() {
    let Some(model) = common::tiny_once("llama") else { return };
    let (layers, heads) = (model.config().layers, model.config().kv_heads);
    let text = ids(60);
    for (press, layerwise) in [("kvzip(chunk_size=25)", false), ("kvzip(chunk_size=25, layerwise=true)", true)] {
        let policy = policy(press, "40%");
        let mut whole = dense(&model);
        run(&mut whole, &text);
        let mut pressed = whole.fork().unwrap();
        pressed.compress(&policy).unwrap();
        let kept = kept(&pressed);
        let sums: Vec<usize> = kept.iter().map(|l| l.iter().map(Vec::len).sum()).collect();
        assert_eq!(sums.iter().sum::<usize>(), 24 * layers * heads);
        assert_eq!(layerwise, sums.iter().all(|&s| s == 24 * heads), "{press}: {sums:?}");
        let (mut worst_kept, mut best_gone) = (vec![f32::INFINITY; layers], vec![f32::NEG_INFINITY; layers]);
        for (layer, kept) in kept.iter().enumerate() {
            let (scores, protect) = whole.press_scores(layer, &policy).unwrap();
            assert_eq!((protect.sinks, protect.recents), (4, 3));
            for (row, kept) in scores.rows().iter().zip(kept) {
                for p in 0..60u32 {
                    let forced = p < 4 || p >= 57;
                    let stays = kept.contains(&p);
                    assert!(stays || !forced, "position {p} is protected");
                    if !forced && stays {
                        worst_kept[layer] = worst_kept[layer].min(row[p as usize]);
                    } else if !stays {
                        best_gone[layer] = best_gone[layer].max(row[p as usize]);
                    }
                }
            }
        }
        if layerwise {
            assert!(worst_kept.iter().zip(&best_gone).all(|(kept, gone)| kept >= gone));
        } else {
            let worst = worst_kept.iter().copied().fold(f32::INFINITY, f32::min);
            let best = best_gone.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(worst >= best, "{worst} stayed, {best} went");
        }
        // the same on the way, and nothing of the replay is left in the cache
        let options = SessionOptions { policy: Some(policy), ..whole.options().clone() };
        let mut on_the_way = Session::new(model.clone(), options).unwrap();
        let logits = on_the_way.prefill(&text, &mut Control::default()).unwrap();
        assert_eq!(common::kept(&on_the_way), kept);
        assert_eq!(logits, whole_logits(&model, &text), "the text's own logits are those of the dense cache");
        assert_eq!(on_the_way.stats().metadata_bytes, pressed.stats().metadata_bytes);
        assert!(
            on_the_way.stats().notes.iter().any(|n| n.contains("read 76 tokens again")),
            "{:?}",
            on_the_way.stats().notes
        );
        let (a, b) = (run(&mut on_the_way, &[5, 6]), run(&mut pressed, &[5, 6]));
        assert_eq!(a, b, "and both go on alike");
    }
}

fn whole_logits(model: &Arc<Model>, text: &[u32]) -> Vec<f32> {
    dense(model).forward(text, LogitRows::Last, &mut Control::default()).unwrap()
}

#[test]
fn a_replay_reports_progress_and_can_be_stopped_and_taken_up_again() {
    let Some(model) = common::tiny_once("llama") else { return };
    let text = ids(40);
    let options =
        SessionOptions { policy: Some(policy("kvzip(chunk_size=10)", "50%")), ..dense(&model).options().clone() };
    let mut session = Session::new(model.clone(), options).unwrap();
    let stop = AtomicBool::new(false);
    let mut reports = Vec::new();
    let mut progress = |done: usize, total: usize| {
        reports.push((done, total));
        if done > 50 {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let mut control = Control { progress: Some(&mut progress), cancel: Some(&stop), ..Control::default() };
    let error = session.prefill(&text, &mut control).unwrap_err();
    let total = 40 + 40 + 3 * 8;
    assert!(matches!(error, EngineError::Cancelled { done: 66, total: t, .. } if t == total), "{error}");
    assert!(reports.iter().all(|&(_, t)| t == total), "{reports:?}");
    assert_eq!(session.seen(), 40, "the text has been read");
    assert!(kept(&session).iter().flatten().all(|h| h.len() == 40), "and nothing is evicted or added");
    // the first prefill goes on, and its end is pressed
    session.prefill(&[7, 9], &mut Control::default()).unwrap();
    let slots: usize = kept(&session).iter().flatten().map(Vec::len).sum();
    assert_eq!(slots, 21 * model.config().layers * model.config().kv_heads);
}

#[test]
fn what_a_replay_cannot_do_is_refused_with_the_reason() {
    let Some(model) = common::tiny_once("llama") else { return };
    let mut decode = policy("kvzip", "50%");
    decode.schedule = "decode_every:8".parse().unwrap();
    let open =
        |policy: Policy| Session::new(model.clone(), SessionOptions { policy: Some(policy), ..Default::default() });
    let error = open(decode).unwrap_err().to_string();
    assert!(error.contains("second time") && error.contains("prefill_end"), "{error}");
    let context = model.config().context;
    let mut full = open(policy("kvcompose", "50%")).unwrap();
    let error = full.prefill(&ids(context / 2 + 1), &mut Control::default()).unwrap_err().to_string();
    assert!(error.contains("context") && full.seen() == 0, "refused before anything is read: {error}");
    assert!(session_with_room(&model).stats().notes.iter().any(|n| n.contains("evicted nothing")));
    for bad in ["kvzip(chunk_size=0)", "kvzip(normed_input=true)"] {
        assert!(bad.parse::<PressSpec>().unwrap().build().is_err(), "{bad}");
    }
}

/// A budget that holds the text: no second reading.
fn session_with_room(model: &Arc<Model>) -> Session {
    let options = SessionOptions { policy: Some(policy("kvzip", "100")), ..Default::default() };
    let mut session = Session::new(model.clone(), options).unwrap();
    let mut reports = Vec::new();
    let mut progress = |done: usize, total: usize| reports.push((done, total));
    let mut control = Control { progress: Some(&mut progress), ..Control::default() };
    session.prefill(&ids(30), &mut control).unwrap();
    assert_eq!(reports.last(), Some(&(30, 30)));
    session
}

#[test]
fn sliding_layers_keep_their_past_through_a_replay() {
    let Some(model) = common::tiny_once("gemma3") else { return };
    let text = ids(40);
    let mut session = dense(&model);
    run(&mut session, &text);
    let mut pressed = session.fork().unwrap();
    pressed.compress(&policy("kvzip(chunk_size=10)", "50%")).unwrap();
    for (before, after) in session.cache().layers().iter().zip(pressed.cache().layers()) {
        let slots = |l: &meden_engine::cache::LayerCache| l.heads().iter().map(|h| h.len()).sum::<usize>();
        if before.window().is_some() {
            assert_eq!(slots(before), slots(after));
        } else {
            assert!(slots(after) < slots(before));
        }
    }
}

#[test]
fn kvcompose_scores_and_counts_follow_the_second_reading() {
    let Some(model) = common::tiny_once("llama") else { return };
    let c = model.config().clone();
    let (text, n, group, d) = (ids(36), 36, c.q_heads / c.kv_heads, c.head_dim);
    let mut read_twice = dense(&model);
    run(&mut read_twice, &text);
    let whole = read_twice.fork().unwrap();
    let record = Record::of(&mut read_twice, &text);
    let mut all = Vec::new();
    for layer in 0..c.layers {
        let mut of_layer = vec![vec![0.0; n]; c.kv_heads];
        for (h, scores) in of_layer.iter_mut().enumerate() {
            let keys = rows(read_twice.cache().layers()[layer].heads()[h].keys(), d);
            for q_head in h * group..(h + 1) * group {
                let mut best = vec![0f64; n];
                for i in 0..n {
                    let q = record.q(&c, layer, i, q_head);
                    let logits: Vec<f64> =
                        keys[..=n + i].iter().map(|k| dot(&q, k) * f64::from(c.attention_scale)).collect();
                    best.iter_mut().zip(softmax(&logits)).for_each(|(best, a)| *best = best.max(a));
                }
                scores.iter_mut().zip(best).for_each(|(s, b)| *s += b / group as f64);
            }
        }
        let mean: Vec<f64> = (0..n).map(|j| of_layer.iter().map(|r| r[j]).sum::<f64>() / c.kv_heads as f64).collect();
        of_layer.iter_mut().for_each(|row| row.iter_mut().zip(&mean).for_each(|(s, m)| *s += m));
        let (scores, _) = whole.press_scores(layer, &policy("kvcompose", "50%")).unwrap();
        for (h, row) in scores.rows().iter().enumerate() {
            assert_close(row, &of_layer[h], 0..n, &format!("layer {layer}, head {h}"));
        }
        all.push(of_layer);
    }
    // structured: composite tokens of all layers, the first layer as good as the best at each rank
    let bare = Policy { sinks: 0, recents: 0, ..policy("kvcompose", "50%") };
    let mut composite: Vec<Vec<f64>> = all
        .iter()
        .map(|heads| {
            let mut sorted = heads.clone();
            sorted.iter_mut().for_each(|row| row.sort_by(|a, b| b.total_cmp(a)));
            (0..n).map(|r| sorted.iter().map(|row| row[r]).sum::<f64>() / c.kv_heads as f64).collect()
        })
        .collect();
    composite[0] = (0..n).map(|r| composite.iter().map(|l| l[r]).fold(0.0, f64::max)).collect();
    let mut ranked: Vec<(f64, usize)> =
        composite.iter().enumerate().flat_map(|(l, c)| c.iter().map(move |&s| (s, l))).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut pressed = whole.fork().unwrap();
    pressed.compress(&bare).unwrap();
    for layer in 0..c.layers {
        let want = ranked[..18 * c.layers].iter().filter(|(_, l)| *l == layer).count();
        for head in &kept(&pressed)[layer] {
            // the newest token stays even where its score does not earn it a place
            assert_eq!(head.len(), want.max(1), "layer {layer}");
        }
    }
    let mut loose = whole.fork().unwrap();
    loose.compress(&Policy { sinks: 0, recents: 0, ..policy("kvcompose(structured=false)", "50%") }).unwrap();
    let slots: usize = kept(&loose).iter().flatten().map(Vec::len).sum();
    assert_eq!(slots, 18 * c.layers * c.kv_heads);
}
