//! What must hold of lenses and edits whatever the model.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{everything, last_logits, place, same_bits, tiny, tiny_models};
use meden_engine::{Control, LogitRows, Model, Site};
use meden_lens::attribute::{Question, Split, attribute};
use meden_lens::capture::{Selection, capture, exact_session};
use meden_lens::edit::{At, Change, Edit, Edits, Values};
use meden_lens::generate::{Generate, generate};
use meden_lens::logit_lens::{LensOptions, LogitLens};
use meden_lens::metric::Metric;
use meden_lens::place::{Place, Positions};
use meden_lens::shape::{row_shape, shapes};
use meden_lens::sweep::{Ablation, By, MeanOver, Sweep, ablate, means, patch};
use meden_lens::tuned::{TrainOptions, TunedLens, train};

fn edited(model: &Arc<Model>, ids: &[u32], edits: Vec<Edit>) -> Vec<f32> {
    let mut edits = Edits::new(edits, model.config()).unwrap();
    let mut control = Control { hooks: vec![&mut edits], ..Control::default() };
    exact_session(model).unwrap().forward(ids, LogitRows::All, &mut control).unwrap()
}

fn all_logits(model: &Arc<Model>, ids: &[u32]) -> Vec<f32> {
    exact_session(model).unwrap().forward(ids, LogitRows::All, &mut Control::default()).unwrap()
}

#[test]
fn edits_that_change_nothing_leave_every_bit() {
    for (name, model) in tiny_models() {
        let c = model.config();
        let ids = common::ids(18);
        let plain = all_logits(&model, &ids);
        let own = capture(
            &exact_session(&model).unwrap(),
            std::slice::from_ref(&ids),
            &everything(&model),
            &mut Control::default(),
        );
        let own = own.unwrap();
        for place in Place::all(c) {
            let width = place.width(c);
            // a run's own activations
            let rows: BTreeMap<u32, Vec<f32>> =
                (0..ids.len()).map(|t| (t as u32, own.row(place, t).unwrap().to_vec())).collect();
            for change in [
                Change::Scale(1.0),
                Change::Add(Values::Same(vec![0.0; width])),
                Change::Replace(Values::At(rows)),
                Change::Replace(Values::At(BTreeMap::new())),
            ] {
                let logits = edited(&model, &ids, vec![Edit::new(place, change.clone())]);
                assert!(same_bits(&plain, &logits), "{name} {place}: {change:?}");
            }
        }
    }
}

#[test]
fn ablation_by_the_mean_of_the_same_prompt_is_no_edit() {
    let Some(model) = tiny("gemma3") else { return };
    let ids = common::ids(15);
    let plain = all_logits(&model, &ids);
    let places = vec![place(Site::AttnOut, 1), place(Site::MlpOut, 2), place(Site::Z, 0)];
    let over = |over| means(&model, std::slice::from_ref(&ids), &places, over, &mut Control::default()).unwrap();
    let per_position = Ablation::Mean(over(MeanOver::Prompts));
    let edits = places.iter().map(|&p| Edit::new(p, per_position.change(p))).collect();
    assert!(same_bits(&plain, &edited(&model, &ids, edits)));
    // over tokens it is one row: the mean of a single token is the token
    let one = means(&model, &[vec![ids[0]]], &places, MeanOver::Tokens, &mut Control::default()).unwrap();
    let row = capture(
        &exact_session(&model).unwrap(),
        &[vec![ids[0]]],
        &Selection::new(places.clone(), Positions::All),
        &mut Control::default(),
    )
    .unwrap();
    for &place in &places {
        assert_eq!(one[&place], Values::Same(row.row(place, 0).unwrap().to_vec()));
    }
    let tokens = Ablation::Mean(over(MeanOver::Tokens));
    let edits = places.iter().map(|&p| Edit::new(p, tokens.change(p))).collect();
    assert!(!same_bits(&plain, &edited(&model, &ids, edits)));
}

#[test]
fn patching_the_whole_stream_restores_all_and_patching_nothing_else_restores_nothing() {
    for (name, model) in tiny_models() {
        let c = model.config();
        let (clean, corrupt) = (common::ids(14), common::ids(28)[14..].to_vec());
        let metric = Metric::LogitDiff { a: 5, b: 9 };
        let places = |site| (0..c.layers).map(|l| place(site, l)).collect();
        let sweep = |site, positions, by| Sweep { places: places(site), heads: None, positions, by };
        let control = &mut Control::default();
        let whole = sweep(Site::ResidPost, Positions::All, By::Place);
        let restored = patch(&model, (&clean, &corrupt), &whole, &metric, control).unwrap();
        for cell in &restored.cells {
            assert!((cell.effect - 1.0).abs() < 1e-4, "{name}: {cell:?}");
        }
        let itself = patch(&model, (&corrupt, &corrupt), &whole, &metric, control).unwrap();
        assert!(itself.cells.iter().all(|c| c.value == itself.base), "{name}");
        // by position, the effects of the last layer are those of its last position
        let by_position = sweep(Site::ResidPost, Positions::All, By::Position);
        let cells = patch(&model, (&clean, &corrupt), &by_position, &metric, control).unwrap().cells;
        assert_eq!(cells.len(), c.layers * corrupt.len());
        for cell in cells.iter().filter(|cell| cell.place.unwrap().layer == c.layers - 1) {
            let want = if cell.position == Some(corrupt.len() - 1) { 1.0 } else { 0.0 };
            assert!((cell.effect - want).abs() < 1e-4, "{name}: {cell:?}");
        }
    }
}

#[test]
fn heads_are_edited_one_by_one_and_kv_heads_are_not_query_heads() {
    let Some(model) = tiny("llama") else { return };
    let c = model.config();
    assert!(c.kv_heads < c.q_heads, "this test needs grouped heads");
    let ids = common::ids(12);
    let metric = Metric::Logit { a: 7 };
    let sweep = |by, heads| Sweep { places: vec![place(Site::Z, 1)], heads, positions: Positions::All, by };
    let control = &mut Control::default();
    let heads = ablate(&model, &ids, &Ablation::Zero, &sweep(By::Head, None), &metric, control).unwrap();
    assert_eq!(heads.cells.len(), c.q_heads);
    // all heads together are the place
    let all = Some((0..c.q_heads).collect());
    let together = ablate(&model, &ids, &Ablation::Zero, &sweep(By::Together, all), &metric, control).unwrap();
    let whole = ablate(&model, &ids, &Ablation::Zero, &sweep(By::Place, None), &metric, control).unwrap();
    assert_eq!(together.cells[0].value, whole.cells[0].value);
    assert!(heads.cells.iter().any(|h| h.value != whole.cells[0].value));
    let edit = |site, head| {
        let mut edit = Edit::new(place(site, 0), Change::Zero);
        edit.heads = Some(vec![head]);
        Edits::new(vec![edit], c).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(edit(Site::Z, c.q_heads - 1).is_ok());
    assert!(edit(Site::K, c.kv_heads).unwrap_err().contains("kv heads"));
    assert!(edit(Site::ResidPost, 0).unwrap_err().contains("heads"));
    let error = ablate(&model, &ids, &Ablation::Zero, &sweep(By::Place, Some(vec![0])), &metric, control).unwrap_err();
    assert!(error.to_string().contains("ignored"), "{error}");
    let bad = Edit::new(place(Site::Z, c.layers), Change::Zero);
    assert!(Edits::new(vec![bad], c).is_err());
    let narrow = Edit::new(place(Site::Z, 0), Change::Add(Values::Same(vec![1.0])));
    assert!(Edits::new(vec![narrow], c).unwrap_err().to_string().contains("1 values"));
    let nowhere = Edit::new(place(Site::Z, 0), Change::ProjectOut(vec![0.0; Site::Z.width(c)]));
    assert!(Edits::new(vec![nowhere], c).is_err());
}

#[test]
fn a_direction_that_was_projected_out_is_gone() {
    let Some(model) = tiny("qwen3") else { return };
    let c = model.config();
    let ids = common::ids(10);
    let direction: Vec<f32> = (0..c.hidden).map(|i| ((i * 7 % 13) as f32) - 6.0).collect();
    let at = place(Site::ResidPost, 1);
    let mut edits = Edits::new(vec![Edit::new(at, Change::ProjectOut(direction.clone()))], c).unwrap();
    let mut control = Control { hooks: vec![&mut edits], ..Control::default() };
    let selection = Selection::new(vec![at], Positions::All);
    let rows = capture(&exact_session(&model).unwrap(), &[ids], &selection, &mut control).unwrap();
    drop(control);
    assert_eq!(edits.edited(), 10);
    for row in rows.matrix(at).unwrap().chunks_exact(c.hidden) {
        let dot: f64 = row.iter().zip(&direction).map(|(&x, &v)| f64::from(x) * f64::from(v)).sum();
        let size: f64 = row.iter().map(|&x| f64::from(x).abs()).sum();
        assert!(dot.abs() < 1e-4 * size, "{dot} of {size}");
    }
}

#[test]
fn the_lens_of_the_last_layer_is_the_model() {
    for (name, model) in tiny_models() {
        let c = model.config();
        let ids = common::ids(20);
        let plain = all_logits(&model, &ids);
        let selection = Selection::parse(c, "resid_pre,resid_mid,resid_post,attn_out,mlp_out,final_norm", "all", "all");
        let selection = selection.unwrap();
        let rows =
            capture(&exact_session(&model).unwrap(), std::slice::from_ref(&ids), &selection, &mut Control::default());
        let rows = rows.unwrap();
        let lens = LogitLens::new(&model);
        let end = place(Site::ResidPost, c.layers - 1);
        let last = rows.matrix(end).unwrap();
        assert!(same_bits(&plain, &lens.logits(end, last, last).unwrap()), "{name}");
        let normed = Place::global(Site::FinalNorm, c);
        assert!(same_bits(&plain, &lens.logits(normed, rows.matrix(normed).unwrap(), last).unwrap()), "{name}");
        // contributions under the frozen scale add up to the logits, where no soft cap bends them
        if c.final_softcap.is_none() {
            let mut sum = vec![0f64; plain.len()];
            let mut parts = vec![place(Site::ResidPre, 0)];
            parts.extend((0..c.layers).flat_map(|l| [place(Site::AttnOut, l), place(Site::MlpOut, l)]));
            for part in parts {
                // the embedding is a contribution too: read it as one
                let site = if part.site == Site::ResidPre { place(Site::AttnOut, 0) } else { part };
                let logits = lens.logits(site, rows.matrix(part).unwrap(), last).unwrap();
                sum.iter_mut().zip(&logits).for_each(|(s, &l)| *s += f64::from(l));
            }
            let off = sum.iter().zip(&plain).map(|(s, &l)| (s - f64::from(l)).abs()).fold(0.0, f64::max);
            assert!(off < 1e-3, "{name}: {off}");
        }
        let table = lens.read(
            &exact_session(&model).unwrap(),
            &ids,
            &Selection::parse(c, "resid_post", "all", "all").unwrap(),
            &LensOptions { top_k: 3, tokens: vec![4, 11] },
            &mut Control::default(),
        );
        let table = table.unwrap();
        for row in 0..ids.len() {
            let end = &table.readings[c.layers - 1][row];
            assert_eq!((end.from_final.kl, end.from_final.js), (0.0, 0.0));
            assert_eq!(end, &table.last[row]);
            let decided = table.decision_layer[row].unwrap();
            let winner = |layer: usize| table.readings[layer][row].top[0].id;
            assert!((decided..c.layers).all(|l| winner(l) == winner(c.layers - 1)));
            assert!(decided == 0 || winner(decided - 1) != winner(c.layers - 1));
            assert!(table.readings.iter().all(|r| r[row].from_final.js <= std::f64::consts::LN_2));
            assert_eq!(end.tokens.iter().map(|t| t.id).collect::<Vec<_>>(), [4, 11]);
        }
        for wrong in ["z", "attn_norm", "logits"] {
            let selection = Selection::parse(c, wrong, "all", "last").unwrap();
            let session = exact_session(&model).unwrap();
            let read = lens.read(&session, &ids, &selection, &LensOptions::default(), &mut Control::default());
            assert!(read.unwrap_err().to_string().contains("reads"), "{wrong}");
        }
    }
}

#[test]
fn attribution_adds_up_in_every_family() {
    for (name, model) in tiny_models() {
        let ids = common::ids(16);
        for split in [Split::Layer, Split::Head, Split::Neuron] {
            for b in [Some(9), None] {
                let question = Question { a: 5, b, position: 7, split, neurons: 3 };
                let session = exact_session(&model).unwrap();
                let got = attribute(&session, &ids, &question, &mut Control::default()).unwrap();
                assert_eq!(got.position, 7);
                assert!((got.total - got.model).abs() <= 2e-4, "{name} {split:?}: {got:?}");
            }
        }
        let question = Question { a: 999_999, b: None, position: -1, split: Split::Layer, neurons: 0 };
        let session = exact_session(&model).unwrap();
        assert!(attribute(&session, &ids, &question, &mut Control::default()).is_err(), "{name}");
    }
}

#[test]
fn a_tuned_lens_begins_as_the_logit_lens_and_learns_and_keeps_its_bits_in_a_file() {
    let Some(model) = tiny("llama") else { return };
    let c = model.config();
    let selection = Selection::parse(c, "resid_pre,resid_post", "all", "all").unwrap();
    let read = |lens: &LogitLens<'_>| {
        let session = exact_session(&model).unwrap();
        lens.read(&session, &common::ids(12), &selection, &LensOptions::default(), &mut Control::default()).unwrap()
    };
    let identity = TunedLens::identity(&model);
    let (plain, same) = (read(&LogitLens::new(&model)), read(&LogitLens::tuned(&model, &identity).unwrap()));
    assert_eq!(plain.readings, same.readings);

    let sequences: Vec<Vec<u32>> =
        (0..24).map(|s| (0..40).map(|i| 3 + (i * 37 + i * i * (s + 3) + 11 * s) % 300).collect()).collect();
    let session = exact_session(&model).unwrap();
    let options = TrainOptions { held_out: 4, judged_tokens: 100, ..TrainOptions::default() };
    let (lens, fits) = train(&session, &sequences, &options, &mut Control::default()).unwrap();
    assert_eq!(fits.len(), c.layers);
    let mean = |of: fn(&meden_lens::tuned::Fit) -> f64| fits.iter().map(of).sum::<f64>() / fits.len() as f64;
    assert!(mean(|f| f.kl_tuned) < 0.95 * mean(|f| f.kl_logit_lens), "{fits:?}");

    let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tuned.safetensors");
    lens.save(&path, &[("text", "numbers".into())]).unwrap();
    let again = TunedLens::load(&path, &model).unwrap();
    assert_eq!(again.note(&model), None);
    let (a, b) = (read(&LogitLens::tuned(&model, &lens).unwrap()), read(&LogitLens::tuned(&model, &again).unwrap()));
    assert_eq!(a.readings, b.readings);
    assert_ne!(a.readings, plain.readings);

    let Some(other) = tiny("qwen3") else { return };
    if other.config().hidden == c.hidden && other.config().layers == c.layers {
        assert!(TunedLens::load(&path, &other).unwrap().note(&other).unwrap().contains("other output weights"));
    }
    let gemma = tiny("gemma3").unwrap();
    assert!(LogitLens::tuned(&gemma, &lens).is_err() || gemma.config().layers == c.layers);
    assert!(train(&session, &sequences[..1], &options, &mut Control::default()).is_err());
    let mid = Selection::parse(c, "resid_mid", "0", "last").unwrap();
    let lens = LogitLens::tuned(&model, &again).unwrap();
    let refused = lens.read(&session, &common::ids(5), &mid, &LensOptions::default(), &mut Control::default());
    assert!(refused.unwrap_err().to_string().contains("tuned lens"));
}

#[test]
fn text_written_under_an_edit_is_that_of_the_edited_model() {
    let Some(model) = tiny("llama") else { return };
    let c = model.config();
    let ids = common::ids(9);
    let edit = || Edit::new(place(Site::MlpOut, 0), Change::Zero);
    let write = |edits: Vec<Edit>| {
        let mut session = exact_session(&model).unwrap();
        if edits.is_empty() {
            return generate(&mut session, &ids, &Generate::greedy(8), &mut Control::default()).unwrap();
        }
        let mut edits = Edits::new(edits, c).unwrap();
        let mut control = Control { hooks: vec![&mut edits], ..Control::default() };
        generate(&mut session, &ids, &Generate::greedy(8), &mut control).unwrap()
    };
    let plain = write(Vec::new());
    assert_eq!(plain, write(vec![Edit::new(place(Site::MlpOut, 0), Change::Scale(1.0))]));
    let zeroed = write(vec![edit()]);
    // each token is the best one of the edited model for all before it
    let mut so_far = ids.clone();
    for &id in &zeroed {
        let logits = edited(&model, &so_far, vec![edit()]);
        let last = &logits[logits.len() - c.vocab..];
        assert!(common::margin(last) < 1e-3 || common::argmax(last) == id);
        so_far.push(id);
    }
    // only what is written: the prompt is read unedited
    let mut later = edit();
    later.at = At::From(ids.len() as u32);
    let written = write(vec![later]);
    assert_eq!(written[0], plain[0]);
    let stop = Generate { stop: vec![plain[3]], ..Generate::greedy(8) };
    let mut session = exact_session(&model).unwrap();
    let stopped = generate(&mut session, &ids, &stop, &mut Control::default()).unwrap();
    let end = plain.iter().position(|id| *id == plain[3]).unwrap();
    assert_eq!(stopped, plain[..end]);
}

#[test]
fn shapes_are_of_single_rows_and_refuse_what_is_no_number() {
    let Some(model) = tiny("llama") else { return };
    let ids = common::ids(6);
    let rows = common::grab(&model, &ids, "resid_post", "all");
    let all = shapes(&rows).unwrap();
    assert_eq!(all.len(), model.config().layers);
    for shape in &all {
        let kurtosis: f64 = (0..6).map(|r| row_shape(&rows, shape.place, r).unwrap().kurtosis).sum::<f64>() / 6.0;
        assert!((shape.mean[3] - kurtosis).abs() < 1e-9);
        assert_eq!(shape.excess_kurtosis_without.len(), 4);
        assert!((shape.excess_kurtosis_without[0] - (kurtosis - 3.0)).abs() < 1e-9);
    }
    let nan = Edit::new(place(Site::ResidPost, 2), Change::Add(Values::Same(vec![f32::NAN; model.config().hidden])));
    let mut edits = Edits::new(vec![Edit { at: At::Some(vec![4]), ..nan }], model.config()).unwrap();
    let mut control = Control { hooks: vec![&mut edits], ..Control::default() };
    let selection = Selection::parse(model.config(), "resid_post", "2", "all").unwrap();
    let rows = capture(&exact_session(&model).unwrap(), &[ids], &selection, &mut control).unwrap();
    let error = shapes(&rows).unwrap_err().to_string();
    assert!(error.contains("layer 2") && error.contains("position 4"), "{error}");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let Some(root) = common::oracle("tiny/gemma3") else { return };
    let ids = common::ids(20);
    let tables: Vec<_> = [1, 2]
        .into_iter()
        .map(|threads| {
            let model = common::load(&root, meden_engine::WeightMode::Native, threads);
            let selection = Selection::parse(model.config(), "resid_post", "all", "all").unwrap();
            let session = exact_session(&model).unwrap();
            let options = LensOptions { top_k: 4, tokens: vec![9] };
            let lens = LogitLens::new(&model);
            lens.read(&session, &ids, &selection, &options, &mut Control::default()).unwrap().readings
        })
        .collect();
    assert_eq!(tables[0], tables[1]);
}

#[test]
fn prompts_that_cannot_be_aligned_are_refused() {
    let Some(model) = tiny("llama") else { return };
    let (long, short) = (common::ids(12), common::ids(9));
    let metric = Metric::Prob { a: 3 };
    let sweep = |positions| Sweep { places: vec![place(Site::ResidPost, 1)], heads: None, positions, by: By::Place };
    let control = &mut Control::default();
    let error = patch(&model, (&long, &short), &sweep(Positions::All), &metric, control).unwrap_err();
    assert!(error.to_string().contains("12 and 9"), "{error}");
    assert!(patch(&model, (&long, &short), &sweep(Positions::Last), &metric, control).is_ok());
    let foreign = Metric::Prob { a: 1_000_000 };
    assert!(patch(&model, (&long, &long), &sweep(Positions::Last), &foreign, control).is_err());
    assert_eq!(last_logits(&model, &short).len(), model.config().vocab);
}
