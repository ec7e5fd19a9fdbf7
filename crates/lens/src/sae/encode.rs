//! Rows into latents.

use meden_kernels::matmul::Needs;
use meden_kernels::{Activations, matmul};

use super::Sae;
use super::activation::Activation;
use super::codes::Codes;
use super::error::SaeError;
use super::normalize::{Normalize, RowScale};
use super::topk::TopK;

/// Rows that are multiplied together: their pre-activations stay in the second-level cache.
const CHUNK: usize = 64;

/// Active latents of a row.
#[derive(Clone, Default)]
struct Active {
    latents: Vec<u32>,
    values: Vec<f32>,
}

impl Sae {
    /// Latents of rows `(rows, d_in)`.
    ///
    /// # Errors
    /// Rows that are not whole.
    pub fn encode(&self, rows: &[f32]) -> Result<Codes, SaeError> {
        let count = self.rows(rows.len(), self.d_in)?;
        let mut codes = Codes::new(self.width);
        let mut together: Vec<Active> = Vec::new();
        let mut scales = Vec::new();
        self.products(rows, &mut |chunk, products| {
            let mut active = vec![Active::default(); chunk.len()];
            let each = |row: usize, out: &mut [Active]| {
                self.activate(&products[row * self.width..][..self.width], &mut out[0]);
            };
            self.pool.chunks(&mut active, 1, each);
            match self.activation {
                Activation::BatchTopK { .. } => {
                    together.append(&mut active);
                    scales.extend_from_slice(chunk);
                }
                _ => active.iter().zip(chunk).for_each(|(a, &scale)| self.push(&mut codes, a, scale)),
            }
        })?;
        if let Activation::BatchTopK { k } = self.activation {
            keep_largest(&mut together, k * count);
            together.iter().zip(&scales).for_each(|(a, &scale)| self.push(&mut codes, a, scale));
        }
        Ok(codes)
    }

    fn push(&self, codes: &mut Codes, active: &Active, scale: RowScale) {
        let scale = (self.normalize != Normalize::None).then_some(scale);
        codes.push(&active.latents, &active.values, scale);
    }

    /// Pre-activations without their bias, `(rows of the chunk, width)`, chunk by chunk.
    pub(super) fn products(&self, rows: &[f32], each: &mut dyn FnMut(&[RowScale], &[f32])) -> Result<(), SaeError> {
        let mut activations = Activations::new();
        let needs = Needs { floats: true, blocks: false };
        let (mut input, mut products) = (Vec::new(), Vec::new());
        for chunk in rows.chunks(CHUNK * self.d_in) {
            let scales = self.prepare(chunk, &mut input);
            activations.set_for(&self.pool, &input, self.d_in, self.isa, needs);
            products.resize(scales.len() * self.width, 0.0);
            matmul(&self.pool, &activations, &self.encoder, &mut products)?;
            each(&scales, &products);
        }
        Ok(())
    }

    /// Normalises rows and takes `b_dec` off where that is part of the encoder.
    pub(super) fn prepare(&self, rows: &[f32], input: &mut Vec<f32>) -> Vec<RowScale> {
        input.clear();
        let mut scales = Vec::with_capacity(rows.len() / self.d_in);
        for row in rows.chunks_exact(self.d_in) {
            let scale = self.normalize.of(row);
            let first = input.len();
            input.extend(row.iter().map(|x| (x - scale.shift) * scale.into));
            if self.subtract_b_dec {
                input[first..].iter_mut().zip(&self.b_dec).for_each(|(x, b)| *x -= b);
            }
            scales.push(scale);
        }
        scales
    }

    /// The active latents of a row of products.
    fn activate(&self, products: &[f32], out: &mut Active) {
        let latent = |l: usize| self.activation.alone(l, products[l], self.b_enc[l]);
        let push = |out: &mut Active, l: usize, value: f32| {
            out.latents.push(l as u32);
            out.values.push(value);
        };
        match self.activation {
            Activation::TopK { k } => {
                let mut p: Vec<f32> = products.iter().zip(&self.b_enc).map(|(p, b)| p + b).collect();
                if let Some(norms) = &self.decoder_norms {
                    p.iter_mut().zip(norms).for_each(|(p, norm)| *p *= norm);
                }
                for &l in TopK::new().of(self.isa, &p, k) {
                    push(out, l as usize, latent(l as usize));
                }
            }
            Activation::GroupMax { k } => {
                let run = self.width / k;
                for first in (0..self.width).step_by(run) {
                    let largest = |best: usize, l: usize| if latent(l) > latent(best) { l } else { best };
                    let best = (first..first + run).fold(first, largest);
                    if latent(best) > 0.0 {
                        push(out, best, latent(best));
                    }
                }
            }
            _ => (0..self.width).filter(|&l| latent(l) > 0.0).for_each(|l| push(out, l, latent(l))),
        }
    }
}

/// Leaves the `count` largest values of all rows; of equal ones the first rows' and the first latents'.
fn keep_largest(rows: &mut [Active], count: usize) {
    let mut all: Vec<(f32, usize, u32)> = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        all.extend(row.values.iter().zip(&row.latents).map(|(&v, &l)| (v, number, l)));
    }
    if all.len() > count {
        all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        all.truncate(count);
    }
    let kept: std::collections::HashSet<(usize, u32)> = all.into_iter().map(|(_, row, latent)| (row, latent)).collect();
    for (number, row) in rows.iter_mut().enumerate() {
        let keep: Vec<bool> = row.latents.iter().map(|l| kept.contains(&(number, *l))).collect();
        let mut flags = keep.iter();
        row.latents.retain(|_| flags.next() == Some(&true));
        let mut flags = keep.iter();
        row.values.retain(|_| flags.next() == Some(&true));
    }
}
