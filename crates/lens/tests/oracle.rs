//! Lenses, attribution, patterns, ablation and patching against an independent implementation.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Case, Tensor, cases, log_softmax, max_diff, place};
use meden_engine::{Control, Site};
use meden_lens::attribute::{Part, Question, Split, attribute};
use meden_lens::capture::{Selection, capture, exact_session};
use meden_lens::edit::{Change, Edit, Edits};
use meden_lens::logit_lens::LogitLens;
use meden_lens::metric::Metric;
use meden_lens::patterns::Attention;
use meden_lens::place::{Place, Positions};
use meden_lens::sweep::{Ablation, By, Sweep, ablate, patch};

/// Logits agree with a reference that holds them all, or the likeliest tokens and their log-probabilities.
fn assert_logits(case: &Case, what: &str, row: usize, logits: &[f32]) {
    if let Some(want) = case.expected.get(&format!("{what}.logits")) {
        let diff = max_diff(logits, &want.f[row * logits.len()..(row + 1) * logits.len()]);
        assert!(diff <= 2e-4, "{} {what} {row}: logits differ by {diff}", case.name);
        return;
    }
    let top: &Tensor = &case.expected[&format!("{what}.top")];
    let want = &case.expected[&format!("{what}.top_logprobs")];
    let k = top.shape[1];
    let logprobs = log_softmax(logits);
    for i in row * k..(row + 1) * k {
        let (id, want) = (top.i[i] as usize, f64::from(want.f[i]));
        assert!((logprobs[id] - want).abs() <= 5e-3, "{} {what} {row}: token {id} {}", case.name, logprobs[id]);
    }
}

#[test]
fn the_logit_lens_of_every_layer() {
    for case in cases() {
        let (model, c) = (&case.model, case.model.config());
        let selection = Selection::parse(c, "resid_post", "all", "last").unwrap();
        let rows = capture(&exact_session(model).unwrap(), &[case.ids()], &selection, &mut Control::default()).unwrap();
        let lens = LogitLens::new(model);
        let end = rows.matrix(place(Site::ResidPost, c.layers - 1)).unwrap();
        for layer in 0..c.layers {
            let place = place(Site::ResidPost, layer);
            assert_logits(&case, "lens", layer, &lens.logits(place, rows.matrix(place).unwrap(), end).unwrap());
        }
    }
}

#[test]
fn direct_logit_attribution_by_layer_head_and_neuron() {
    for case in cases() {
        let c = case.model.config();
        let tokens = case.expected["dla.tokens"].ids();
        let want = &case.expected["dla"].f;
        let total = f64::from(case.expected["dla.total"].f[0]);
        let size = want.iter().fold(1f64, |m, &v| m.max(f64::from(v).abs()));
        let close = |got: f64, want: f64, at: &str| {
            assert!((got - want).abs() <= 2e-4 * size, "{} {at}: {got} against {want}", case.name);
        };
        for split in [Split::Layer, Split::Head, Split::Neuron] {
            let question = Question { a: tokens[0], b: Some(tokens[1]), position: -1, split, neurons: usize::MAX };
            let session = exact_session(&case.model).unwrap();
            let got = attribute(&session, &case.ids(), &question, &mut Control::default()).unwrap();
            close(got.total, total, "total");
            close(got.model, total, "the model's own difference");
            // parts of a sublayer add up to it
            let mut sums = vec![0f64; 2 * c.layers + 1];
            for part in &got.contributions {
                let at = match part.part {
                    Part::Embed => 0,
                    Part::AttnOut { layer } | Part::Head { layer, .. } => 1 + 2 * layer,
                    Part::MlpOut { layer } | Part::Neuron { layer, .. } => 2 + 2 * layer,
                    Part::Bias { layer } | Part::Rest { layer } => 1 + 2 * layer + usize::from(split == Split::Neuron),
                };
                if let Part::Rest { .. } = part.part {
                    assert!(part.value.abs() <= 1e-4 * size, "{}: {:?}", case.name, part);
                }
                sums[at] += part.value;
            }
            assert_eq!(want.len(), sums.len());
            for (i, (got, want)) in sums.iter().zip(want).enumerate() {
                close(*got, f64::from(*want), &format!("component {i} split by {split:?}"));
            }
        }
    }
}

#[test]
fn attention_patterns_of_every_head() {
    let mut checked = 0;
    for case in cases() {
        let c = case.model.config();
        let layers: Vec<usize> = (0..c.layers).collect();
        let session = exact_session(&case.model).unwrap();
        let attention = Attention::read(&session, &case.ids(), &layers, &mut Control::default()).unwrap();
        let tokens = case.ids().len();
        for &layer in &layers {
            for head in 0..c.q_heads {
                let got = attention.pattern(layer, head).unwrap();
                for (query, row) in got.chunks_exact(tokens).enumerate() {
                    let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
                    assert!((sum - 1.0).abs() < 1e-5);
                    assert!(row[query + 1..].iter().all(|&p| p == 0.0), "a query reads ahead");
                }
                let Some(want) = case.expected.get(&format!("{layer}.pattern")) else { continue };
                let want = &want.f[head * tokens * tokens..(head + 1) * tokens * tokens];
                let diff = max_diff(&got, want);
                assert!(diff <= 2e-4, "{} layer {layer} head {head}: {diff}", case.name);
                checked += 1;
            }
        }
    }
    assert!(checked > 0 || common::oracle("lens").is_none(), "no reference pattern");
}

#[test]
fn zero_ablation_and_patching_of_every_layer() {
    for case in cases() {
        let (model, c) = (&case.model, case.model.config());
        let (ids, other) = (case.ids(), case.expected["ids_other"].ids());
        let session = exact_session(model).unwrap();
        let taken = {
            let selection = Selection::parse(c, "resid_post", "all", "last").unwrap();
            capture(&session, std::slice::from_ref(&other), &selection, &mut Control::default()).unwrap()
        };
        let run = |edit: Edit| {
            let mut edits = Edits::new(vec![edit], c).unwrap();
            let mut control = Control { hooks: vec![&mut edits], ..Control::default() };
            exact_session(model).unwrap().prefill(&ids, &mut control).unwrap()
        };
        for layer in 0..c.layers {
            let zeroed = run(Edit::new(place(Site::AttnOut, layer), Change::Zero));
            assert_logits(&case, "ablate", layer, &zeroed);
            let at = place(Site::ResidPost, layer);
            let row = taken.row(at, 0).unwrap().to_vec();
            let mut edit = Edit::new(at, Change::Replace(meden_lens::edit::Values::Same(row)));
            edit.at = meden_lens::edit::At::Some(vec![ids.len() as u32 - 1]);
            assert_logits(&case, "patch", layer, &run(edit));
        }
        // the sweeps give the metric of the same runs
        let tokens = case.expected["dla.tokens"].ids();
        let metric = Metric::LogitDiff { a: tokens[0], b: tokens[1] };
        let places = |site: Site| (0..c.layers).map(|l| Place::new(site, l)).collect();
        let sweep = |site: Site, positions| Sweep { places: places(site), heads: None, positions, by: By::Place };
        let control = &mut Control::default();
        let ablated =
            ablate(model, &ids, &Ablation::Zero, &sweep(Site::AttnOut, Positions::All), &metric, control).unwrap();
        let patched = patch(model, (&other, &ids), &sweep(Site::ResidPost, Positions::Last), &metric, control).unwrap();
        let want_of = |what: &str, layer: usize| -> Option<f64> {
            let logits = case.expected.get(&format!("{what}.logits"))?;
            let row = &logits.f[layer * c.vocab..(layer + 1) * c.vocab];
            Some(f64::from(row[tokens[0] as usize]) - f64::from(row[tokens[1] as usize]))
        };
        for (what, swept) in [("ablate", ablated), ("patch", patched)] {
            assert_eq!(swept.cells.len(), c.layers);
            for (layer, cell) in swept.cells.iter().enumerate() {
                assert_eq!(cell.place.unwrap().layer, layer);
                if let Some(want) = want_of(what, layer) {
                    assert!((cell.value - want).abs() <= 4e-4, "{} {what} {layer}: {}", case.name, cell.value);
                }
            }
        }
    }
}
