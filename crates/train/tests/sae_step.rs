//! Loss and gradients of a training step against reference values and against central differences, and that training
//! can be interrupted.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use meden_kernels::Pool;
use meden_stats::Rng;
use meden_train::sae::{Aux, Gradients, Weights, gradients};

/// Tensors of f64 (and bytes, as numbers).
/// Shape and values.
type Array = (Vec<usize>, Vec<f64>);

fn oracle() -> Option<BTreeMap<String, Array>> {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle/training/sae_step.safetensors");
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return None;
    }
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let one = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let values = match view.dtype() {
            safetensors::Dtype::F64 => view.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            _ => view.data().iter().map(|b| f64::from(*b)).collect(),
        };
        (name, (view.shape().to_vec(), values))
    };
    Some(file.tensors().into_iter().map(one).collect())
}

/// The same step in f64 and in the plainest form: what the fast one is held against.
struct Twin {
    d: usize,
    n: usize,
    k: usize,
    k_aux: usize,
    dead: Vec<usize>,
    weight: f64,
}

/// Encoder and decoder with a row a latent, then the two biases.
type Values = [Vec<f64>; 4];

fn largest(p: &[f64], of: &[usize], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = of.iter().copied().filter(|&i| p[i] > 0.0).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]).then(a.cmp(b)));
    order.truncate(k);
    order
}

impl Twin {
    /// Loss, FVU, aux; `fixed` holds e = x - x̂ as a constant where gradients must not flow through it.
    fn loss(&self, w: &Values, x: &[f64], fixed: Option<&[f64]>) -> (f64, f64, f64, Vec<f64>) {
        let (d, n, rows) = (self.d, self.n, x.len() / self.d);
        let all: Vec<usize> = (0..n).collect();
        let mean: Vec<f64> = (0..d).map(|c| (0..rows).map(|r| x[r * d + c]).sum::<f64>() / rows as f64).collect();
        let (mut lost, mut spread, mut aux, mut errors) = (0.0, 0.0, 0.0, Vec::new());
        for r in 0..rows {
            let row = &x[r * d..(r + 1) * d];
            let p: Vec<f64> =
                (0..n).map(|l| w[2][l] + (0..d).map(|c| (row[c] - w[3][c]) * w[0][l * d + c]).sum::<f64>()).collect();
            let decode = |of: &[usize]| -> Vec<f64> {
                (0..d).map(|c| of.iter().map(|&l| p[l] * w[1][l * d + c]).sum()).collect()
            };
            let made = decode(&largest(&p, &all, self.k));
            let error: Vec<f64> = (0..d).map(|c| row[c] - made[c] - w[3][c]).collect();
            let dead = decode(&largest(&p, &self.dead, self.k_aux));
            for c in 0..d {
                lost += error[c] * error[c];
                spread += (row[c] - mean[c]).powi(2);
                let e = fixed.map_or(error[c], |f| f[r * d + c]);
                aux += (e - dead[c]).powi(2);
            }
            errors.extend(error);
        }
        let share = (self.dead.len() as f64 / (d as f64 / 2.0)).min(1.0);
        let (fvu, aux) = (lost / spread, share * aux / spread);
        (fvu + self.weight * aux, fvu, aux, errors)
    }

    /// Central differences of every weight.
    fn differences(&self, w: &Values, x: &[f64]) -> Values {
        let errors = self.loss(w, x, None).3;
        let h = 1e-6;
        std::array::from_fn(|list| {
            (0..w[list].len())
                .map(|i| {
                    let at = |by: f64| {
                        let mut moved = w.clone();
                        moved[list][i] += by;
                        self.loss(&moved, x, Some(&errors)).0
                    };
                    (at(h) - at(-h)) / (2.0 * h)
                })
                .collect()
        })
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|v| *v as f32).collect()
}

fn weights(w: &Values, d: usize) -> Weights {
    Weights {
        d,
        width: w[2].len(),
        encoder: narrow(&w[0]),
        decoder: narrow(&w[1]),
        b_enc: narrow(&w[2]),
        b_dec: narrow(&w[3]),
    }
}

fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let most = want.iter().fold(0f64, |m, v| m.max(v.abs())).max(1e-3);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= tolerance * most, "{what}[{i}]: {g} instead of {w} (largest {most})");
    }
}

fn check(got: &Gradients, want: &Values, tolerance: f64) {
    close("encoder", &got.encoder, &want[0], tolerance);
    close("decoder", &got.decoder, &want[1], tolerance);
    close("b_enc", &got.b_enc, &want[2], tolerance);
    close("b_dec", &got.b_dec, &want[3], tolerance);
}

#[test]
fn a_step_has_the_reference_values() {
    let Some(t) = oracle() else { return };
    let (d, n) = (t["W_enc"].0[0], t["W_enc"].0[1]);
    let by_latent = |name: &str| -> Vec<f64> {
        let from = &t[name].1;
        (0..n * d).map(|i| from[(i % d) * n + i / d]).collect()
    };
    let w: Values = [by_latent("W_enc"), t["W_dec"].1.clone(), t["b_enc"].1.clone(), t["b_dec"].1.clone()];
    let x = &t["x"].1;
    let k = t["z"].1.chunks(n).map(|row| row.iter().filter(|z| **z > 0.0).count()).max().unwrap();
    let dead: Vec<usize> = (0..n).filter(|l| t["dead"].1[*l] == 1.0).collect();
    // the reference's k_aux, of which the file says nothing: the one that gives its loss
    let twin = |k_aux: usize| Twin { d, n, k, k_aux, dead: dead.clone(), weight: 1.0 / 32.0 };
    let twin = (1..=dead.len()).map(twin).find(|twin| (twin.loss(&w, x, None).0 - t["loss"].1[0]).abs() < 1e-9);
    let twin = twin.expect("the formulas in f64 give the reference's loss to 1e-9");
    let (_, fvu, aux, _) = twin.loss(&w, x, None);
    assert!((fvu - t["fvu"].1[0]).abs() < 1e-9 && (aux - t["aux"].1[0]).abs() < 1e-9);
    let reference: Values =
        [by_latent("grad.W_enc"), t["grad.W_dec"].1.clone(), t["grad.b_enc"].1.clone(), t["grad.b_dec"].1.clone()];

    let ids: Vec<u32> = dead.iter().map(|l| *l as u32).collect();
    let options = (k, Aux { dead: &ids, k: twin.k_aux, weight: twin.weight });
    let (measured, got) = gradients(&weights(&w, d), &narrow(x), options, &Pool::new(1)).unwrap();
    assert!((measured.fvu - fvu).abs() < 1e-5 && (measured.aux - aux).abs() < 1e-5);
    check(&got, &reference, 1e-4);
    let (two, same) = gradients(&weights(&w, d), &narrow(x), options, &Pool::new(2)).unwrap();
    assert!(measured == two && got == same, "two threads give other bits");
}

#[test]
fn gradients_are_those_of_central_differences_dead_latents_included() {
    for seed in 0..6 {
        let (d, n, rows) = (6, 15, 9);
        let mut rng = Rng::new(seed, 0);
        let mut numbers = |count: usize, by: f64| (0..count).map(|_| by * rng.normal()).collect::<Vec<f64>>();
        let w: Values = [numbers(n * d, 0.5), numbers(n * d, 0.5), numbers(n, 0.3), numbers(d, 0.3)];
        let x = numbers(rows * d, 1.0);
        // f32 weights and rows, so that both choose the same latents
        let w = w.map(|list| list.iter().map(|v| f64::from(*v as f32)).collect::<Vec<f64>>());
        let x: Vec<f64> = x.iter().map(|v| f64::from(*v as f32)).collect();
        let dead: Vec<usize> = if seed % 3 == 0 { vec![] } else { (0..n).step_by(seed as usize % 3 + 1).collect() };
        let twin = Twin { d, n, k: 3, k_aux: 2, dead: dead.clone(), weight: 0.7 };
        let ids: Vec<u32> = dead.iter().map(|l| *l as u32).collect();
        let aux = Aux { dead: &ids, k: 2, weight: 0.7 };
        let (measured, got) = gradients(&weights(&w, d), &narrow(&x), (3, aux), &Pool::new(2)).unwrap();
        assert!((measured.loss - twin.loss(&w, &x, None).0).abs() < 1e-5);
        check(&got, &twin.differences(&w, &x), 3e-4);
    }
}
