//! Presses with a rule of their own, each against a few plain lines that say the same.
#![allow(clippy::unwrap_used, clippy::manual_range_contains)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;

use common::{ids, kept, run};
use meden_engine::cache::head::HeadCache;
use meden_engine::hook::{Hook, Site, SiteVisit};
use meden_engine::{
    Budget, Control, EngineError, KvTypes, Model, Policy, PressSpec, Rounding, Schedule, Session, SessionOptions,
};

const N: usize = 60;

/// A policy that protects nothing but the newest token.
fn bare(press: &str, budget: &str) -> Policy {
    Policy {
        schedule: Schedule::prefill_end(),
        skip_layers: Some(vec![]),
        sinks: 0,
        recents: 0,
        ..Policy::new(press.parse().unwrap(), budget.parse().unwrap())
    }
}

/// A text read without a press, gathering what some presses will need.
fn dense(model: &Arc<Model>, watch: &[&str]) -> Session {
    let watch = watch.iter().map(|p| p.parse().unwrap()).collect();
    let options = SessionOptions { kv_type: KvTypes::F32, watch, ..SessionOptions::default() };
    let mut session = Session::new(model.clone(), options).unwrap();
    session.prefill(&ids(N), &mut Control::default()).unwrap();
    session
}

fn pressed(dense: &Session, policy: &Policy) -> Session {
    let mut session = dense.fork().unwrap();
    session.compress(policy).unwrap();
    session
}

fn heads(session: &Session) -> impl Iterator<Item = (usize, usize, &HeadCache)> {
    let layers = session.cache().layers().iter().enumerate();
    layers.flat_map(|(l, layer)| layer.heads().iter().enumerate().map(move |(h, head)| (l, h, head)))
}

fn refused(press: &str, budget: &str, model: &Arc<Model>, part: &str) {
    let spec: PressSpec = press.parse().unwrap();
    let policy = Policy { skip_layers: Some(vec![]), ..Policy::new(spec, budget.parse().unwrap()) };
    let options = SessionOptions { policy: Some(policy), ..SessionOptions::default() };
    let error = Session::new(model.clone(), options).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(part), "{press}: {error}");
}

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("meden-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn dms_evicts_what_scores_below_the_threshold_and_is_old_enough() {
    let Some(model) = common::tiny_once("llama") else { return };
    let whole = dense(&model, &[]);
    let norms: Vec<f32> = heads(&whole).flat_map(|(_, _, head)| head.norms().to_vec()).collect();
    let middle = norms.iter().sum::<f32>() / norms.len() as f32;
    let session = pressed(&whole, &bare(&format!("dms(knorm, threshold={}, window_size=16)", -middle), "press"));
    let mut gone = 0;
    for ((layer, number, head), (_, _, before)) in heads(&session).zip(heads(&whole)) {
        let stays = |p: &u32| before.norms()[*p as usize] <= middle || *p as usize + 16 >= N;
        let want: Vec<u32> = (0..N as u32).filter(stays).collect();
        assert_eq!(head.positions(), want, "layer {layer}, head {number}");
        gone += N - want.len();
    }
    assert!(gone > 0 && session.stats().evicted == gone as u64);
}

#[test]
fn dms_judges_in_decode_what_it_would_have_judged_in_one_go() {
    // scores of a token alone: when it is asked does not matter
    let Some(model) = common::tiny_once("llama") else { return };
    let press = "dms(knorm, threshold=-1.5, window_size=8)";
    let once = pressed(&dense(&model, &[]), &bare(press, "press"));
    let schedule = Schedule::decode_every(1);
    let options = SessionOptions {
        kv_type: KvTypes::F32,
        policy: Some(Policy { schedule, ..bare(press, "press") }),
        ..SessionOptions::default()
    };
    let mut slowly = Session::new(model.clone(), options).unwrap();
    run(&mut slowly, &ids(N));
    let first_layer = |s: &Session| kept(s)[0].clone();
    assert_eq!(first_layer(&slowly), first_layer(&once), "no attention comes before the keys of layer 0");
    assert!(slowly.stats().evicted > 0);
}

#[test]
fn dms_with_a_threshold_below_all_scores_changes_nothing() {
    let Some(model) = common::tiny_once("llama") else { return };
    let whole = dense(&model, &[]);
    let mut with = pressed(&whole, &bare("dms(knorm, threshold=-1e30)", "press"));
    let (a, b) = (run(&mut with, &ids(5)), run(&mut whole.fork().unwrap(), &ids(5)));
    assert!(a.iter().zip(&b).all(|(x, y)| x.to_bits() == y.to_bits()));
    assert!(with.stats().notes.iter().any(|n| n.contains("kept everything")));
    refused("dms", "press", &model, "`threshold` is missing");
    refused("dms(knorm, threshold=1)", "50%", &model, "decides itself");
    refused("dms(pyramidkv, threshold=0)", "press", &model, "depend on a budget");
    refused("dms(adakv(snapkv), threshold=0)", "press", &model, "depend on a budget");
}

#[test]
fn lazy_layers_alone_lose_their_middle() {
    let Some(model) = common::tiny_once("llama") else { return };
    let spec = |threshold: f64| format!("simlayerkv(lazy_threshold={threshold}, n_recent=20, n_initial=3, n_last=2)");
    let whole = dense(&model, &[&spec(0.5)]);
    let config = model.config();
    // attention of the last two queries, each a plain softmax, to the first 3 and to the 20 before the last two
    let mut shares = Vec::new();
    for layer in 0..config.layers {
        let scores = whole.press_scores(layer, &bare(&spec(0.5), "press")).unwrap().0;
        let near = |p: usize| p < 3 || p >= N - 22;
        let of_head = |row: &Vec<f32>| (0..N - 2).filter(|&p| near(p)).map(|p| f64::from(row[p])).sum::<f64>();
        shares.push(scores.rows().iter().map(of_head).sum::<f64>() / config.kv_heads as f64);
        for row in scores.rows() {
            let total: f32 = row.iter().sum();
            assert!(total > 0.0 && total < 1.0 && row[N - 2..] == [0.0, 0.0], "the window itself is left out");
        }
    }
    let mut sorted = shares.clone();
    sorted.sort_by(f64::total_cmp);
    let threshold = (sorted[1] + sorted[2]) / 2.0;
    let session = pressed(&whole, &bare(&spec(threshold), "press"));
    let lazy: Vec<u32> = (0..N as u32).filter(|&p| p < 3 || p >= N as u32 - 18).collect();
    for (layer, _, head) in heads(&session) {
        let want = if shares[layer] > threshold { lazy.clone() } else { (0..N as u32).collect() };
        assert_eq!(head.positions(), want, "layer {layer}: share {}", shares[layer]);
    }
    // 1 means never; and a text that the window holds is left alone
    for press in [spec(1.0), "simlayerkv(lazy_threshold=0)".to_string()] {
        assert_eq!(pressed(&whole, &bare(&press, "press")).stats().evicted, 0, "{press}");
    }
    refused("simlayerkv(n_recent=1)", "press", &model, "n_recent");
    refused("simlayerkv(lazy_threshold=1.5)", "press", &model, "lazy_threshold");
}

fn pattern(name: &str, table: &str, sizes: &str) -> PathBuf {
    let folder = folder(name);
    std::fs::write(folder.join("full_attention_heads.tsv"), table).unwrap();
    std::fs::write(folder.join("config.json"), sizes).unwrap();
    folder
}

fn duo(folder: &std::path::Path, ratio: f64) -> String {
    serde_json::json!({"kind": "duo_attention", "pattern": folder, "head_compression_ratio": ratio}).to_string()
}

#[test]
fn streaming_heads_lose_their_middle_and_their_pages() {
    let Some(model) = common::tiny_once("llama") else { return };
    let (layers, heads_) = (model.config().layers, model.config().kv_heads);
    assert_eq!((layers, heads_), (4, 2));
    let sizes = r#"{"sink_size": 2, "recent_size": 10, "other": "words"}"#;
    let at = pattern("duo", "0.9\t0.1\n0.5\t1.7\n0.2\t0.3\n-1\t0.8\n", sizes);
    let session = pressed(&dense(&model, &[]), &bare(&duo(&at, 0.5), "press"));
    let streaming = [(0, 1), (2, 0), (2, 1), (3, 0)]; // the four lowest of eight
    let short: Vec<u32> = (0..N as u32).filter(|&p| p < 2 || p >= N as u32 - 10).collect();
    for (layer, number, head) in heads(&session) {
        let want = if streaming.contains(&(layer, number)) { short.clone() } else { (0..N as u32).collect() };
        assert_eq!(head.positions(), want, "layer {layer}, head {number}");
    }
    refused("duo_attention", "press", &model, "`pattern` is missing");
    refused(&duo(&at, 1.5), "press", &model, "head_compression_ratio");
    refused(&duo(&at.join("nowhere"), 0.5), "press", &model, "nowhere");
}

#[test]
fn hostile_patterns_are_refused_with_the_place() {
    let Some(model) = common::tiny_once("llama") else { return };
    let sizes = r#"{"sink_size": 2, "recent_size": 10}"#;
    let rows = "0\t1\n".repeat(4);
    let huge = "0\t".repeat(9 << 20);
    for (number, (table, sizes, part)) in [
        ("0\t1\n".repeat(3).as_str(), sizes, "the model has 4 of 2"),
        (&"0\n".repeat(4), sizes, "the model has 4 of 2"),
        ("0\t1\n0\n", sizes, "line 2: 1 columns"),
        ("0\tnan\n", sizes, "`nan` is not a number"),
        ("0\tinf\n", sizes, "`inf` is not a number"),
        ("0\t\n", sizes, "`` is not a number"),
        ("", sizes, "no numbers"),
        (&huge, sizes, "longer than"),
        (&rows, r#"{"sink_size": -1, "recent_size": 1}"#, "config.json"),
        (&rows, r#"{"sink_size": 1}"#, "recent_size"),
        (&rows, "[", "config.json"),
    ]
    .into_iter()
    .enumerate()
    {
        let at = pattern(&format!("duo-bad-{number}"), table, sizes);
        refused(&duo(&at, 0.5), "press", &model, part);
        std::fs::remove_dir_all(at).unwrap();
    }
}

/// New values of a head by the published rule, slot by slot.
fn merged(head: &HeadCache, keep: &[u32], threshold: f32, fraction: f64) -> Vec<Vec<f32>> {
    let (dim, values) = (head.layout().key_dim(), head.values());
    let keys = head.keys();
    let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
    let key = |slot: u32| &keys[slot as usize * dim..][..dim];
    let value = |slot: u32| &values[slot as usize * dim..][..dim];
    let mut moves = Vec::new();
    for from in (0..head.len() as u32).filter(|s| !keep.contains(s)) {
        let cosine = |to: u32| {
            key(from).iter().zip(key(to)).map(|(a, b)| a * b).sum::<f32>() / (norm(key(from)) * norm(key(to)))
        };
        let mut best = keep[0];
        keep.iter().for_each(|&to| {
            if cosine(to) > cosine(best) {
                best = to;
            }
        });
        moves.push((cosine(best), from, best));
    }
    moves.sort_by(|a, b| b.0.total_cmp(&a.0));
    let most = (moves.len() as f64 * fraction).ceil() as usize;
    let mut out = Vec::new();
    for &to in keep {
        let mut total = 1.0;
        let mut sum = value(to).to_vec();
        for &(cosine, from, _) in moves[..most].iter().filter(|m| m.2 == to && m.0 >= threshold) {
            let weight = cosine.max(0.0) * norm(value(from)) / (norm(value(from)) + norm(value(to)) + 1e-6);
            total += weight;
            sum.iter_mut().zip(value(from)).for_each(|(s, v)| *s += weight * v);
        }
        out.push(sum.iter().map(|s| s / total).collect());
    }
    out
}

#[test]
fn merging_blends_evicted_values_into_the_most_similar_key() {
    let Some(model) = common::tiny_once("llama") else { return };
    let whole = dense(&model, &["snapkv(window_size=8)"]);
    for (threshold, fraction) in [(0.0, 1.0), (0.6, 1.0), (0.0, 0.5)] {
        let press = format!("merging(knorm, similarity_threshold={threshold}, merge_fraction={fraction})");
        let session = pressed(&whole, &bare(&press, "50%"));
        let plain = pressed(&whole, &bare("knorm", "50%"));
        assert_eq!(kept(&session), kept(&plain), "the same slots stay");
        let mut changed = 0;
        for (((layer, number, head), (_, _, before)), (_, _, plain)) in
            heads(&session).zip(heads(&whole)).zip(heads(&plain))
        {
            let want = merged(before, head.positions(), threshold, fraction);
            assert_eq!(head.keys(), plain.keys(), "keys are left as they are");
            for (slot, want) in want.iter().enumerate() {
                let mut got = vec![0.0; want.len()];
                head.value(slot, &mut got);
                let at = format!("{press}: layer {layer}, head {number}, slot {slot}");
                assert!(common::max_diff(&got, want) < 1e-5, "{at}: {got:?} against {want:?}");
            }
            changed += usize::from(head.values() != plain.values());
        }
        assert!(changed > 0, "{press} merged nothing");
        assert_eq!(session.cache().bytes(), plain.cache().bytes());
    }
    // above 1 nothing is similar enough: plain eviction
    let never = pressed(&whole, &bare("merging(knorm, similarity_threshold=1.01)", "50%"));
    let plain = pressed(&whole, &bare("knorm", "50%"));
    assert!(heads(&never).zip(heads(&plain)).all(|(a, b)| a.2.values() == b.2.values()));
    // the parent of the fork is untouched, and presses that choose by themselves may stand inside
    let again = dense(&model, &[]);
    assert!(heads(&whole).zip(heads(&again)).all(|(a, b)| a.2.values() == b.2.values()));
    pressed(&whole, &bare("merging(adakv(snapkv(window_size=8)))", "50%"));
    refused("merging(merging(knorm))", "50%", &model, "changes the cache itself");
    refused("merging(pooled(snapkv))", "50%", &model, "all layers together");
    refused("merging(knorm, merge_fraction=0)", "50%", &model, "merge_fraction");
}

#[test]
fn cam_keeps_one_set_and_moves_values_only_to_later_slots() {
    let Some(model) = common::tiny_once("llama") else { return };
    let press = "cam(knorm, merge_budget=3, seed=7)";
    let whole = dense(&model, &[press]);
    let session = pressed(&whole, &bare(press, "50%"));
    let again = pressed(&whole, &bare(press, "50%"));
    let other = pressed(&whole, &bare("cam(knorm, merge_budget=3, seed=8)", "50%"));
    let (mut changed, mut differs) = (0, 0);
    for (((_, _, head), (_, _, same)), (_, _, other)) in heads(&session).zip(heads(&again)).zip(heads(&other)) {
        assert_eq!(head.values(), same.values(), "a seed repeats");
        differs += usize::from(head.values() != other.values());
    }
    assert!(differs > 0, "another seed draws otherwise");
    for (layer, cache) in session.cache().layers().iter().enumerate() {
        let before = whole.cache().layers()[layer].heads();
        let mean = |p: usize| before.iter().map(|h| -h.norms()[p]).sum::<f32>() / before.len() as f32;
        let mut order: Vec<usize> = (0..N - 1).collect();
        order.sort_by(|&a, &b| mean(b).total_cmp(&mean(a)).then(a.cmp(&b)));
        let mut want: Vec<u32> = order[..N / 2 - 1].iter().map(|&p| p as u32).chain([N as u32 - 1]).collect();
        want.sort_unstable();
        for (head, before) in cache.heads().iter().zip(before) {
            assert_eq!(head.positions(), want, "layer {layer}: the best mean over heads");
            for (slot, &position) in head.positions().iter().enumerate() {
                let (mut new, mut old) = (vec![0.0; head.layout().value_dim()], vec![0.0; head.layout().value_dim()]);
                head.value(slot, &mut new);
                before.value(position as usize, &mut old);
                // slots before which nothing was evicted cannot have taken anything over
                let evicted_before = (0..position).any(|p| !want.contains(&p));
                assert!(evicted_before || new == old);
                changed += usize::from(new != old);
            }
        }
    }
    assert!(changed > 0);
    refused("cam(adakv(snapkv))", "50%", &model, "chooses by itself");
}

#[test]
fn finch_keeps_what_the_question_attends_to_and_numbers_anew() {
    let Some(model) = common::tiny_once("llama") else { return };
    let whole = dense(&model, &["finch(window_size=12)"]);
    // without the weights and the pooling it is snapkv; with them each query counts by its position
    let plain = bare("finch(window_size=12, normalize_scores=false, rerotate_keys=false)", "50%");
    let snap = bare("snapkv(window_size=12, kernel_size=1)", "50%");
    for layer in 0..model.config().layers {
        let (a, b) = (whole.press_scores(layer, &plain).unwrap().0, whole.press_scores(layer, &snap).unwrap().0);
        assert_eq!(a.rows(), b.rows());
        let weighted = bare("finch(window_size=12, rerotate_keys=false)", "50%");
        let c = whole.press_scores(layer, &weighted).unwrap().0;
        for (c, a) in c.rows().iter().flatten().zip(a.rows().iter().flatten()) {
            assert!(*c >= 47.9 * a && *c <= 59.1 * a, "positions 48 to 59 weigh: {c} against {a}");
        }
    }
    let stays = pressed(&whole, &bare("finch(window_size=12, rerotate_keys=false)", "50%"));
    let turned = pressed(&whole, &bare("finch(window_size=12)", "50%"));
    assert_eq!(turned.next_position(), 30);
    assert_eq!(stays.next_position(), N);
    for ((_, _, turned), (_, _, stays)) in heads(&turned).zip(heads(&stays)) {
        assert_eq!(turned.positions(), (0..30).collect::<Vec<u32>>());
        assert!(stays.positions().ends_with(&(48..60).collect::<Vec<u32>>()), "the question stays");
        assert_eq!(turned.values(), stays.values(), "the same slots stay");
    }
    // in chunks: each keeps its share
    let chunked = pressed(&whole, &bare("finch(window_size=12, chunk_length=20, rerotate_keys=false)", "70%"));
    for (layer, _, head) in heads(&chunked) {
        let of_chunk = |c: u32| head.positions().iter().filter(|&&p| p / 20 == c).count();
        assert_eq!([of_chunk(0), of_chunk(1), of_chunk(2)], [14, 14, 14], "layer {layer}");
    }
    refused("finch", "50%", &model, "`window_size` is missing");
    let policy = Policy { schedule: Schedule::decode_every(4), ..bare("finch(window_size=4)", "50%") };
    let options = SessionOptions { policy: Some(policy), ..SessionOptions::default() };
    let error = Session::new(model, options).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("question"), "{error}");
}

#[test]
fn each_layer_keeps_the_share_that_the_list_says() {
    let Some(model) = common::tiny_once("llama") else { return };
    let whole = dense(&model, &[]);
    let press = "per_layer(knorm, compression_ratios=[0, 0.5, 0.9, 0.25])";
    let session = pressed(&whole, &bare(press, "press"));
    let lens: Vec<usize> = kept(&session).iter().map(|l| l[0].len()).collect();
    assert_eq!(lens, [60, 30, 6, 45]);
    for (layer, budget) in [(1, "50%"), (2, "10%"), (3, "75%")] {
        assert_eq!(kept(&session)[layer], kept(&pressed(&whole, &bare("knorm", budget)))[layer], "layer {layer}");
    }
    // the list, not the inner press's habit, says which layers are left alone
    let spec: PressSpec = press.parse().unwrap();
    assert!(Policy::new(spec, Budget::Press).skipped().is_empty());
    refused("per_layer(knorm)", "press", &model, "`compression_ratios` is missing");
    refused("per_layer(knorm, compression_ratios=[0.5])", "press", &model, "has 1 numbers, the model 4 layers");
    refused("per_layer(knorm, compression_ratios=[0, 0, 0, 1])", "press", &model, "below 1");
    if let Some(sliding) = common::tiny_once("gemma2") {
        let (on, off) = ("[0.5, 0.5, 0, 0.5]", "[0, 0.5, 0, 0.5]");
        refused(&format!("per_layer(keydiff, compression_ratios={on})"), "press", &sliding, "sliding window");
        pressed(&dense(&sliding, &[]), &bare(&format!("per_layer(keydiff, compression_ratios={off})"), "press"));
    }
}

#[test]
fn composed_presses_judge_what_the_one_before_left() {
    let Some(model) = common::tiny_once("llama") else { return };
    let whole = dense(&model, &["snapkv(window_size=8)"]);
    let both = pressed(&whole, &bare("composed(snapkv(window_size=8), keydiff)", "25%"));
    // by hand: half by the first press, then half of that by the second, on a cache that holds nothing else
    let mut by_hand = pressed(&whole, &bare("snapkv(window_size=8)", "50%"));
    by_hand.compress(&Policy { recents: 8, ..bare("keydiff", "25%") }).unwrap();
    assert_eq!(kept(&both), kept(&by_hand));
    assert_ne!(kept(&both), kept(&pressed(&whole, &bare("keydiff", "25%"))));
    // shares of the stages: the first may leave everything to the second
    let second = pressed(&whole, &bare("composed(snapkv(window_size=8), keydiff, keeps=[1])", "25%"));
    assert_eq!(kept(&second), kept(&pressed(&whole, &Policy { recents: 8, ..bare("keydiff", "25%") })));
    // a threshold first, a budget last
    let mixed = pressed(&whole, &bare("composed(dms(knorm, threshold=-1.5, window_size=8), keydiff)", "25%"));
    assert!(heads(&mixed).all(|(_, _, head)| head.len() <= 15));
    for (press, budget, part) in [
        ("composed(knorm)", "50%", "at least two"),
        ("composed(knorm, keydiff, keeps=[0.5, 0.5])", "50%", "one for each but the last"),
        ("composed(knorm, keydiff, keeps=[0])", "50%", "above 0"),
        ("composed(keydiff, merging(knorm))", "50%", "put it outside"),
        ("composed(keydiff, key_rerotation(knorm))", "50%", "put it outside"),
        ("composed(pooled(knorm), keydiff)", "50%", "all layers together"),
        ("composed(keydiff, dms(knorm, threshold=0))", "50%", "has to come last"),
        ("adakv(composed(knorm, keydiff))", "50%", "chooses by itself"),
        ("composed(dms(knorm, threshold=0), simlayerkv)", "50%", "decides itself"),
    ] {
        refused(press, budget, &model, part);
    }
    pressed(&whole, &bare("merging(composed(keydiff, knorm))", "50%"));
}

/// A curve in NumPy's format: at every ratio the same shares that the heads drop.
fn curve(name: &str, shape: &[usize], drops: &[f32]) -> PathBuf {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", sizes.join(", "));
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    for _ in 0..shape[0] {
        bytes.extend(drops.iter().flat_map(|d| d.to_le_bytes()));
    }
    let path = folder(name).join("curve.npy");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn lukv_gives_each_head_what_the_curve_says() {
    let Some(model) = common::tiny_once("llama") else { return };
    let spec = |path: &PathBuf| {
        serde_json::json!({"kind": "lukv", "press": {"kind": "knorm"}, "curve": path, "n_sink": 2}).to_string()
    };
    // half of all on average; layer 1 drops most
    let drops = [0.5, 0.5, 0.9, 0.7, 0.25, 0.55, 0.1, 0.5];
    let path = curve("lukv", &[99, 4, 2], &drops);
    let whole = dense(&model, &[]);
    let session = pressed(&whole, &bare(&spec(&path), "50%"));
    let lens: Vec<Vec<usize>> = kept(&session).iter().map(|l| l.iter().map(Vec::len).collect()).collect();
    assert_eq!(lens.iter().flatten().sum::<usize>(), 8 * 30, "the budget is met: {lens:?}");
    let near = lens.iter().flatten().zip(drops).all(|(&n, drop)| (n as f32 - 60.0 * (1.0 - drop)).abs() <= 1.0);
    assert!(near, "{lens:?}");
    for (layer, number, head) in heads(&session) {
        assert!(head.positions().starts_with(&[0, 1]) && head.positions().ends_with(&[59]));
        let norms = whole.cache().layers()[layer].heads()[number].norms();
        let worst = head.positions()[2..head.len() - 1].iter().map(|&p| norms[p as usize]).fold(0.0, f32::max);
        let better = (2..59).filter(|p| norms[*p as usize] < worst && !head.positions().contains(p)).count();
        assert_eq!(better, 0, "layer {layer}, head {number}: the lowest norms stay");
    }
    // the published rounding: each layer by itself
    let policy = Policy { rounding: Rounding::Kvpress, ..bare(&spec(&path), "50%") };
    let lens: Vec<usize> = kept(&pressed(&whole, &policy)).iter().flatten().map(Vec::len).collect();
    assert_eq!(lens, [30, 30, 6, 18, 45, 27, 54, 30]);
    for (shape, values, part) in [
        (vec![99, 3, 2], vec![0.5; 6], "needs (99, 4, 2)"),
        (vec![98, 4, 2], vec![0.5; 8], "a curve is (99, layers, kv_heads)"),
        (vec![99, 8], vec![0.5; 8], "a curve is"),
        (vec![99, 4, 2], vec![f32::NAN; 8], "not a share"),
        (vec![99, 4, 2], vec![0.5; 7], "does not fit"),
    ] {
        refused(&spec(&curve("lukv-bad", &shape, &values)), "50%", &model, part);
    }
    refused("lukv", "50%", &model, "`curve` is missing");
}

#[test]
fn entropy_gated_chunks_meet_the_budget_exactly_with_one_set_for_all_heads() {
    let Some(model) = common::tiny_once("llama") else { return };
    let press = "entropy_chunkkv(snapkv(window_size=8), chunk_length=6, low_entropy_chunk_length=2)";
    let whole = dense(&model, &[press]);
    for (budget, count) in [("25%", 15), ("50%", 30), ("90%", 54)] {
        let session = pressed(&whole, &bare(press, budget));
        for layer in kept(&session) {
            assert!(layer.iter().all(|head| head.len() == count && *head == layer[0]), "{budget}: {layer:?}");
            assert!(layer[0].ends_with(&(52..60).collect::<Vec<u32>>()), "the window stays");
        }
    }
    refused("entropy_chunkkv(snapkv, chunk_length=4, low_entropy_chunk_length=4)", "50%", &model, "low_entropy");
    refused("entropy_chunkkv(snapkv, chunk_length=1)", "50%", &model, "chunk_length");
}

#[test]
fn think_narrows_old_keys_and_frees_their_bytes() {
    let Some(model) = common::tiny_once("qwen3") else { return };
    let press = "think(key_channel_compression_ratio=0.75, window_size=8)";
    let text: Vec<u32> = ids(500);
    let watch = vec![press.parse().unwrap(), "snapkv(window_size=8)".parse().unwrap()];
    let options = SessionOptions { kv_type: KvTypes::F16, watch, ..SessionOptions::default() };
    let mut whole = Session::new(model.clone(), options).unwrap();
    whole.prefill(&text, &mut Control::default()).unwrap();
    let policy = Policy { recents: 16, ..bare(press, "press") };
    let mut session = whole.fork().unwrap();
    let did = session.compress(&policy).unwrap();
    // a quarter of each key stays: 3/8 of the bytes go, but for the newest and for pages that are not full
    assert!(did.after_bytes * 100 < did.before_bytes * 72, "{did:?}");
    assert_eq!(did.evicted, 0, "no token goes");
    assert_eq!(session.stats().kept_tokens_mean, 500.0);
    assert!(session.stats().notes.iter().any(|n| n.contains("older keys keep 8 of 32 channels")));
    let config = model.config();
    for (layer, cache) in session.cache().layers().iter().enumerate() {
        let narrow = cache.narrow().unwrap();
        for (number, (few, old)) in narrow.heads().iter().zip(whole.cache().layers()[layer].heads()).enumerate() {
            assert_eq!(few.positions(), (0..484).collect::<Vec<u32>>());
            assert_eq!(cache.heads()[number].positions(), (484..500).collect::<Vec<u32>>());
            let channels = &narrow.channels()[number];
            assert!(channels.len() == 8 && channels.windows(2).all(|w| w[0] < w[1]));
            for (few, old) in few.keys().chunks_exact(8).zip(old.keys().chunks_exact(config.head_dim)) {
                assert!(few.iter().zip(channels).all(|(k, &c)| *k == old[c as usize]));
            }
            assert_eq!(few.values(), old.values()[..484 * config.head_dim], "values stay");
        }
    }
    // the fork's parent still answers from whole keys; a narrowed cache takes no other press
    assert!(!whole.cache().is_narrowed());
    let error = session.compress(&bare("knorm", "50%")).unwrap_err().to_string();
    assert!(error.contains("lost channels"), "{error}");
    assert!(session.keep_slots(0, 0, &[0]).is_err());
    assert!(matches!(session.rewind(499), Err(EngineError::RewindPastEviction { .. })));
    // later tokens come and go
    let (a, seen) = (run(&mut session, &ids(9)), session.seen());
    session.rewind(seen - 9).unwrap();
    let b = run(&mut session, &ids(9));
    assert!(a.iter().zip(&b).all(|(x, y)| x.to_bits() == y.to_bits()));
    // tokens first, channels of what is left then
    let both = pressed(
        &whole,
        &Policy { recents: 16, ..bare("composed(snapkv(window_size=8), think(window_size=8))", "50%") },
    );
    for (layer, cache) in both.cache().layers().iter().enumerate() {
        assert_eq!(cache.lens(), vec![250; config.kv_heads], "layer {layer}");
        assert_eq!(cache.narrow().unwrap().key_dim(), 16);
    }
    for (press, part) in [
        ("composed(think, knorm)", "has to be last"),
        ("merging(think)", "changes the cache itself"),
        ("dms(think, threshold=0)", "decides itself"),
        ("think(key_channel_compression_ratio=1)", "below 1"),
    ] {
        refused(press, if press.starts_with("composed") { "50%" } else { "press" }, &model, part);
    }
}

/// Fails in the third layer.
struct Fails;

impl Hook for Fails {
    fn name(&self) -> &str {
        "fails"
    }
    fn wants(&self, site: Site, layer: usize) -> bool {
        site == Site::ResidPre && layer == 2
    }
    fn visit(&mut self, _: SiteVisit<'_>) -> Result<(), EngineError> {
        Err(EngineError::NoTokens)
    }
}

#[test]
fn a_prefill_that_failed_after_keys_were_narrowed_can_be_given_again() {
    let Some(model) = common::tiny_once("llama") else { return };
    let policy = bare("think(window_size=8)", "press");
    let options = SessionOptions { kv_type: KvTypes::F32, policy: Some(policy), ..SessionOptions::default() };
    let mut session = Session::new(model.clone(), options.clone()).unwrap();
    let mut fails = Fails;
    session.prefill(&ids(N), &mut Control { hooks: vec![&mut fails], ..Control::default() }).unwrap_err();
    assert!(session.cache().is_narrowed() && session.seen() == 0);
    assert!(session.cache().layers().iter().all(|l| l.lens().iter().all(|&n| n == 0)));
    let again = session.prefill(&ids(N), &mut Control::default()).unwrap();
    let mut fresh = Session::new(model, options).unwrap();
    let want = fresh.prefill(&ids(N), &mut Control::default()).unwrap();
    assert!(again.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert_eq!(session.stats().kv_bytes, fresh.stats().kv_bytes);
    assert_eq!(session.stats().kept_tokens_mean, N as f64);
}

#[test]
fn a_share_in_decode_is_one_of_the_tokens_seen_not_of_those_left() {
    // kvpress's CompressionRatioDecodingPress: target = max(1, tokens seen * (1 - ratio)), every so many steps
    let Some(model) = common::tiny_once("llama") else { return };
    let policy = Policy { schedule: "prefill_end,decode_every:4".parse().unwrap(), ..bare("knorm", "25%") };
    let options = SessionOptions { kv_type: KvTypes::F32, policy: Some(policy), ..SessionOptions::default() };
    let mut session = Session::new(model, options).unwrap();
    session.prefill(&ids(40), &mut Control::default()).unwrap();
    let (mut held, mut cuts) = (10, 0);
    assert!(heads(&session).all(|(_, _, head)| head.len() == held), "a quarter of the prompt");
    for token in 0..60 {
        session.decode(3 + token % 50, &mut Control::default()).unwrap();
        let (seen, target) = (session.seen(), session.seen().div_ceil(4));
        held += 1;
        if held >= target + 4 {
            held = target; // a quarter of what was left would be far less
            cuts += 1;
        }
        assert!(heads(&session).all(|(_, _, head)| head.len() == held), "{held} after {seen}");
    }
    assert!(cuts > 10, "{cuts}");
}
