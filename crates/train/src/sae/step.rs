//! Loss and gradients of one batch.
//!
//! With `p = (x - b_dec) W_enc + b_enc`, `z` the k largest of `max(p, 0)`, `x̂ = z W_dec + b_dec`:
//! loss = FVU + aux / 32, FVU = `sum |x - x̂|² / sum |x - mean|²`. The auxiliary loss asks dead latents to explain what is
//! left: `ê` is decoded, without `b_dec`, from the largest `max(p, 0)` of dead latents alone, and
//! `aux = min(dead / (d/2), 1) * sum |e - ê|² / sum |x - mean|²`, where `e = x - x̂` counts as a constant.

use meden_kernels::matmul::Needs;
use meden_kernels::{Activations, Isa, Matrix, Pool, matmul, sparse};
use meden_lens::sae::TopK;

use super::error::TrainError;

/// Rows that are encoded together.
const CHUNK: usize = 64;

/// Weights; matrices have one row a latent.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Values of a row.
    pub d: usize,
    /// Latents.
    pub width: usize,
    /// (width, d).
    pub encoder: Vec<f32>,
    /// (width, d).
    pub decoder: Vec<f32>,
    /// (width).
    pub b_enc: Vec<f32>,
    /// (d).
    pub b_dec: Vec<f32>,
}

/// Gradients of the loss, in the layout of [`Weights`].
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// (width, d).
    pub encoder: Vec<f32>,
    /// (width, d).
    pub decoder: Vec<f32>,
    /// (width).
    pub b_enc: Vec<f32>,
    /// (d).
    pub b_dec: Vec<f32>,
}

/// The auxiliary loss of dead latents.
#[derive(Clone, Copy, Debug)]
pub struct Aux<'a> {
    /// Dead latents, ascending.
    pub dead: &'a [u32],
    /// Most of them that explain a row.
    pub k: usize,
    /// Weight of the loss.
    pub weight: f64,
}

/// What a batch showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Share of the variance that is not explained.
    pub fvu: f64,
    /// The auxiliary loss, without its weight.
    pub aux: f64,
    /// `fvu + weight * aux`.
    pub loss: f64,
    /// Active latents a row.
    pub l0: f64,
    /// Rows that each latent was active in.
    pub fired: Vec<u32>,
    /// Mean over the rows of the least active value.
    pub least: f64,
}

/// Active latents of one row.
#[derive(Clone, Default)]
struct Active {
    latents: Vec<u32>,
    values: Vec<f32>,
    dots: Vec<f32>,
}

/// One row: what is active, and what is active of the dead ones.
#[derive(Clone, Default)]
struct Row {
    main: Active,
    dead: Active,
}

/// Active latents by latent: for each the rows, ascending, its value there and its gradient.
struct ByLatent {
    starts: Vec<usize>,
    rows: Vec<u32>,
    values: Vec<f32>,
    dots: Vec<f32>,
}

/// Computes loss and gradients of rows `(rows, d)`. Results do not depend on the number of threads.
///
/// # Errors
/// Rows that are not whole or none.
pub fn gradients(
    weights: &Weights,
    x: &[f32],
    (k, aux): (usize, Aux<'_>),
    pool: &Pool,
) -> Result<(Measured, Gradients), TrainError> {
    let (d, n) = (weights.d, weights.width);
    if x.is_empty() || !x.len().is_multiple_of(d) {
        return Err(TrainError::setting("batch", x.len(), format!("whole rows of {d} values, at least one")));
    }
    let isa = Isa::best();
    let rows = x.len() / d;
    let variance = spread(x, d);
    let mut centred = vec![0f32; x.len()];
    pool.chunks(&mut centred, d, |r, out| {
        out.iter_mut().zip(&x[r * d..]).zip(&weights.b_dec).for_each(|((o, x), b)| *o = x - b);
    });
    let mut active = encode(weights, &centred, (k, aux), pool)?;

    // gradient by the reconstruction, row by row, and that of the dead ones behind it
    let towards = (-2.0 / variance) as f32;
    let share = (aux.dead.len() as f64 / (d as f64 / 2.0)).min(1.0);
    let behind = (aux.weight * share) as f32;
    let uses_dead = !aux.dead.is_empty();
    let mut by_row = vec![0f32; x.len()];
    let mut by_dead = vec![0f32; if uses_dead { x.len() } else { 0 }];
    pool.chunks(&mut by_row, d, |r, out| {
        out.copy_from_slice(&weights.b_dec);
        let row = &active[r].main;
        sparse::gather_sum(isa, &weights.decoder, &row.latents, &row.values, out);
        out.iter_mut().zip(&x[r * d..]).for_each(|(o, x)| *o = x - *o);
    });
    let lost = square_sum(&by_row, d, pool);
    let mut aux_loss = 0.0;
    if uses_dead {
        pool.chunks(&mut by_dead, d, |r, out| {
            let row = &active[r].dead;
            sparse::gather_sum(isa, &weights.decoder, &row.latents, &row.values, out);
            out.iter_mut().zip(&by_row[r * d..]).for_each(|(o, e)| *o = e - *o);
        });
        aux_loss = share * square_sum(&by_dead, d, pool) / variance;
        pool.chunks(&mut by_dead, d, |_, out| out.iter_mut().for_each(|o| *o *= towards * behind));
    }
    pool.chunks(&mut by_row, d, |_, out| out.iter_mut().for_each(|o| *o *= towards));

    // gradient by each active latent
    pool.chunks(&mut active, 1, |r, row| {
        let row = &mut row[0];
        let dots = |gradient: &[f32], of: &mut Active| {
            of.dots.resize(of.latents.len(), 0.0);
            sparse::gather_dots(isa, gradient, &weights.decoder, &of.latents, &mut of.dots);
        };
        dots(&by_row[r * d..(r + 1) * d], &mut row.main);
        if uses_dead {
            dots(&by_dead[r * d..(r + 1) * d], &mut row.dead);
        }
    });
    let main = by_latent(&active, n, |row| &row.main);
    let dead = by_latent(&active, n, |row| &row.dead);

    let mut decoder = vec![0f32; n * d];
    pool.chunks(&mut decoder, d, |latent, out| {
        main.add(latent, isa, &by_row, &main.values, out);
        dead.add(latent, isa, &by_dead, &dead.values, out);
    });
    let mut encoder = vec![0f32; n * d];
    pool.chunks(&mut encoder, d, |latent, out| {
        main.add(latent, isa, &centred, &main.dots, out);
        dead.add(latent, isa, &centred, &dead.dots, out);
    });
    let b_enc: Vec<f32> = (0..n).map(|latent| (main.sum(latent) + dead.sum(latent)) as f32).collect();
    let b_dec = bias_gradient(weights, &by_row, &b_enc);

    let counts = active.iter().map(|row| row.main.latents.len()).sum::<usize>();
    let least = active.iter().filter_map(|row| row.main.values.iter().copied().reduce(f32::min));
    let (sum, with) = least.fold((0.0, 0usize), |(sum, with), v| (sum + f64::from(v), with + 1));
    let fvu = lost / variance;
    let measured = Measured {
        fvu,
        aux: aux_loss,
        loss: fvu + aux.weight * aux_loss,
        l0: counts as f64 / rows as f64,
        fired: (0..n).map(|latent| (main.starts[latent + 1] - main.starts[latent]) as u32).collect(),
        least: if with > 0 { sum / with as f64 } else { 0.0 },
    };
    Ok((measured, Gradients { encoder, decoder, b_enc, b_dec }))
}

/// The active latents of every row.
fn encode(weights: &Weights, centred: &[f32], (k, aux): (usize, Aux<'_>), pool: &Pool) -> Result<Vec<Row>, TrainError> {
    let (d, n) = (weights.d, weights.width);
    let isa = Isa::best();
    let encoder = Matrix::from_f32(n, d, weights.encoder.clone(), isa)?;
    let mut activations = Activations::new();
    let needs = Needs { floats: true, blocks: false };
    let mut products = Vec::new();
    let mut active = vec![Row::default(); centred.len() / d];
    for (number, chunk) in centred.chunks(CHUNK * d).enumerate() {
        let rows = chunk.len() / d;
        activations.set_for(pool, chunk, d, isa, needs);
        products.resize(rows * n, 0.0);
        matmul(pool, &activations, &encoder, &mut products)?;
        let products = &products;
        pool.chunks(&mut active[number * CHUNK..][..rows], 1, |r, row| {
            let mut topk = TopK::new();
            let p: Vec<f32> = products[r * n..][..n].iter().zip(&weights.b_enc).map(|(p, b)| p + b).collect();
            let main = &mut row[0].main;
            main.latents.extend_from_slice(topk.of(isa, &p, k));
            main.values.extend(main.latents.iter().map(|&l| p[l as usize]));
            if aux.dead.is_empty() {
                return;
            }
            let of_dead: Vec<f32> = aux.dead.iter().map(|&l| p[l as usize]).collect();
            let dead = &mut row[0].dead;
            for &which in topk.of(isa, &of_dead, aux.k.min(of_dead.len())) {
                dead.latents.push(aux.dead[which as usize]);
                dead.values.push(of_dead[which as usize]);
            }
        });
    }
    Ok(active)
}

/// `sum |x - mean|²` over rows.
fn spread(x: &[f32], d: usize) -> f64 {
    let rows = x.len() / d;
    let mut mean = vec![0f64; d];
    x.chunks_exact(d).for_each(|row| row.iter().zip(&mut mean).for_each(|(&x, m)| *m += f64::from(x)));
    mean.iter_mut().for_each(|m| *m /= rows as f64);
    let of = |row: &[f32]| row.iter().zip(&mean).map(|(&x, m)| (f64::from(x) - m) * (f64::from(x) - m)).sum::<f64>();
    x.chunks_exact(d).map(of).sum::<f64>().max(f64::MIN_POSITIVE)
}

/// Sum of squares, row by row, so that threads change nothing.
fn square_sum(x: &[f32], d: usize, pool: &Pool) -> f64 {
    let mut sums = vec![0f64; x.len() / d];
    pool.chunks(&mut sums, 1, |r, sum| {
        sum[0] = x[r * d..(r + 1) * d].iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    });
    sums.iter().sum()
}

fn by_latent(active: &[Row], width: usize, of: impl Fn(&Row) -> &Active) -> ByLatent {
    let mut starts = vec![0usize; width + 1];
    for row in active {
        of(row).latents.iter().for_each(|&l| starts[l as usize + 1] += 1);
    }
    (0..width).for_each(|l| starts[l + 1] += starts[l]);
    let total = starts[width];
    let mut next = starts.clone();
    let mut all = ByLatent { starts, rows: vec![0; total], values: vec![0.0; total], dots: vec![0.0; total] };
    for (number, row) in active.iter().enumerate() {
        let row = of(row);
        for ((&latent, &value), &dot) in row.latents.iter().zip(&row.values).zip(&row.dots) {
            let at = &mut next[latent as usize];
            all.rows[*at] = number as u32;
            all.values[*at] = value;
            all.dots[*at] = dot;
            *at += 1;
        }
    }
    all
}

impl ByLatent {
    /// Adds the rows of a latent, each times its factor.
    fn add(&self, latent: usize, isa: Isa, rows: &[f32], factors: &[f32], out: &mut [f32]) {
        let span = self.starts[latent]..self.starts[latent + 1];
        if !span.is_empty() {
            sparse::gather_sum(isa, rows, &self.rows[span.clone()], &factors[span], out);
        }
    }

    /// Sum of the gradients by a latent's value.
    fn sum(&self, latent: usize) -> f64 {
        self.dots[self.starts[latent]..self.starts[latent + 1]].iter().map(|&v| f64::from(v)).sum()
    }
}

/// `b_dec` is added to what is decoded and taken off what is encoded.
fn bias_gradient(weights: &Weights, by_row: &[f32], b_enc: &[f32]) -> Vec<f32> {
    let d = weights.d;
    let mut sum = vec![0f64; d];
    by_row.chunks_exact(d).for_each(|row| row.iter().zip(&mut sum).for_each(|(&g, s)| *s += f64::from(g)));
    for (row, &by) in weights.encoder.chunks_exact(d).zip(b_enc).filter(|(_, by)| **by != 0.0) {
        row.iter().zip(&mut sum).for_each(|(&w, s)| *s -= f64::from(w) * f64::from(by));
    }
    sum.into_iter().map(|s| s as f32).collect()
}
