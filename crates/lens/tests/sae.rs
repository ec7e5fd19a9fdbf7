//! Sparse autoencoders against independent implementations, and what has to hold whatever the numbers are.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{Tensor, max_diff, oracle, tensors};
use meden_lens::sae::{Activation, Normalize, Origin, Parts, Sae, SaeError, load};
use meden_stats::Rng;

/// (n, d) of a matrix that is stored as (d, n).
fn transposed(t: &Tensor) -> Vec<f32> {
    let (d, n) = (t.shape[0], t.shape[1]);
    let mut out = vec![0.0; n * d];
    for i in 0..d {
        for j in 0..n {
            out[j * d + i] = t.f[i * n + j];
        }
    }
    out
}

fn parts(t: &BTreeMap<String, Tensor>, activation: Activation, normalize: Normalize) -> Parts {
    let (d, n) = (t["W_enc"].shape[0], t["W_enc"].shape[1]);
    Parts {
        d_in: d,
        d_out: d,
        width: n,
        encoder: transposed(&t["W_enc"]),
        decoder: t["W_dec"].f.clone(),
        b_enc: t.get("b_enc").map_or(vec![0.0; n], |b| b.f.clone()),
        b_dec: t["b_dec"].f.clone(),
        skip: None,
        activation,
        normalize,
        subtract_b_dec: true,
        rescale_by_decoder_norm: false,
        origin: Origin::default(),
    }
}

fn agrees(sae: &Sae, t: &BTreeMap<String, Tensor>, name: &str) {
    let codes = sae.encode(&t["x"].f).unwrap();
    let z = max_diff(&codes.dense(), &t["z"].f);
    assert!(z <= 1e-5, "{name}: latents differ by {z}");
    let xhat = max_diff(&sae.reconstruct(&t["x"].f).unwrap(), &t["xhat"].f);
    assert!(xhat <= 1e-5 * t["xhat"].f.iter().fold(1f32, |m, v| m.max(v.abs())), "{name}: rows differ by {xhat}");
}

#[test]
fn every_architecture_and_normalisation_has_the_reference_values() {
    let Some(root) = oracle("sae") else { return };
    let mut seen = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().to_string();
        if path.extension().is_none_or(|e| e != "safetensors") || name == "spare" {
            continue;
        }
        let t = tensors(&path);
        let activation = match name.as_str() {
            "jumprelu" => Activation::JumpRelu { threshold: t["threshold"].f.clone() },
            "gated" => Activation::Gated {
                b_gate: t["b_gate"].f.clone(),
                b_mag: t["b_mag"].f.clone(),
                r_mag: t["r_mag"].f.clone(),
            },
            "topk" => {
                let n = t["W_enc"].shape[1];
                let k = t["z"].f.chunks(n).map(|row| row.iter().filter(|z| **z > 0.0).count()).max().unwrap();
                Activation::TopK { k }
            }
            _ => Activation::Relu,
        };
        let normalize = match name.strip_prefix("norm_") {
            Some("expected_average_only_in") => Normalize::ExpectedAverageOnlyIn { scale: t["scale"].f[0] },
            Some("constant_norm_rescale") => Normalize::ConstantNormRescale,
            Some("layer_norm") => Normalize::LayerNorm,
            Some(other) => panic!("reference values of a normalisation that this test does not know: {other}"),
            None => Normalize::None,
        };
        agrees(&Sae::new(parts(&t, activation, normalize), 1).unwrap(), &t, &name);
        seen += 1;
    }
    assert!(seen >= 7, "reference files: {seen}");
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sae")
}

#[test]
fn every_family_of_files_is_read() {
    let mut families = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(golden()).unwrap() {
        let folder = entry.unwrap().path();
        let parts = load(&folder).unwrap();
        families.insert(parts.origin.family.clone());
        assert!(parts.origin.sha256.as_ref().is_some_and(|h| h.len() == 64));
        let site = parts.origin.site.clone();
        match folder.file_name().unwrap().to_str().unwrap() {
            "layers.5" => assert_eq!(site.as_deref(), Some("model.layers.5")),
            "layer_7-gemma-scope" | "layer_7-gemma-scope-deflated-f64" => assert_eq!(site, None),
            "saelens-old-topk" => assert_eq!(site.as_deref(), Some("blocks.3.hook_resid_pre")),
            _ => {}
        }
        let name = folder.display().to_string();
        agrees(&Sae::new(parts, 1).unwrap(), &tensors(&folder.join("expected.safetensors")), &name);
    }
    assert_eq!(families.len(), 5, "{families:?}");
}

#[test]
fn what_is_saved_is_read_back_the_same() {
    let folder = std::env::temp_dir().join(format!("meden-sae-save-{}", std::process::id()));
    for entry in std::fs::read_dir(golden()).unwrap() {
        let from = entry.unwrap().path();
        let t = tensors(&from.join("expected.safetensors"));
        let parts = load(&from).unwrap();
        let name = from.display().to_string();
        let _ = std::fs::remove_dir_all(&folder);
        if matches!(parts.activation, Activation::GroupMax { .. }) {
            assert!(matches!(parts.save(&folder, serde_json::Value::Null), Err(SaeError::Format { .. })));
            continue;
        }
        parts.save(&folder, serde_json::json!({"note": 1})).unwrap();
        let read = load(&folder).unwrap();
        assert_eq!(read.origin.family, "SAELens");
        let sae = Sae::new(read, 1).unwrap();
        // the factor of scaled inputs is folded, which rounds
        let codes = sae.encode(&t["x"].f).unwrap();
        assert!(max_diff(&codes.dense(), &t["z"].f) <= 1e-5, "{name}");
        assert!(max_diff(&sae.decode(&codes).unwrap(), &t["xhat"].f) <= 1e-5, "{name}");
    }
    let _ = std::fs::remove_dir_all(&folder);
}

fn random(seed: u64, activation: Activation) -> Parts {
    let (d, n) = (5, 16);
    let mut rng = Rng::new(seed, 0);
    let mut numbers = |count: usize| (0..count).map(|_| rng.normal() as f32).collect::<Vec<f32>>();
    Parts {
        d_in: d,
        d_out: d,
        width: n,
        encoder: numbers(n * d),
        decoder: numbers(n * d),
        b_enc: numbers(n),
        b_dec: numbers(d),
        skip: None,
        activation,
        normalize: Normalize::ExpectedAverageOnlyIn { scale: 0.7 },
        subtract_b_dec: true,
        rescale_by_decoder_norm: false,
        origin: Origin::default(),
    }
}

fn every_activation(n: usize) -> Vec<Activation> {
    let some = |from: f32| (0..n).map(|i| from + i as f32 * 0.02).collect::<Vec<f32>>();
    vec![
        Activation::Relu,
        Activation::TopK { k: 4 },
        Activation::BatchTopK { k: 3 },
        Activation::JumpRelu { threshold: some(0.1) },
        Activation::Gated { b_gate: some(-0.2), b_mag: some(0.0), r_mag: some(-0.1) },
        Activation::GroupMax { k: 4 },
    ]
}

#[test]
fn constants_can_be_folded_and_change_nothing() {
    let mut rng = Rng::new(5, 1);
    let x: Vec<f32> = (0..40 * 5).map(|_| rng.normal() as f32).collect();
    for (seed, activation) in every_activation(16).into_iter().enumerate() {
        let whole = random(seed as u64, activation);
        let competes = matches!(
            whole.activation,
            Activation::TopK { .. } | Activation::BatchTopK { .. } | Activation::GroupMax { .. }
        );
        let before = Sae::new(whole.clone(), 1).unwrap();
        let (codes, rows) = (before.encode(&x).unwrap(), before.reconstruct(&x).unwrap());
        let active = |c: &meden_lens::sae::Codes| (0..c.len()).map(|r| c.row(r).0.to_vec()).collect::<Vec<_>>();
        let scaled = Sae::new(whole.clone().fold_scale(), 1).unwrap();
        assert_eq!(scaled.normalize(), Normalize::None);
        assert!(max_diff(&scaled.reconstruct(&x).unwrap(), &rows) < 2e-6 * 20.0);
        assert_eq!(active(&scaled.encode(&x).unwrap()), active(&codes));
        match whole.clone().fold_decoder_norm() {
            None => assert!(competes),
            Some(folded) => {
                assert!(!competes && folded.decoder_norms().iter().all(|n| (n - 1.0).abs() < 1e-6));
                let folded = Sae::new(folded, 1).unwrap();
                assert!(max_diff(&folded.reconstruct(&x).unwrap(), &rows) < 2e-6 * 20.0);
                assert_eq!(active(&folded.encode(&x).unwrap()), active(&codes));
            }
        }
    }
    let rescaled = Parts { rescale_by_decoder_norm: true, ..random(9, Activation::TopK { k: 4 }) };
    let before = Sae::new(rescaled.clone(), 1).unwrap().reconstruct(&x).unwrap();
    let folded = Sae::new(rescaled.fold_decoder_norm().unwrap(), 1).unwrap();
    assert!(max_diff(&folded.reconstruct(&x).unwrap(), &before) < 4e-5);
}

#[test]
fn chosen_latents_are_those_of_the_whole() {
    let mut rng = Rng::new(8, 1);
    let x: Vec<f32> = (0..30 * 5).map(|_| rng.normal() as f32).collect();
    for (seed, activation) in every_activation(16).into_iter().enumerate() {
        let competes =
            matches!(activation, Activation::TopK { .. } | Activation::BatchTopK { .. } | Activation::GroupMax { .. });
        let whole = random(seed as u64, activation);
        let alone = if competes { Parts { activation: Activation::Relu, ..whole.clone() } } else { whole.clone() };
        let all = Sae::new(alone, 1).unwrap().encode(&x).unwrap().dense();
        let which = [3u32, 15, 0];
        let chosen = Sae::new(whole, 1).unwrap().chosen(&which).unwrap();
        for (row, h) in x.chunks(5).enumerate() {
            let (z, _) = chosen.encode(h);
            for (n, latent) in which.iter().enumerate() {
                assert!((z[n] - all[row * 16 + *latent as usize]).abs() < 1e-5);
            }
        }
    }
    assert!(Sae::new(random(1, Activation::Relu), 1).unwrap().chosen(&[16]).is_err());
}

#[test]
fn threads_change_no_bit_and_a_batch_keeps_k_a_row_on_average() {
    let mut rng = Rng::new(2, 1);
    let x: Vec<f32> = (0..150 * 5).map(|_| rng.normal() as f32).collect();
    for (seed, activation) in every_activation(16).into_iter().enumerate() {
        let whole = random(seed as u64, activation.clone());
        let (one, two) = (Sae::new(whole.clone(), 1).unwrap(), Sae::new(whole, 2).unwrap());
        let (a, b) = (one.encode(&x).unwrap(), two.encode(&x).unwrap());
        assert_eq!(a, b);
        assert_eq!(one.decode(&a).unwrap(), two.decode(&b).unwrap());
        if let Activation::BatchTopK { k } = activation {
            assert_eq!(a.active(), k * 150);
        }
    }
}

#[test]
fn parts_that_make_no_sense_are_refused() {
    let good = || random(1, Activation::Relu);
    let refuse = |parts: Parts| Sae::new(parts, 1).unwrap_err().to_string();
    assert!(refuse(Parts { decoder: vec![0.0; 7], ..good() }).contains("the decoder holds 7"));
    assert!(refuse(Parts { b_enc: vec![f32::NAN; 16], ..good() }).contains("b_enc[0] is NaN"));
    let negative = Activation::JumpRelu { threshold: vec![-0.5; 16] };
    assert!(refuse(Parts { activation: negative, ..good() }).contains("threshold[0] is -0.5"));
    assert!(refuse(Parts { activation: Activation::TopK { k: 17 }, ..good() }).contains("k is 17"));
    assert!(refuse(Parts { activation: Activation::GroupMax { k: 3 }, ..good() }).contains("evenly"));
    assert!(refuse(Parts { normalize: Normalize::ExpectedAverageOnlyIn { scale: 0.0 }, ..good() }).contains("scale"));
    let sae = Sae::new(good(), 1).unwrap();
    assert!(matches!(sae.encode(&[0.0; 7]), Err(SaeError::Rows { values: 7, width: 5 })));
}

#[test]
fn damaged_files_are_refused_with_the_reason() {
    let folder = std::env::temp_dir().join(format!("meden-sae-damage-{}", std::process::id()));
    let copy = |name: &str| {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for entry in std::fs::read_dir(golden().join(name)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
            }
        }
    };
    let refused = || load(&folder).unwrap_err().to_string();
    copy("layer_7-gemma-scope");
    let whole = std::fs::read(folder.join("params.npz")).unwrap();
    for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
        std::fs::write(folder.join("params.npz"), &whole[..cut]).unwrap();
        assert!(refused().contains("params.npz"));
    }
    copy("saelens-topk-rescaled");
    let text = std::fs::read_to_string(folder.join("cfg.json")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        std::fs::write(folder.join("cfg.json"), text.replace(from, to)).unwrap();
        refused()
    };
    assert!(with("\"d_sae\": 20", "\"d_sae\": 21").contains("W_enc is [6, 20]"));
    assert!(with("\"topk\"", "\"matryoshka\"").contains("matryoshka"));
    assert!(with("\"k\": 4", "\"k\": 0").contains("k is 0"));
    assert!(with("\"none\"", "\"whiten\"").contains("whiten"));
    assert!(with("{", "[").contains("no JSON"));
    std::fs::remove_file(folder.join("cfg.json")).unwrap();
    assert!(refused().contains("no autoencoder is in it"));
    std::fs::write(folder.join("ae.pt"), b"PK").unwrap();
    assert!(refused().contains("weights_only=True"));
    assert!(load(&folder.join("nothing")).unwrap_err().to_string().contains("no such file"));
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn the_check_finds_how_a_file_was_meant() {
    // orthogonal directions, one active latent a row: with b_dec taken off, reconstruction is perfect
    let d = 4;
    let unit: Vec<f32> = (0..2 * d * d)
        .map(|i| match (i / d, i % d) {
            (r, c) if r < d && r == c => 1.0,
            (r, c) if r >= d && r - d == c => -1.0,
            _ => 0.0,
        })
        .collect();
    let meant = Parts {
        d_in: d,
        d_out: d,
        width: 2 * d,
        encoder: unit.clone(),
        decoder: unit,
        b_enc: vec![0.0; 2 * d],
        b_dec: vec![3.0, -2.0, 5.0, 1.0],
        skip: None,
        activation: Activation::Relu,
        normalize: Normalize::None,
        subtract_b_dec: true,
        rescale_by_decoder_norm: false,
        origin: Origin::default(),
    };
    let mut rng = Rng::new(4, 4);
    let rows: Vec<f32> =
        (0..500).flat_map(|_| meant.b_dec.iter().map(|b| b + rng.normal() as f32).collect::<Vec<_>>()).collect();
    let check = Sae::new(meant.clone(), 1).unwrap().check(&rows).unwrap();
    assert!(check.combinations[0].declared && check.combinations[0].fit.fvu < 1e-9 && check.better.is_none());
    assert_eq!(check.combinations[0].fit.rows, 500);
    assert!((check.combinations[0].fit.l0 - 4.0).abs() < 1e-9 && (check.combinations[0].fit.cosine - 1.0).abs() < 1e-6);
    let wrong = Sae::new(Parts { subtract_b_dec: false, ..meant }, 1).unwrap().check(&rows).unwrap();
    let better = &wrong.combinations[wrong.better.unwrap()];
    assert!(better.subtract_b_dec && !better.declared);
}
