//! Presses that leave out different numbers of first tokens share one reading of a text.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use meden_engine::{Control, KvTypes, Model, Policy, PressSpec, Session, SessionOptions};

const PRESSES: [&str; 4] = [
    "triattention",
    "cap(n_sink=2)",
    "expected_attention(n_sink=4)",
    "expected_attention(n_sink=1, use_covariance=false)",
];

fn specs(names: &[&str]) -> Vec<PressSpec> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn read(model: &Arc<Model>, watch: Vec<PressSpec>, ids: &[u32]) -> Session {
    let options = SessionOptions { kv_type: KvTypes::F32, prefill_chunk: 3, watch, ..Default::default() };
    let mut session = Session::new(model.clone(), options).unwrap();
    session.prefill(ids, &mut Control::default()).unwrap();
    session
}

#[test]
fn a_press_scores_the_same_alone_and_beside_others() {
    let Some(model) = common::tiny("llama") else { return };
    let vocab = model.config().vocab as u32;
    // Texts that end before, among and behind the tokens that some leave out.
    for length in [3, 5, 40] {
        let ids: Vec<u32> = (0..length).map(|i| (i * 37 + 11) % vocab).collect();
        let together = read(&model, specs(&PRESSES), &ids);
        let path = std::env::temp_dir().join(format!("meden-moments-{}-{length}", std::process::id()));
        together.save(&path).unwrap();
        let restored = Session::restore(model.clone(), &path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for name in PRESSES {
            let press: PressSpec = name.parse().unwrap();
            let policy = Policy { sinks: 0, recents: 0, ..Policy::new(press.clone(), "50%".parse().unwrap()) };
            let alone = read(&model, vec![press], &ids);
            for layer in 0..model.config().layers {
                let of = |session: &Session| session.press_scores(layer, &policy).unwrap().0;
                let (want, got) = (of(&alone), of(&together));
                for (want, got) in want.rows().iter().zip(got.rows()) {
                    assert_eq!(want.len(), got.len());
                    for (w, g) in want.iter().zip(got) {
                        let size = w.abs().max(1.0);
                        assert!(w == g || (w - g).abs() <= 1e-5 * size, "{name}, {length} tokens: {g} against {w}");
                    }
                }
                assert_eq!(of(&restored).rows(), got.rows(), "{name}: saved and restored");
            }
        }
    }
}
