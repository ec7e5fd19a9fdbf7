//! Capture against an independent implementation, and that looking changes nothing.
#![allow(clippy::unwrap_used)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{cases, chunked, everything, grab, last_logits, max_diff, place, same_bits, tiny, tiny_models};
use meden_engine::{Control, EngineError, Hook, LogitRows, Site, SiteVisit};
use meden_lens::capture::{Selection, capture, exact_session};
use meden_lens::place::{Place, Positions};

#[test]
fn every_site_has_the_reference_values() {
    for case in cases() {
        let places: Vec<Place> = Place::all(case.model.config())
            .into_iter()
            .filter(|p| !p.site.is_global() && case.expected.contains_key(&p.to_string()))
            .collect();
        assert!(places.len() >= 7 * case.model.config().layers, "{}: sites of the reference", case.name);
        // the reference has the whole prompt, or its last token
        let rows = case.expected[&places[0].to_string()].shape[0];
        let positions = if rows == case.ids().len() { Positions::All } else { Positions::Last };
        let session = exact_session(&case.model).unwrap();
        let selection = Selection::new(places.clone(), positions);
        let got = capture(&session, &[case.ids()], &selection, &mut Control::default()).unwrap();
        assert_eq!(got.rows().len(), rows);
        for place in places {
            let want = &case.expected[&place.to_string()].f;
            let diff = max_diff(got.matrix(place).unwrap(), want);
            assert!(diff <= case.tolerance(want), "{} {place}: differ by {diff}", case.name);
        }
    }
}

#[test]
fn contributions_add_up_to_the_stream_in_every_family() {
    for (name, model) in tiny_models() {
        let ids = common::ids(30);
        let c = model.config();
        let got = grab(&model, &ids, "resid_pre,attn_out,resid_mid,mlp_out,resid_post", "all");
        let mut sum: Vec<f64> = got.matrix(place(Site::ResidPre, 0)).unwrap().iter().map(|&v| f64::from(v)).collect();
        for layer in 0..c.layers {
            let of = |site| got.matrix(place(site, layer)).unwrap();
            let added: Vec<f32> = of(Site::ResidPre).iter().zip(of(Site::AttnOut)).map(|(a, b)| a + b).collect();
            assert!(same_bits(&added, of(Site::ResidMid)), "{name}, layer {layer}: attention");
            let added: Vec<f32> = of(Site::ResidMid).iter().zip(of(Site::MlpOut)).map(|(a, b)| a + b).collect();
            assert!(same_bits(&added, of(Site::ResidPost)), "{name}, layer {layer}: feed-forward");
            if layer > 0 {
                let before = got.matrix(place(Site::ResidPost, layer - 1)).unwrap();
                assert!(same_bits(before, of(Site::ResidPre)), "{name}, layer {layer}: entry");
            }
            for site in [Site::AttnOut, Site::MlpOut] {
                sum.iter_mut().zip(of(site)).for_each(|(s, &v)| *s += f64::from(v));
            }
        }
        let last = got.matrix(place(Site::ResidPost, c.layers - 1)).unwrap();
        let size = last.iter().fold(0f64, |m, &v| m.max(f64::from(v).abs()));
        let off = sum.iter().zip(last).map(|(s, &v)| (s - f64::from(v)).abs()).fold(0.0, f64::max);
        assert!(off <= 1e-5 * (2.0 * c.layers as f64).sqrt() * size, "{name}: {off} of {size}");
    }
}

/// Wants everything and changes nothing.
struct Everywhere {
    writes: bool,
}

impl Hook for Everywhere {
    fn name(&self) -> &str {
        "everywhere"
    }
    fn wants(&self, _: Site, _: usize) -> bool {
        true
    }
    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        if self.writes {
            visit.rows.iter_mut().for_each(|v| *v = f32::from_bits(v.to_bits()));
        }
        Ok(())
    }
}

#[test]
fn looking_changes_no_logit_by_one_bit_and_leaves_the_session_as_it_was() {
    for (name, model) in tiny_models() {
        let ids = common::ids(25);
        let plain = last_logits(&model, &ids);
        let mut undisturbed = exact_session(&model).unwrap();
        undisturbed.forward(&ids[..10], LogitRows::None, &mut Control::default()).unwrap();
        let continued = undisturbed.forward(&ids[10..], LogitRows::Last, &mut Control::default()).unwrap();
        for writes in [false, true] {
            let mut hook = Everywhere { writes };
            let mut control = Control { hooks: vec![&mut hook], ..Control::default() };
            let seen = exact_session(&model).unwrap().forward(&ids, LogitRows::Last, &mut control).unwrap();
            assert!(same_bits(&plain, &seen), "{name}");
        }
        // in the middle of a conversation
        let mut session = exact_session(&model).unwrap();
        session.forward(&ids[..10], LogitRows::None, &mut Control::default()).unwrap();
        let selection = Selection::parse(model.config(), "resid_post", "0", "all").unwrap();
        let (other, rest) = (common::ids(9), &ids[10..]);
        capture(&session, &[other, rest.to_vec()], &selection, &mut Control::default()).unwrap();
        assert_eq!(session.seen(), 10);
        let after = session.forward(rest, LogitRows::Last, &mut Control::default()).unwrap();
        assert!(same_bits(&continued, &after), "{name}");
    }
}

#[test]
fn quantised_kernels_are_looked_at_without_a_changed_bit() {
    let model = common::smollm2();
    let ids = common::ids(12);
    let plain = last_logits(&model, &ids);
    let mut hook = Everywhere { writes: true };
    let mut control = Control { hooks: vec![&mut hook], ..Control::default() };
    let seen = exact_session(&model).unwrap().forward(&ids, LogitRows::Last, &mut control).unwrap();
    assert!(same_bits(&plain, &seen));
}

/// Attention sums the keys of a piece and those before it in another order than in one piece; everything else keeps its
/// bits.
fn assert_near(a: &[f32], b: &[f32], at: &str) {
    let size = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    let diff = max_diff(a, b);
    assert!(diff <= 2e-5 * size, "{at}: {diff} of {size}");
}

#[test]
fn rows_are_the_same_however_the_text_is_read() {
    for (name, model) in tiny_models() {
        let ids = common::ids(33);
        let selection = everything(&model);
        let whole =
            capture(&exact_session(&model).unwrap(), std::slice::from_ref(&ids), &selection, &mut Control::default());
        let whole = whole.unwrap();
        for chunk in [7, 1] {
            let session = chunked(&model, chunk);
            let pieces = capture(&session, std::slice::from_ref(&ids), &selection, &mut Control::default()).unwrap();
            for &place in whole.places() {
                let at = format!("{name}, pieces of {chunk}: {place}");
                assert_near(pieces.matrix(place).unwrap(), whole.matrix(place).unwrap(), &at);
            }
        }
        // behind a prefix, and token by token
        let mut session = exact_session(&model).unwrap();
        session.forward(&ids[..20], LogitRows::None, &mut Control::default()).unwrap();
        let behind = capture(&session, &[ids[20..].to_vec()], &selection, &mut Control::default()).unwrap();
        let mut control = Control::default();
        for (t, &id) in ids[20..].iter().enumerate() {
            let one = capture(&session, &[vec![id]], &selection, &mut control).unwrap();
            session.decode(id, &mut control).unwrap();
            for &place in whole.places() {
                let want = whole.row(place, 20 + t).unwrap();
                assert_near(behind.row(place, t).unwrap(), want, &format!("{name}, behind a prefix: {place}"));
                assert_near(one.row(place, 0).unwrap(), want, &format!("{name}, token {t}: {place}"));
            }
        }
    }
}

#[test]
fn stopping_at_the_last_wanted_layer_gives_the_rows_of_a_full_run() {
    let Some(model) = tiny("gemma3") else { return };
    let ids = common::ids(40);
    let selection = Selection::parse(model.config(), "resid_post,logits", "all", "all").unwrap();
    let all = capture(&chunked(&model, 16), std::slice::from_ref(&ids), &selection, &mut Control::default()).unwrap();
    for layer in 0..model.config().layers {
        let selection = Selection::parse(model.config(), "resid_post", &layer.to_string(), "all").unwrap();
        let got =
            capture(&chunked(&model, 16), std::slice::from_ref(&ids), &selection, &mut Control::default()).unwrap();
        let place = place(Site::ResidPost, layer);
        assert!(same_bits(got.matrix(place).unwrap(), all.matrix(place).unwrap()), "layer {layer}");
    }
}

#[test]
fn positions_choose_rows_and_wrong_ones_are_told() {
    let Some(model) = tiny("llama") else { return };
    let ids = common::ids(20);
    let all = grab(&model, &ids, "z,final_norm,logits", "all");
    for (positions, want) in [("last", vec![19]), ("0,4-6,-1", vec![0, 4, 5, 6, 19]), ("7,7,3", vec![3, 7])] {
        let some = grab(&model, &ids, "z,final_norm,logits", positions);
        assert_eq!(some.rows().iter().map(|r| r.position).collect::<Vec<_>>(), want);
        assert!(some.rows().iter().all(|r| r.id == ids[r.position]));
        for &place in all.places() {
            for (row, &position) in want.iter().enumerate() {
                assert!(same_bits(some.row(place, row).unwrap(), all.row(place, position).unwrap()), "{place}");
            }
        }
    }
    let session = exact_session(&model).unwrap();
    for (positions, says) in [("20", "20 tokens"), ("-21", "20 tokens"), ("3-30", "20 tokens")] {
        let selection = Selection::parse(model.config(), "z", "all", positions).unwrap();
        let error = capture(&session, std::slice::from_ref(&ids), &selection, &mut Control::default()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(capture(&session, &[vec![]], &everything(&model), &mut Control::default()).is_err());
    assert!(capture(&session, &[vec![1, 999_999]], &everything(&model), &mut Control::default()).is_err());
}

#[test]
fn a_hook_that_panics_leaves_the_session_usable() {
    struct Panics;
    impl Hook for Panics {
        fn name(&self) -> &str {
            "panics"
        }
        fn wants(&self, site: Site, layer: usize) -> bool {
            site == Site::MlpOut && layer == 1
        }
        fn visit(&mut self, _: SiteVisit<'_>) -> Result<(), EngineError> {
            panic!("on purpose")
        }
    }
    let Some(model) = tiny("llama") else { return };
    let ids = common::ids(20);
    let mut plain = exact_session(&model).unwrap();
    plain.forward(&ids[..8], LogitRows::None, &mut Control::default()).unwrap();
    let plain = plain.forward(&ids[8..], LogitRows::Last, &mut Control::default()).unwrap();
    let mut session = exact_session(&model).unwrap();
    session.forward(&ids[..8], LogitRows::None, &mut Control::default()).unwrap();
    let mut hook = Panics;
    let read = catch_unwind(AssertUnwindSafe(|| {
        let mut control = Control { hooks: vec![&mut hook], ..Control::default() };
        session.forward(&ids[8..], LogitRows::None, &mut control)
    }));
    assert!(read.is_err());
    assert_eq!(session.seen(), 8);
    let after = session.forward(&ids[8..], LogitRows::Last, &mut Control::default()).unwrap();
    assert!(same_bits(&plain, &after));
}

#[test]
fn sessions_with_different_hooks_do_not_see_each_other() {
    struct Scale(f32);
    impl Hook for Scale {
        fn name(&self) -> &str {
            "scale"
        }
        fn wants(&self, site: Site, layer: usize) -> bool {
            site == Site::MlpOut && layer == 0
        }
        fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
            visit.rows.iter_mut().for_each(|v| *v *= self.0);
            Ok(())
        }
    }
    let Some(model) = tiny("llama") else { return };
    let ids = common::ids(16);
    let run = |session: &mut meden_engine::Session, ids: &[u32], scale: f32| {
        let mut hook = Scale(scale);
        let mut control = Control { hooks: vec![&mut hook], ..Control::default() };
        session.forward(ids, LogitRows::Last, &mut control).unwrap()
    };
    let alone = [0.0, 2.0].map(|scale| {
        let mut session = exact_session(&model).unwrap();
        ids.chunks(4).map(|part| run(&mut session, part, scale)).last().unwrap()
    });
    let (mut a, mut b) = (exact_session(&model).unwrap(), exact_session(&model).unwrap());
    let mut last = Vec::new();
    for part in ids.chunks(4) {
        last = vec![run(&mut a, part, 0.0), run(&mut b, part, 2.0)];
    }
    assert!(same_bits(&alone[0], &last[0]) && same_bits(&alone[1], &last[1]));
    assert!(!same_bits(&alone[0], &alone[1]));
}

#[test]
fn nothing_to_look_at_is_an_error() {
    let Some(model) = tiny("llama") else { return };
    let session = exact_session(&model).unwrap();
    let error = session.look(&[1, 2], LogitRows::None, &mut Control::default()).unwrap_err();
    assert!(matches!(error, EngineError::Hook { .. }), "{error}");
    let empty = Selection::new(Vec::new(), Positions::All);
    let error = capture(&session, &[vec![1, 2]], &empty, &mut Control::default()).unwrap_err();
    assert!(error.to_string().contains("wants no site"), "{error}");
}
