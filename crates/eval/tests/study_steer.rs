//! The study of steering on rows in which the answer is planted.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use meden_engine::{LoadOptions, Model, Site};
use meden_eval::study::conflict::prompt::Demos;
use meden_eval::study::steer::collect::{Collected, RowOf};
use meden_eval::study::steer::fit::{Code, Dictionaries, Method, Options, fit, stability};
use meden_files::ModelFiles;
use meden_lens::place::Place;
use meden_lens::sae::{Activation, Normalize, Origin, Parts};
use meden_lens::steer::{Rule, Steering, Toward};
use meden_stats::Rng;

const D: usize = 24;
const LAYER: usize = 1;
/// Latent that makes the model copy from the text, and the one that makes it look into memory.
const COPY: usize = 5;
const LOOK: usize = 11;

fn model() -> Option<std::sync::Arc<Model>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle/tiny/llama");
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    Some(Model::load(&ModelFiles::open(&path).unwrap(), &LoadOptions::default()).unwrap())
}

/// Orthonormal directions: those of Householder's reflection.
fn directions() -> Vec<f32> {
    let mut rng = Rng::new(4, 0);
    let v: Vec<f64> = (0..D).map(|_| rng.normal()).collect();
    let square: f64 = v.iter().map(|x| x * x).sum();
    let one = |i: usize, j: usize| f64::from(u8::from(i == j)) - 2.0 * v[i] * v[j] / square;
    (0..D * D).map(|at| one(at / D, at % D) as f32).collect()
}

/// Many latents at random; the two planted ones decide, each firing on its own side.
fn planted(n: usize, seed: u64) -> Collected {
    let w = directions();
    let mut rng = Rng::new(seed, 0);
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for number in 0..n {
        let context = rng.uniform() < 0.6;
        let mut z = [0f32; D];
        for (latent, z) in z.iter_mut().enumerate() {
            if latent != COPY && latent != LOOK && rng.uniform() < 0.5 {
                *z = rng.uniform() as f32;
            }
        }
        z[if context { COPY } else { LOOK }] = 1.0 + 0.2 * rng.uniform() as f32;
        let h = (0..D).map(|c| (0..D).map(|l| z[l] * w[l * D + c]).sum::<f32>());
        values.extend(h);
        let demos = Demos::SHOWN[number % 3];
        rows.push(RowOf {
            key: number.to_string(),
            fold: number as u32 % 5,
            cluster: number as u32 / 4,
            demos,
            context,
        });
    }
    Collected { places: vec![Place::new(Site::ResidPost, LAYER)], d: D, rows, values: vec![values] }
}

/// The toy's answer: whether it copies from the text.
fn copies(row: &[f32]) -> bool {
    let w = directions();
    let along = |latent: usize| row.iter().zip(&w[latent * D..]).map(|(h, w)| h * w).sum::<f32>();
    along(COPY) > along(LOOK)
}

fn dictionaries() -> Dictionaries {
    let parts = Parts {
        d_in: D,
        d_out: D,
        width: D,
        encoder: directions(),
        decoder: directions(),
        b_enc: vec![0.0; D],
        b_dec: vec![0.0; D],
        skip: None,
        activation: Activation::Relu,
        normalize: Normalize::None,
        subtract_b_dec: false,
        rescale_by_decoder_norm: false,
        origin: Origin::default(),
    };
    Dictionaries::new(vec![(LAYER, parts, None)], Code::Relu, 1).unwrap()
}

/// Share of the rows of a fold whose answer is on the wanted side after the edit.
fn flipped(rows: &Collected, fold: u32, steering: &Steering, toward: Toward) -> f64 {
    let edit = steering.edits.values().next().unwrap();
    let of = |r: &usize| rows.rows[*r].fold == fold && rows.rows[*r].context != (toward == Toward::Context);
    let all: Vec<usize> = (0..rows.rows.len()).filter(of).collect();
    let after = |r: &&usize| {
        let mut row = rows.values[0][**r * D..(**r + 1) * D].to_vec();
        assert_eq!(copies(&row), rows.rows[**r].context);
        edit.apply(&mut row, toward, 1.0);
        copies(&row) == (toward == Toward::Context)
    };
    all.iter().filter(after).count() as f64 / all.len() as f64
}

#[test]
fn the_planted_latents_are_found_and_flip_the_answers_of_facts_that_were_not_seen() {
    let Some(model) = model() else { return };
    let rows = planted(600, 1);
    let options = Options::default();
    for fold in 0..5 {
        let training = rows.training(Some(fold), false, 0);
        assert!(training.rows.iter().all(|r| r.fold != fold) && training.rows.len() == 480);
        let fitted = fit(&model, &training, (&[LAYER], &dictionaries()), (Method::Spare, &options)).unwrap();
        let mut found: Vec<u32> = fitted.selected[0].1.chosen.iter().take(3).map(|c| c.latent).collect();
        found.truncate(2);
        found.sort_unstable();
        assert_eq!(found, [COPY as u32, LOOK as u32]);
        for toward in Toward::BOTH {
            assert!(flipped(&rows, fold, &fitted.steering, toward) >= 0.95);
        }
    }
    // controls: what means nothing moves nothing
    let training = rows.training(Some(0), false, 0);
    let top = Options { rule: Rule::Top { count: 2 }, ..Options::default() };
    let shuffled = fit(&model, &training, (&[LAYER], &dictionaries()), (Method::ShuffledLabels, &top)).unwrap();
    assert!(flipped(&rows, 0, &shuffled.steering, Toward::Memory) < 0.5);
    // the simple methods find it too: one direction is all there is
    for method in [Method::Means, Method::Projection, Method::TaskVector] {
        let fitted = fit(&model, &training, (&[LAYER], &dictionaries()), (method, &options)).unwrap();
        assert!(flipped(&rows, 0, &fitted.steering, Toward::Memory) >= 0.95, "{}", method.name());
    }
    let stable = stability(&training, (LAYER, &dictionaries()), (&top, 5)).unwrap().unwrap();
    assert!(stable > 0.95, "{stable}");
}

#[test]
fn balance_leaves_as_many_of_each_source_in_each_kind_of_demonstrations() {
    let rows = planted(300, 2).training(None, true, 7);
    for demos in Demos::SHOWN {
        let count = |context: bool| rows.rows.iter().filter(|r| r.demos == demos && r.context == context).count();
        assert!(count(true) > 0 && count(true) == count(false));
    }
    assert_eq!(rows.values[0].len(), rows.rows.len() * D);
    assert_eq!(rows, planted(300, 2).training(None, true, 7));
}

#[test]
fn what_was_collected_is_written_and_read_back() {
    let rows = planted(20, 3);
    let path = std::env::temp_dir().join(format!("meden-collected-{}.safetensors", std::process::id()));
    rows.save(&path, "abc").unwrap();
    assert_eq!(Collected::open(&path, "abc").unwrap(), rows);
    assert!(Collected::open(&path, "other").unwrap_err().to_string().contains("another model"));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn rows_of_one_source_or_without_information_are_refused() {
    let Some(model) = model() else { return };
    let rows = planted(60, 4);
    let one: Vec<usize> = (0..60).filter(|&r| rows.rows[r].context).collect();
    let fitted = fit(&model, &rows.only(&one), (&[LAYER], &dictionaries()), (Method::Means, &Options::default()));
    assert!(fitted.unwrap_err().to_string().contains("both are needed"));
    let missing = fit(&model, &rows, (&[7], &dictionaries()), (Method::Means, &Options::default()));
    assert!(missing.unwrap_err().to_string().contains("layers with collected activations"));
}
