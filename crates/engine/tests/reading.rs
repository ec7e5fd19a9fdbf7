//! Reading some pages of the cache at each decoded token: what it must not change, and what it must find.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{ids, policy, presses, run};
use meden_engine::{
    BatchItem, Control, EngineError, KvTypes, LogitRows, Model, Session, SessionOptions, forward_batch,
};

fn options(read: Option<&str>) -> SessionOptions {
    let read = read.map(|r| r.parse().unwrap());
    SessionOptions { kv_type: KvTypes::F32, read, ..SessionOptions::default() }
}

fn open(model: &Arc<Model>, read: Option<&str>) -> Session {
    Session::new(model.clone(), options(read)).unwrap()
}

fn bits(rows: &[f32]) -> Vec<u32> {
    rows.iter().map(|v| v.to_bits()).collect()
}

fn decode(session: &mut Session, ids: &[u32]) -> Vec<f32> {
    ids.iter().flat_map(|&id| session.decode(id, &mut Control::default()).unwrap().to_vec()).collect()
}

/// No skipped layers, two pages.
const TWO_PAGES: &str = r#"{"kind": "quest", "budget": 1, "skip_layers": [], "min_pages": 2}"#;

#[test]
fn a_budget_of_all_pages_gives_the_bits_of_reading_everything() {
    for (name, kv_type) in ["llama", "qwen3", "gemma2", "mistral-sliding"]
        .into_iter()
        .flat_map(|name| [KvTypes::F32, KvTypes::Q4C_Q8].map(|kv| (name, kv)))
    {
        let Some(model) = common::tiny(name) else { return };
        let open = |read| Session::new(model.clone(), SessionOptions { kv_type, ..options(read) }).unwrap();
        let (mut dense, mut sparse) = (open(None), open(Some("quest:100000")));
        assert_eq!(bits(&run(&mut dense, &ids(200))), bits(&run(&mut sparse, &ids(200))));
        assert_eq!(bits(&decode(&mut dense, &ids(20))), bits(&decode(&mut sparse, &ids(20))), "{name} {kv_type}");
        let stats = sparse.stats();
        let read = stats.read.unwrap();
        assert_eq!((read.tokens, read.share), (20, Some(1.0)), "{name}");
        assert!(stats.notes.iter().any(|n| n.contains("left nothing out")), "{name}: {:?}", stats.notes);
        assert!(dense.stats().read.is_none());
    }
}

#[test]
fn few_pages_change_decoded_tokens_alone_and_the_share_says_how_few() {
    let Some(model) = common::tiny("llama") else { return };
    let (mut dense, mut sparse) = (open(&model, None), open(&model, Some(TWO_PAGES)));
    let prefill = run(&mut sparse, &ids(300));
    assert_eq!(bits(&run(&mut dense, &ids(300))), bits(&prefill), "the prompt is read whole");
    assert_eq!(sparse.stats().read.unwrap().share, None);
    assert_ne!(bits(&decode(&mut dense, &[5])), bits(&decode(&mut sparse, &[5])));
    let read = sparse.stats().read.unwrap();
    let head = &sparse.cache().layers()[0].heads()[0];
    let (slots, tokens, bytes) = (head.len(), head.layout().tokens(), head.layout().token_bytes());
    let pages = slots.div_ceil(tokens);
    assert!(pages > 4, "{slots} slots on {pages} pages");
    // One whole page, what the newest holds, and the bounds of all others.
    let expected = (tokens + slots - (pages - 1) * tokens) * bytes + (pages - 1) * 2 * head.layout().key_dim() * 4;
    let heads = model.config().layers * model.config().kv_heads;
    assert_eq!(read.bytes, (heads * expected) as u64);
    assert_eq!(read.dense_bytes, (heads * slots * bytes) as u64);
    assert!(read.share.unwrap() < 0.6);
    // More tokens in one call are read as a prompt is.
    let before = sparse.stats().read.unwrap();
    run(&mut sparse, &ids(3));
    assert_eq!(sparse.stats().read.unwrap(), before);
}

#[test]
fn forks_rewinds_evictions_saves_and_batches_read_what_a_session_alone_reads() {
    let Some(model) = common::tiny("llama") else { return };
    let pressed = |read: Option<&str>| {
        let policy = Some(policy(&presses()[0], "150", "decode_every:8"));
        Session::new(model.clone(), SessionOptions { policy, ..options(read) }).unwrap()
    };
    // A session without bounds computed on the way is the judge: it is restored from a file before each token.
    let path = std::env::temp_dir().join(format!("meden-reading-{}.kv", std::process::id()));
    let fresh = |session: &Session| {
        session.save(&path).unwrap();
        Session::restore(model.clone(), &path).unwrap()
    };
    let mut session = pressed(Some(TWO_PAGES));
    run(&mut session, &ids(140));
    for &id in &ids(60) {
        let expected = decode(&mut fresh(&session), &[id]);
        assert_eq!(bits(&decode(&mut session, &[id])), bits(&expected));
    }
    assert!(session.stats().evicted > 0);
    let mut fork = session.fork().unwrap();
    let expected = decode(&mut fresh(&session), &[9, 8, 7]);
    assert_eq!(bits(&decode(&mut fork, &[9, 8, 7])), bits(&expected));
    assert_eq!(bits(&decode(&mut session, &[9, 8, 7])), bits(&expected));
    assert_eq!(session.stats().read, fork.stats().read);
    assert_eq!(fresh(&session).stats().read, session.stats().read);

    let mut long = open(&model, Some(TWO_PAGES));
    run(&mut long, &ids(200));
    let seen = long.seen();
    let first = decode(&mut long, &ids(40));
    long.rewind(seen).unwrap();
    assert_eq!(bits(&decode(&mut long, &ids(40))), bits(&first));

    let (mut one, mut two) = (open(&model, Some(TWO_PAGES)), open(&model, None));
    run(&mut one, &ids(200));
    run(&mut two, &ids(90));
    let (mut alone, mut other) = (one.fork().unwrap(), two.fork().unwrap());
    let mut rows = vec![];
    let mut items = [
        BatchItem { session: &mut one, ids: &[7], rows: LogitRows::Last },
        BatchItem { session: &mut two, ids: &[9], rows: LogitRows::Last },
    ];
    forward_batch(&mut items, &mut Control::default(), &mut |_, _, row| {
        rows.extend_from_slice(row);
        Ok(())
    })
    .unwrap();
    assert_eq!(bits(&rows), bits(&[decode(&mut alone, &[7]), decode(&mut other, &[9])].concat()));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_policy_that_cannot_be_carried_out_is_refused() {
    let Some(model) = common::tiny("llama") else { return };
    let refuse = |read: &str, what: &str| match Session::new(model.clone(), options(Some(read))) {
        Err(EngineError::Setting { field, .. }) => assert!(field.contains(what), "{field}"),
        other => panic!("{:?}", other.map(|_| ())),
    };
    refuse(r#"{"kind": "quest", "budget": 0}"#, "read budget");
    refuse(r#"{"kind": "quest", "budget": 10, "min_pages": 0}"#, "min_pages");
    refuse(r#"{"kind": "quest", "budget": 10, "skip_layers": [99]}"#, "skip_layers");
}
