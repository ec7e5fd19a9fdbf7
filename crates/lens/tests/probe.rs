//! Probes against reference values, on disk, and inside a running model.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meden_engine::{Control, LoadOptions, Model, Session, SessionOptions, Site};
use meden_files::ModelFiles;
use meden_lens::probe::evaluate::{Judging, Scored};
use meden_lens::probe::file::{About, MadeOn, Position};
use meden_lens::probe::{
    Calibration, Design, Examples, L1Logistic, Method, ProbeError, ProbeFile, ProbeHook, Reads, Rows,
};
use meden_stats::Rng;
use serde_json::Value;

fn shared(part: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/oracle")).join(part);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no reference values ({part}) beside this checkout");
    None
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn exact_logistic_regression_agrees_with_the_reference() {
    let Some(path) = shared("training/logistic.json") else { return };
    let cases: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let rows: Vec<Vec<f64>> = serde_json::from_value(cases["X"].clone()).unwrap();
    let columns = (0..rows[0].len()).flat_map(|j| rows.iter().map(move |r| r[j])).collect();
    let design = Design::from_columns(columns, rows.len()).unwrap();
    let labels: Vec<bool> = numbers(&cases["y"]).iter().map(|&y| y > 0.5).collect();
    let mut checked = 0;
    for (key, penalise_bias) in [("bias_free", false), ("bias_penalised", true)] {
        for case in cases[key].as_array().unwrap() {
            let lambda = case["lambda"].as_f64().unwrap();
            let fit =
                L1Logistic { lambda, penalise_bias, ..L1Logistic::default() }.fit(&design, &labels, None).unwrap();
            // the reference's own minimum is good to about 1e-9, so ours may lie below it
            let objective = case["objective"].as_f64().unwrap();
            assert!((fit.objective - objective).abs() < 1e-8, "{key} {lambda}: {} {objective}", fit.objective);
            for (ours, theirs) in fit
                .weight
                .iter()
                .chain([&fit.bias])
                .zip(numbers(&case["w"]).iter().chain([&case["b"].as_f64().unwrap()]))
            {
                assert!((ours - theirs).abs() < 1e-4, "{key} {lambda}: {ours} {theirs}");
            }
            checked += 1;
        }
    }
    assert!(checked >= 2);
}

fn examples(width: usize) -> Examples {
    let mut rng = Rng::new(1, 0);
    let labels: Vec<bool> = (0..120).map(|i| i % 2 == 0).collect();
    let values = labels
        .iter()
        .flat_map(|&l| {
            let mut row: Vec<f32> = (0..width).map(|_| rng.normal() as f32).collect();
            row[0] += if l { 1.0 } else { -1.0 };
            row
        })
        .collect();
    Examples::new(Rows::new(values, width).unwrap(), labels, (0..120).map(|i| i / 4).collect()).unwrap()
}

fn made(width: usize, model: MadeOn, layer: usize) -> ProbeFile {
    let e = examples(width);
    let method = Method::logistic(1e-3);
    let probe = method.train(&e, None).unwrap();
    let place = Reads { site: "resid_post".into(), layer, position: Position::Last };
    let mut about = About::new(model, place, method, ["no".into(), "yes".into()]);
    let scores = probe.scores(&e.rows).unwrap();
    about.calibration = Some(Calibration::fit(&e.labels, &scores).unwrap());
    about.evaluation = Some(Scored::new(&e, scores).evaluate(&Judging::default()).unwrap());
    ProbeFile { probe, about }
}

fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn a_saved_probe_reads_back_the_same_bit_by_bit() {
    let file = made(8, MadeOn { name: "m".into(), fingerprint: "ab".into() }, 3);
    let path = scratch("probe-file").join("p.safetensors");
    file.save(&path).unwrap();
    let read = ProbeFile::load(&path).unwrap();
    assert_eq!(read.probe, file.probe);
    let (ours, theirs) = (file.about.calibration.unwrap(), read.about.calibration.unwrap());
    assert_eq!((ours.slope.to_bits(), ours.offset.to_bits()), (theirs.slope.to_bits(), theirs.offset.to_bits()));
    let area = |f: &ProbeFile| f.about.evaluation.as_ref().unwrap().auroc;
    assert!((area(&read).low - area(&file).low).abs() < 1e-12 && read.about.place == file.about.place);
    assert_eq!(read.about.method, file.about.method);
    let row = examples(8).rows.row(5).to_vec();
    assert_eq!(read.probability(&row).unwrap().to_bits(), file.probability(&row).unwrap().to_bits());
}

#[test]
fn files_that_are_no_probes_are_refused_with_a_reason() {
    let folder = scratch("probe-bad");
    let path = folder.join("p.safetensors");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        ProbeFile::load(&path).unwrap_err().to_string()
    };
    assert!(refused(b"nonsense").contains("p.safetensors"));
    made(8, MadeOn::default(), 0).save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let head = String::from_utf8(good[8..8 + length].to_vec()).unwrap();
    let with_head = |head: &str| [&(head.len() as u64).to_le_bytes(), head.as_bytes(), &good[8 + length..]].concat();
    assert!(refused(&with_head(&head.replace("meden.probe", "other.probe"))).contains("it is no probe"));
    assert!(refused(&with_head(&head.replace("\\\"version\\\":1", "\\\"version\\\":9"))).contains("layout 9"));
    assert!(refused(&with_head(&head.replace("resid_post", "nowhere"))).contains("nowhere"));
    assert!(refused(&with_head(&head.replace("\\\"place\\\"", "\\\"palce\\\""))).contains("place"));
    let mut infinite = good.clone();
    infinite[8 + length..12 + length].copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert!(refused(&infinite).contains("finite"));
    assert!(!refused(&good[..good.len() - 3]).is_empty());
}

fn tiny() -> Option<Arc<Model>> {
    let files = ModelFiles::open(&shared("tiny/llama")?).unwrap();
    Some(Model::load(&files, &LoadOptions::default()).unwrap())
}

#[test]
fn a_probe_in_a_running_model_gives_a_value_a_token_and_changes_nothing() {
    let Some(model) = tiny() else { return };
    let layer = model.config().layers - 1;
    let file = made(model.config().hidden, MadeOn::of("tiny", &model), layer);
    file.check("tiny", &model).unwrap();
    let ids: Vec<u32> = (1..12).collect();
    let options = || SessionOptions { prefill_chunk: 4, ..SessionOptions::default() };
    let mut plain = Session::new(model.clone(), options()).unwrap();
    let mut watched = Session::new(model.clone(), options()).unwrap();
    let expected = plain.prefill(&ids, &mut Control::default()).unwrap();
    let mut hook = ProbeHook::new(&file.probe, Site::ResidPost, layer);
    let logits = watched.prefill(&ids, &mut Control { hooks: vec![&mut hook], ..Control::default() }).unwrap();
    assert_eq!(logits, expected, "bit by bit");
    let positions: Vec<u32> = hook.values().iter().map(|v| v.0).collect();
    assert_eq!(positions, (0..11).collect::<Vec<u32>>());
    let expected = plain.decode(7, &mut Control::default()).unwrap().to_vec();
    let logits = watched.decode(7, &mut Control { hooks: vec![&mut hook], ..Control::default() }).unwrap().to_vec();
    assert_eq!(logits, expected);
    assert_eq!(hook.values().len(), 12);
    assert!(hook.last().unwrap().is_finite());
}

#[test]
fn a_probe_of_another_model_is_refused() {
    let Some(model) = tiny() else { return };
    let other = made(8, MadeOn { name: "other".into(), fingerprint: "00".repeat(32) }, 0);
    let error = other.check("tiny", &model).unwrap_err();
    assert!(
        matches!(&error, ProbeError::OtherModel { made_for, .. } if made_for.starts_with("other (000000000000)")),
        "{error}"
    );
    let unknown = made(8, MadeOn::default(), 0);
    assert!(unknown.check("tiny", &model).is_err());
    // a hook of the wrong width says where
    let mut hook = ProbeHook::new(&unknown.probe, Site::ResidPost, 0);
    let mut session = Session::new(model, SessionOptions::default()).unwrap();
    let error = session.prefill(&[1, 2], &mut Control { hooks: vec![&mut hook], ..Control::default() }).unwrap_err();
    assert!(error.to_string().contains("resid_post of layer 0"), "{error}");
}
