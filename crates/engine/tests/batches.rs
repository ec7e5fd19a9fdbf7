//! Several sessions in one pass give what each gives alone.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{ids, kept, policy, presses};
use meden_engine::hook::{Hook, Site, SiteVisit};
use meden_engine::{BatchItem, Control, KvTypes, LogitRows, Model, Session, SessionOptions, forward_batch};

/// A dense session, a pressed one with small chunks, and one in q8.
fn sessions(model: &Arc<Model>) -> Vec<Session> {
    let open = |options: SessionOptions| Session::new(model.clone(), options).unwrap();
    let pressed = policy(&presses()[0], "20", "prefill_chunk:8,decode_every:4");
    vec![
        open(SessionOptions { kv_type: KvTypes::F32, ..SessionOptions::default() }),
        open(SessionOptions { policy: Some(pressed), prefill_chunk: 7, ..SessionOptions::default() }),
        open(SessionOptions { kv_type: KvTypes::Q8, ..SessionOptions::default() }),
    ]
}

fn batch(sessions: &mut [Session], texts: &[Vec<u32>], rows: LogitRows) -> Vec<Vec<(usize, Vec<f32>)>> {
    let mut out = vec![Vec::new(); sessions.len()];
    let mut items: Vec<BatchItem> =
        sessions.iter_mut().zip(texts).map(|(session, ids)| BatchItem { session, ids, rows }).collect();
    forward_batch(&mut items, &mut Control::default(), &mut |item, token, row| {
        out[item].push((token, row.to_vec()));
        Ok(())
    })
    .unwrap();
    out
}

fn bits(rows: &[f32]) -> Vec<u32> {
    rows.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_session_gives_the_same_bits_alone_and_in_company() {
    for name in ["llama", "gemma3", "mistral-sliding", "phi3"] {
        let Some(model) = common::tiny(name) else { return };
        if model.config().attention.iter().all(|a| a.window.is_some()) {
            continue; // no press acts there
        }
        let (mut together, mut alone) = (sessions(&model), sessions(&model));
        // Prefills of different lengths, then tokens one by one, then a mixture.
        let steps = [vec![33, 50, 1], vec![1, 1, 1], vec![1, 1, 1], vec![1, 17, 1], vec![1, 1, 9]];
        let text = ids(120);
        for step in steps {
            let texts: Vec<Vec<u32>> = together
                .iter()
                .zip(&step)
                .map(|(session, &n)| text[session.seen()..session.seen() + n].to_vec())
                .collect();
            let rows = batch(&mut together, &texts, LogitRows::All);
            for ((session, ids), rows) in alone.iter_mut().zip(&texts).zip(&rows) {
                let expected = session.forward(ids, LogitRows::All, &mut Control::default()).unwrap();
                assert_eq!(rows.iter().map(|r| r.0).collect::<Vec<_>>(), (0..ids.len()).collect::<Vec<_>>());
                let got: Vec<f32> = rows.iter().flat_map(|r| r.1.clone()).collect();
                assert_eq!(bits(&got), bits(&expected), "{name}, {step:?}");
            }
        }
        for (a, b) in together.iter().zip(&alone) {
            assert_eq!((a.history(), kept(a)), (b.history(), kept(b)), "{name}");
        }
        assert!(together[1].stats().evicted > 0, "the pressed session was pressed");
    }
}

#[test]
fn only_the_wanted_rows_come_and_each_with_its_number() {
    let Some(model) = common::tiny("llama") else { return };
    let mut both = sessions(&model);
    let texts = [ids(12), ids(5), ids(1)];
    let rows = batch(&mut both, &texts, LogitRows::Last);
    let numbers: Vec<Vec<usize>> = rows.iter().map(|r| r.iter().map(|r| r.0).collect()).collect();
    assert_eq!(numbers, [vec![11], vec![4], vec![0]]);
    let none = batch(&mut both, &texts, LogitRows::None);
    assert!(none.iter().all(Vec::is_empty));
}

struct Nobody;

impl Hook for Nobody {
    fn name(&self) -> &str {
        "nobody"
    }
    fn wants(&self, site: Site, _: usize) -> bool {
        site == Site::ResidPost
    }
    fn visit(&mut self, _: SiteVisit<'_>) -> Result<(), meden_engine::EngineError> {
        Ok(())
    }
}

#[test]
fn what_a_batch_cannot_do_is_refused_and_changes_nothing() {
    let (Some(model), Some(other)) = (common::tiny("llama"), common::tiny("qwen2")) else { return };
    let mut a = common::open(&model, None);
    let mut b = common::open(&other, None);
    let mut twin = common::open(&model, None);
    let text = ids(3);
    fn item<'a>(session: &'a mut Session, ids: &'a [u32]) -> BatchItem<'a> {
        BatchItem { session, ids, rows: LogitRows::Last }
    }
    let refused = |items: &mut [BatchItem], control: &mut Control| {
        forward_batch(items, control, &mut |_, _, _| Ok(())).unwrap_err().to_string()
    };
    let error = refused(&mut [item(&mut a, &text), item(&mut b, &text)], &mut Control::default());
    assert!(error.contains("one loaded model"), "{error}");
    let mut hook = Nobody;
    let mut control = Control { hooks: vec![&mut hook], ..Control::default() };
    let error = refused(&mut [item(&mut a, &text), item(&mut twin, &text)], &mut control);
    assert!(error.contains("the number of an item for each hook"), "{error}");
    let mut hook = Nobody;
    let mut control = Control { hooks: vec![&mut hook], items: vec![2], ..Control::default() };
    let error = refused(&mut [item(&mut a, &text), item(&mut twin, &text)], &mut control);
    assert!(error.contains("items of the batch"), "{error}");
    let cancelled = std::sync::atomic::AtomicBool::new(true);
    let mut control = Control { cancel: Some(&cancelled), ..Control::default() };
    refused(&mut [item(&mut a, &text), item(&mut twin, &text)], &mut control);
    assert_eq!((a.seen(), b.seen(), twin.seen()), (0, 0, 0));
    assert!(forward_batch(&mut [], &mut Control::default(), &mut |_, _, _| Ok(())).is_ok());
}

/// Adds a constant to the rows of two sites and notes which positions it was shown.
struct Push {
    by: f32,
    seen: Vec<(Site, Vec<u32>)>,
}

impl Hook for Push {
    fn name(&self) -> &str {
        "push"
    }
    fn wants(&self, site: Site, layer: usize) -> bool {
        site == Site::ResidMid && layer == 1 || site == Site::Logits
    }
    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), meden_engine::EngineError> {
        self.seen.push((visit.site, visit.positions.to_vec()));
        // by column: how many rows come in one visit depends on the company
        let (by, width) = (self.by, visit.width);
        visit.rows.iter_mut().enumerate().for_each(|(i, v)| *v += by * (i % width % 7) as f32);
        Ok(())
    }
}

#[test]
fn hooks_of_a_batch_touch_their_own_session_alone() {
    for (name, rows) in [("llama", LogitRows::All), ("gemma3", LogitRows::Last)] {
        let Some(model) = common::tiny(name) else { return };
        let (mut together, mut alone) = (sessions(&model), sessions(&model));
        // the first session is hooked twice, the second not at all; more rows than logits are computed in one go
        let texts = [ids(90), ids(13), ids(37)];
        let pushes = [(0, 0.25f32), (2, -0.5), (0, 0.125)];
        let mut hooks = pushes.map(|(_, by)| Push { by, seen: Vec::new() });
        let mut out = vec![Vec::new(); 3];
        {
            let mut items: Vec<BatchItem> =
                together.iter_mut().zip(&texts).map(|(session, ids)| BatchItem { session, ids, rows }).collect();
            let mut control = Control { items: pushes.map(|(item, _)| item).to_vec(), ..Control::default() };
            control.hooks.extend(hooks.iter_mut().map(|h| h as &mut dyn Hook));
            let mut keep = |item: usize, _: usize, row: &[f32]| {
                out[item].extend_from_slice(row);
                Ok(())
            };
            forward_batch(&mut items, &mut control, &mut keep).unwrap();
        }
        for (item, session) in alone.iter_mut().enumerate() {
            let mut own: Vec<(usize, Push)> = (0..3)
                .filter(|h| pushes[*h].0 == item)
                .map(|h| (h, Push { by: pushes[h].1, seen: Vec::new() }))
                .collect();
            let mut control = Control::default();
            control.hooks.extend(own.iter_mut().map(|(_, h)| h as &mut dyn Hook));
            let expected = session.forward(&texts[item], rows, &mut control).unwrap();
            drop(control);
            assert_eq!(bits(&out[item]), bits(&expected), "{name}, session {item}");
            for (h, hook) in own {
                let all = |seen: &[(Site, Vec<u32>)], site: Site| -> Vec<u32> {
                    seen.iter().filter(|s| s.0 == site).flat_map(|s| s.1.clone()).collect()
                };
                for site in [Site::ResidMid, Site::Logits] {
                    assert_eq!(all(&hooks[h].seen, site), all(&hook.seen, site), "{name}, hook {h} at {site}");
                }
            }
        }
    }
}
