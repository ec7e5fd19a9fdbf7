//! Turned keys and values: nothing but rounding may show, and rounding to few bits must show less.
#![allow(clippy::unwrap_used)]

mod common;

use common::{ids, kept, max_diff, policy, presses, run};
use meden_engine::cache::head::HeadCache;
use meden_engine::{KvRotation, KvTypes, Session, SessionOptions};
use meden_kernels::attention::PageLayout;
use meden_kernels::mem::Slab;

fn options(kv_type: KvTypes, kv_rotate: Option<KvRotation>) -> SessionOptions {
    SessionOptions { kv_type, kv_rotate, ..SessionOptions::default() }
}

#[test]
fn an_f32_cache_gives_the_same_logits_turned_or_not() {
    for name in ["llama", "qwen3", "gemma2", "gemma3", "mistral-sliding", "llama-mha-bias"] {
        let Some(model) = common::tiny(name) else { return };
        let open = |rotate| Session::new(model.clone(), options(KvTypes::F32, rotate)).unwrap();
        let (mut plain, mut turned) = (open(None), open(Some(KvRotation::Hadamard)));
        // A prompt, then tokens one by one: both paths of the kernel.
        let mut largest = 0f32;
        let mut same = true;
        for piece in [&ids(60)[..], &[5], &[9], &[3]] {
            let (a, b) = (run(&mut plain, piece), run(&mut turned, piece));
            largest = a.iter().fold(largest, |m, v| m.max(v.abs()));
            let diff = max_diff(&a, &b);
            assert!(diff <= 2e-5 * largest.max(1.0), "{name}: logits up to {largest} differ by {diff}");
            same &= a == b;
        }
        assert!(!same, "{name}: nothing was turned");
        // Readers never notice: keys and values come back as they were, and norms are those of the keys.
        for (a, b) in plain.cache().layers().iter().zip(turned.cache().layers()) {
            for (a, b) in a.heads().iter().zip(b.heads()) {
                let dim = a.layout().key_dim();
                let (mut x, mut y) = (vec![0.0; dim], vec![0.0; dim]);
                for slot in 0..a.len() {
                    a.key(slot, &mut x);
                    b.key(slot, &mut y);
                    let size = x.iter().fold(1f32, |m, v| m.max(v.abs()));
                    assert!(max_diff(&x, &y) <= 2e-5 * size, "{name}: a key");
                    a.value(slot, &mut x);
                    b.value(slot, &mut y);
                    let size = x.iter().fold(1f32, |m, v| m.max(v.abs()));
                    assert!(max_diff(&x, &y) <= 2e-5 * size, "{name}: a value");
                }
                assert!(max_diff(a.norms(), b.norms()) <= 1e-4, "{name}: norms");
            }
        }
    }
}

/// One channel far larger than the others, as keys have it: it sets the step of its group, unless it is spread.
#[test]
fn few_bits_hold_a_turned_key_better() {
    let error = |kind: KvTypes, rotate: Option<KvRotation>| {
        let layout = PageLayout::new(64, 64, kind.key, kind.value);
        let mut head = HeadCache::new(layout, Slab::new(layout.page_bytes())).with_rotation(rotate);
        let (mut error, mut out) = (0f64, [0.0; 64]);
        for position in 0..200u32 {
            let key: Vec<f32> = (0..64u32)
                .map(|i| if i == 9 { 40.0 } else { ((position * 37 + i * 101) % 211) as f32 / 105.0 - 1.0 })
                .collect();
            head.push(position, &key, &key);
            head.key(position as usize, &mut out);
            error += key.iter().zip(&out).map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>();
        }
        error
    };
    for kind in [KvTypes::Q8, KvTypes::Q4] {
        let (plain, turned) = (error(kind, None), error(kind, Some(KvRotation::Hadamard)));
        assert!(turned < 0.25 * plain, "{kind}: squared error {turned} turned, {plain} as it is");
    }
}

#[test]
fn a_turned_session_is_saved_forked_rewound_and_pressed_like_any_other() {
    let Some(model) = common::tiny("qwen3") else { return };
    let path = std::env::temp_dir().join(format!("meden-rotation-{}.kv", std::process::id()));
    let policy = Some(policy(&presses()[0], "24", "decode_every:4"));
    for kind in [KvTypes::Q4, KvTypes::Q8_Q4] {
        let options = SessionOptions { policy: policy.clone(), ..options(kind, Some(KvRotation::Hadamard)) };
        let mut session = Session::new(model.clone(), options.clone()).unwrap();
        run(&mut session, &ids(50));
        assert!(session.stats().evicted > 0);
        session.save(&path).unwrap();
        let mut restored = Session::restore(model.clone(), &path).unwrap();
        assert_eq!(restored.options(), &options);
        let mut fork = session.fork().unwrap();
        let expected = run(&mut session, &ids(9));
        assert_eq!(run(&mut restored, &ids(9)), expected, "{kind}");
        assert_eq!(run(&mut fork, &ids(9)), expected, "{kind}");
    }
    std::fs::remove_file(&path).unwrap();
}

/// Keys, norms and attention are those of the keys as they were, so a press keeps what it keeps of a cache that is not
/// turned, whether it reads norms, keys one by one, or attention from whole pages.
#[test]
fn presses_keep_the_same_tokens_turned_or_not() {
    let of_attention = ["snapkv", "tova", "h2o", "keydiff"].map(|press| press.parse().unwrap());
    for press in presses().into_iter().chain(of_attention) {
        let Some(model) = common::tiny("llama") else { return };
        let open = |kv_rotate| {
            let policy = Some(policy(&press, "24", "decode_every:4"));
            Session::new(model.clone(), SessionOptions { policy, ..options(KvTypes::F32, kv_rotate) }).unwrap()
        };
        let (mut plain, mut turned) = (open(None), open(Some(KvRotation::Hadamard)));
        run(&mut plain, &ids(80));
        run(&mut turned, &ids(80));
        assert!(plain.stats().evicted > 0);
        assert_eq!(kept(&plain), kept(&turned), "{}", press.name());
    }
}
