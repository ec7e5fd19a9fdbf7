//! A transformer block, forward and back, as one step with gradients of its own.
//!
//! Kept for the way back, in values of a token: input D, queries, keys and values 3 D, attention's output D (only where
//! the block is trained), the stream after attention D, the feed-forward's product before GELU (4 D). What is cheap is
//! made again: norms from two numbers a row, GELU, probabilities from queries and keys.

use meden_kernels::attention::{DenseShape, dense, dense_backward};
use meden_kernels::gemm::{Options, Panels, View, gemm};
use meden_kernels::ops::{self, Affine, NormStats};
use meden_kernels::{Isa, Pool};
use meden_vision::vit::{BlockPart, Params, Part, VitConfig};

use super::noise::{Branch, Noise};

/// Where a step computes, and its reused buffers.
pub(super) struct Room {
    pub(super) pool: Pool,
    pub(super) isa: Isa,
    pub(super) panels: Panels,
    normed: Vec<f32>,
    branch: Vec<f32>,
    wide: Vec<f32>,
    wide_gradient: Vec<f32>,
}

impl Room {
    pub(super) fn new(pool: Pool, isa: Isa) -> Room {
        let (normed, branch, wide, wide_gradient) = Default::default();
        Room { pool, isa, panels: Panels::new(), normed, branch, wide, wide_gradient }
    }

    /// y = x Wᵀ for a weight (outputs, `cols`), each row ended by `finish`.
    pub(super) fn linear(&mut self, (x, cols): (&[f32], usize), weight: &[f32], y: &mut [f32], options: Options) {
        self.panels.pack(&self.pool, View::new(weight, cols).transposed());
        gemm(&self.pool, self.isa, View::new(x, cols), &self.panels, y, options);
    }

    /// dx = dy W for a weight (`outputs`, cols); set, not added.
    pub(super) fn back(&mut self, (dy, outputs): (&[f32], usize), weight: &[f32], dx: &mut [f32]) {
        self.panels.pack(&self.pool, View::new(weight, weight.len() / outputs));
        gemm(&self.pool, self.isa, View::new(dy, outputs), &self.panels, dx, Options::default());
    }

    /// dW += dyᵀ x for dy (rows, `outputs`), x (rows, `cols`).
    pub(super) fn weight_gradient(
        &mut self,
        (dy, outputs): (&[f32], usize),
        (x, cols): (&[f32], usize),
        dw: &mut [f32],
    ) {
        self.panels.pack(&self.pool, View::new(x, cols));
        let add = Options { accumulate: true, finish: None };
        gemm(&self.pool, self.isa, View::new(dy, outputs).transposed(), &self.panels, dw, add);
    }
}

/// What a block keeps for the way back.
pub(super) struct BlockTape {
    pub(super) shape: DenseShape,
    x: Vec<f32>,
    norm1: NormStats,
    qkv: Vec<f32>,
    /// Empty where no matrix of the block is trained.
    attended: Vec<f32>,
    middle: Vec<f32>,
    norm2: NormStats,
    hidden: Vec<f32>,
    wanted: Wanted,
}

/// What of a block is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Any weight that is no low-rank addition.
    pub(super) own: bool,
    /// Matrices or the factors of layer scale: attention's output is needed for them.
    pub(super) matrices: bool,
    /// Low-rank additions.
    pub(super) adapters: bool,
}

impl BlockTape {
    /// Bytes of kept activations.
    pub(super) fn bytes(&self) -> usize {
        let norms = [&self.norm1, &self.norm2].map(|n| n.mean.len() + n.inverse.len());
        let vectors = [&self.x, &self.qkv, &self.attended, &self.middle, &self.hidden].map(Vec::len);
        4 * (vectors.iter().sum::<usize>() + norms.iter().sum::<usize>())
    }
}

/// How a block is run.
pub(super) struct BlockRun<'a> {
    pub(super) config: &'a VitConfig,
    pub(super) params: &'a Params,
    pub(super) layer: usize,
    pub(super) noise: Noise,
    pub(super) adapter_scale: f32,
}

impl BlockRun<'_> {
    pub(super) fn part(&self, part: BlockPart) -> &[f32] {
        self.params.block(self.layer, part)
    }

    fn affine(&self, weight: BlockPart, bias: BlockPart) -> Affine<'_> {
        Affine { weight: self.part(weight), bias: self.part(bias) }
    }

    /// The block's output and, where `first` is given, the class token's attention (images, heads, tokens) in it.
    pub(super) fn forward(
        &self,
        room: &mut Room,
        shape: DenseShape,
        x: Vec<f32>,
        wanted: Wanted,
        first: Option<&mut [f32]>,
    ) -> (Vec<f32>, BlockTape) {
        let (d, mlp, rows, eps) = (self.config.width, self.config.mlp, shape.rows(), self.config.eps);
        let mut normed = sized(&mut room.normed, rows * d);
        let norm1 = ops::layer_norm_stats(&room.pool, room.isa, &x, d, eps);
        let affine = self.affine(BlockPart::Norm1Weight, BlockPart::Norm1Bias);
        ops::layer_norm_again(&room.pool, room.isa, &x, affine, &norm1, &mut normed);
        let mut qkv = vec![0.0; rows * 3 * d];
        let bias = self.part(BlockPart::QkvBias);
        let add = |_: usize, col: usize, out: &mut [f32]| {
            bias.get(col..).into_iter().flatten().zip(out).for_each(|(b, o)| *o += b);
        };
        let options = Options { accumulate: false, finish: Some(&add) };
        room.linear((&normed, d), self.part(BlockPart::QkvWeight), &mut qkv, options);
        self.adapt(room, &normed, &mut qkv);
        let mut attended = if wanted.matrices { vec![0.0; rows * d] } else { sized(&mut room.branch, rows * d) };
        dense(&room.pool, room.isa, shape, &qkv, &mut attended, first);
        let mut middle = x.clone();
        let parts = [BlockPart::ProjWeight, BlockPart::ProjBias, BlockPart::Scale1];
        self.branch(room, (&attended, d), parts, (Branch::Attention, shape.images), &mut middle);
        if !wanted.matrices {
            room.branch = std::mem::take(&mut attended);
        }
        let norm2 = ops::layer_norm_stats(&room.pool, room.isa, &middle, d, eps);
        let affine = self.affine(BlockPart::Norm2Weight, BlockPart::Norm2Bias);
        ops::layer_norm_again(&room.pool, room.isa, &middle, affine, &norm2, &mut normed);
        let mut hidden = vec![0.0; rows * mlp];
        let bias = self.part(BlockPart::Fc1Bias);
        let add = |_: usize, col: usize, out: &mut [f32]| out.iter_mut().zip(&bias[col..]).for_each(|(o, b)| *o += b);
        let options = Options { accumulate: false, finish: Some(&add) };
        room.linear((&normed, d), self.part(BlockPart::Fc1Weight), &mut hidden, options);
        room.normed = normed;
        let mut wide = sized(&mut room.wide, rows * mlp);
        ops::gelu(&room.pool, room.isa, &hidden, &mut wide);
        let mut out = middle.clone();
        let parts = [BlockPart::Fc2Weight, BlockPart::Fc2Bias, BlockPart::Scale2];
        self.branch(room, (&wide, mlp), parts, (Branch::FeedForward, shape.images), &mut out);
        room.wide = wide;
        (out, BlockTape { shape, x, norm1, qkv, attended, middle, norm2, hidden, wanted })
    }

    /// `out <- out + (input Wᵀ + bias) * scale`, weight, bias and scale as named; nothing is added for images that leave
    /// the branch out.
    fn branch(
        &self,
        room: &mut Room,
        input: (&[f32], usize),
        [weight, bias, scale]: [BlockPart; 3],
        (branch, images): (Branch, usize),
        out: &mut [f32],
    ) {
        let (bias, scale) = (self.part(bias), self.part(scale));
        let drops = self.noise.paths(self.layer, self.config.layers, branch, images);
        if scale.is_empty() && drops.is_none() {
            let add =
                |_: usize, col: usize, out: &mut [f32]| out.iter_mut().zip(&bias[col..]).for_each(|(o, b)| *o += b);
            return room.linear(input, self.part(weight), out, Options { accumulate: true, finish: Some(&add) });
        }
        let mut branch = vec![0.0; out.len()];
        let add = |_: usize, col: usize, out: &mut [f32]| {
            out.iter_mut().zip(&bias[col..]).for_each(|(o, b)| *o += b);
            out.iter_mut().zip(scale.get(col..).unwrap_or_default()).for_each(|(o, s)| *o *= s);
        };
        room.linear(input, self.part(weight), &mut branch, Options { accumulate: false, finish: Some(&add) });
        if let Some(factors) = drops {
            scale_images(&mut branch, &factors);
        }
        ops::add(&room.pool, room.isa, out, &branch);
    }

    /// From the gradient of the output to that of the input, in place; weights' gradients are added to `gradients` where
    /// the block was trained.
    pub(super) fn backward(&self, room: &mut Room, tape: BlockTape, d: &mut [f32], gradients: &mut Params) {
        let (width, mlp, rows) = (self.config.width, self.config.mlp, tape.shape.rows());
        let wanted = tape.wanted;
        let trained = wanted.own;
        let images = tape.shape.images;
        // The feed-forward.
        let dropped = self.dropped(d, Branch::FeedForward, images);
        let inner = dropped.as_deref().unwrap_or(d);
        let scaled = self.scaled(room, inner, BlockPart::Scale2);
        let mut wide = sized(&mut room.wide, rows * mlp);
        if trained {
            ops::gelu(&room.pool, room.isa, &tape.hidden, &mut wide);
            let parts = [BlockPart::Fc2Weight, BlockPart::Fc2Bias, BlockPart::Scale2];
            self.branch_gradients(room, inner, (&wide, mlp), parts, gradients);
        }
        room.back((scaled.as_deref().unwrap_or(inner), width), self.part(BlockPart::Fc2Weight), &mut wide);
        ops::gelu_backward(&room.pool, room.isa, &tape.hidden, &mut wide);
        drop(tape.hidden);
        let mut normed = sized(&mut room.normed, rows * width);
        if trained {
            let affine = self.affine(BlockPart::Norm2Weight, BlockPart::Norm2Bias);
            ops::layer_norm_again(&room.pool, room.isa, &tape.middle, affine, &tape.norm2, &mut normed);
            let parts = (BlockPart::Fc1Weight, BlockPart::Fc1Bias);
            self.linear_gradients(room, (&wide, mlp), &normed, parts, gradients);
        }
        room.back((&wide, mlp), self.part(BlockPart::Fc1Weight), &mut normed);
        room.wide = wide;
        let norm = (BlockPart::Norm2Weight, BlockPart::Norm2Bias);
        self.norm_backward(room, (&normed, &tape.middle, &tape.norm2), norm, d, trained.then_some(&mut *gradients));
        drop(tape.middle);
        // Attention.
        let dropped = self.dropped(d, Branch::Attention, images);
        let inner = dropped.as_deref().unwrap_or(d);
        let scaled = self.scaled(room, inner, BlockPart::Scale1);
        if trained {
            let parts = [BlockPart::ProjWeight, BlockPart::ProjBias, BlockPart::Scale1];
            self.branch_gradients(room, inner, (&tape.attended, width), parts, gradients);
        }
        room.back((scaled.as_deref().unwrap_or(inner), width), self.part(BlockPart::ProjWeight), &mut normed);
        let mut d_qkv = sized(&mut room.wide_gradient, rows * 3 * width);
        dense_backward(&room.pool, room.isa, tape.shape, &tape.qkv, &normed, &mut d_qkv);
        if trained || wanted.adapters {
            let affine = self.affine(BlockPart::Norm1Weight, BlockPart::Norm1Bias);
            ops::layer_norm_again(&room.pool, room.isa, &tape.x, affine, &tape.norm1, &mut normed);
            let parts = (BlockPart::QkvWeight, BlockPart::QkvBias);
            self.linear_gradients(room, (&d_qkv, 3 * width), &normed, parts, gradients);
        }
        let added = self.adapt_back(room, &normed, &d_qkv, wanted.adapters.then_some(&mut *gradients));
        room.back((&d_qkv, 3 * width), self.part(BlockPart::QkvWeight), &mut normed);
        if let Some(added) = added {
            ops::add(&room.pool, room.isa, &mut normed, &added);
        }
        room.wide_gradient = d_qkv;
        let norm = (BlockPart::Norm1Weight, BlockPart::Norm1Bias);
        self.norm_backward(room, (&normed, &tape.x, &tape.norm1), norm, d, trained.then_some(gradients));
        room.normed = normed;
    }

    /// `d` without the images that left a branch out, or nothing where none did.
    fn dropped(&self, d: &[f32], branch: Branch, images: usize) -> Option<Vec<f32>> {
        self.noise.paths(self.layer, self.config.layers, branch, images).map(|factors| {
            let mut out = d.to_vec();
            scale_images(&mut out, &factors);
            out
        })
    }

    /// `d * scale`, or nothing where the model has no layer scale.
    fn scaled(&self, room: &Room, d: &[f32], scale: BlockPart) -> Option<Vec<f32>> {
        let factors = self.part(scale);
        (!factors.is_empty()).then(|| {
            let mut out = d.to_vec();
            ops::scale_columns(&room.pool, room.isa, &mut out, factors);
            out
        })
    }

    /// Gradients of a residual branch `(x Wᵀ + b) * s`. With G = dᵀ x and g = the column sums of d: dW = s G, db = s g,
    /// ds = rows of (W * G) summed + b g, so the branch's output need not be kept.
    fn branch_gradients(
        &self,
        room: &mut Room,
        d: &[f32],
        (x, cols): (&[f32], usize),
        [weight, bias, scale]: [BlockPart; 3],
        gradients: &mut Params,
    ) {
        if self.part(scale).is_empty() {
            return self.linear_gradients(room, (d, self.config.width), x, (weight, bias), gradients);
        }
        let width = self.config.width;
        let wide = [weight, scale].iter().any(|p| gradients.contains(Part::Block(self.layer, *p)));
        let mut product = vec![0.0; if wide { width * cols } else { 0 }];
        if wide {
            room.weight_gradient((d, width), (x, cols), &mut product);
        }
        let mut sums = vec![0.0; width];
        ops::add_column_sums(&room.pool, room.isa, d, &mut sums);
        let (w, b, s) = (self.part(weight), self.part(bias), self.part(scale));
        let rows = w.chunks_exact(cols).zip(product.chunks_exact(cols));
        let dot = |(w, g): (&[f32], &[f32])| w.iter().zip(g).map(|(w, g)| f64::from(*w) * f64::from(*g)).sum::<f64>();
        let products: Vec<f64> = rows.map(dot).collect();
        add_to(gradients, self.layer, scale, |i| (products[i] + f64::from(b[i]) * f64::from(sums[i])) as f32);
        add_to(gradients, self.layer, bias, |i| sums[i] * s[i]);
        add_to(gradients, self.layer, weight, |i| product[i] * s[i / cols]);
    }

    /// Gradients of `x Wᵀ + b`, from d (rows, `outputs`).
    fn linear_gradients(
        &self,
        room: &mut Room,
        (d, outputs): (&[f32], usize),
        x: &[f32],
        (weight, bias): (BlockPart, BlockPart),
        gradients: &mut Params,
    ) {
        let cols = self.part(weight).len() / outputs;
        if let Some(dw) = gradients.get_mut(Part::Block(self.layer, weight)) {
            room.weight_gradient((d, outputs), (x, cols), dw);
        }
        if let Some(db) = gradients.get_mut(Part::Block(self.layer, bias)) {
            ops::add_column_sums(&room.pool, room.isa, d, db);
        }
    }

    fn norm_backward(
        &self,
        room: &Room,
        (dy, x, stats): (&[f32], &[f32], &NormStats),
        (weight, bias): (BlockPart, BlockPart),
        dx: &mut [f32],
        gradients: Option<&mut Params>,
    ) {
        let scale = (self.part(weight), stats);
        let Some(gradients) = gradients else {
            return ops::layer_norm_backward(&room.pool, room.isa, (dy, x), scale, dx, None);
        };
        let (mut dw, mut db) = (vec![0.0; self.config.width], vec![0.0; self.config.width]);
        ops::layer_norm_backward(&room.pool, room.isa, (dy, x), scale, dx, Some((&mut dw, &mut db)));
        add_to(gradients, self.layer, weight, |i| dw[i]);
        add_to(gradients, self.layer, bias, |i| db[i]);
    }
}

/// Takes a buffer out of its place, in the size that is needed. What it holds is overwritten by whoever takes it.
fn sized(buffer: &mut Vec<f32>, len: usize) -> Vec<f32> {
    let mut taken = std::mem::take(buffer);
    taken.resize(len, 0.0);
    taken
}

/// Multiplies each image's rows by its factor.
fn scale_images(x: &mut [f32], factors: &[f32]) {
    let one = x.len() / factors.len().max(1);
    for (rows, factor) in x.chunks_exact_mut(one.max(1)).zip(factors) {
        rows.iter_mut().for_each(|v| *v *= factor);
    }
}

fn add_to(gradients: &mut Params, layer: usize, part: BlockPart, value: impl Fn(usize) -> f32) {
    if let Some(to) = gradients.get_mut(Part::Block(layer, part)) {
        to.iter_mut().enumerate().for_each(|(i, t)| *t += value(i));
    }
}
