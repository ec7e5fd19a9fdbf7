//! Pixels to hidden states and logits.

use std::sync::{Arc, Mutex, PoisonError};

use meden_kernels::attention::{DenseShape, dense};
use meden_kernels::gemm::{Options, Panels, View, gemm};
use meden_kernels::ops::{self, Affine};
use meden_kernels::{Isa, Pool};

use super::config::{Head, VitConfig};
use super::load::VitFiles;
use super::params::{BlockPart, Params, Part};
use super::patches::unfold;
use super::position::position_taps;
use crate::acm::AcmModel;
use crate::error::VisionError;
use meden_kernels::grouped::GroupedPlan;

mod feed;

pub use feed::Tap;

/// Images whose states are held at once: more gain nothing and take memory.
const BATCH: usize = 8;

/// One vector for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The class token.
    Class,
    /// The mean of the patch tokens.
    Mean,
    /// One after the other.
    ClassAndMean,
}

/// What a forward pass leaves for those who look inside.
#[derive(Debug, Default)]
pub struct Trace {
    /// The input of each block and the output of the last one, before the last norm: (images x tokens, width) each.
    pub hidden: Vec<Vec<f32>>,
    /// What the class token attends to in each block, the mean over heads: (images, tokens) each.
    pub class_attention: Vec<Vec<f32>>,
}

/// Matrices of a block, packed.
struct BlockPanels {
    qkv: Panels,
    proj: Panels,
    fc1: Panels,
    fc2: Panels,
}

type Table = ((usize, usize), Arc<Vec<f32>>);

/// A vision transformer that runs.
pub struct Vit {
    config: VitConfig,
    isa: Isa,
    pool: Pool,
    /// Everything but the matrices below.
    params: Params,
    patch: Panels,
    blocks: Vec<BlockPanels>,
    /// Position tables made for other sizes.
    tables: Mutex<Vec<Table>>,
    /// Modules in the place of the dense feed-forwards.
    acm: Option<AcmModel>,
}

impl Vit {
    /// Reads the weights; 0 threads means one for each physical core.
    ///
    /// # Errors
    /// As [`VitFiles::params`].
    pub fn load(files: &VitFiles, threads: usize, isa: Option<Isa>) -> Result<Vit, VisionError> {
        Ok(Vit::new(files.config.clone(), files.params()?, Pool::new(threads), isa.unwrap_or_else(Isa::best)))
    }

    /// A model of weights that are here.
    pub fn new(config: VitConfig, mut params: Params, pool: Pool, isa: Isa) -> Vit {
        let (d, mlp) = (config.width, config.mlp);
        let mut pack = |part, cols| Panels::of(&pool, View::new(&params.remove(part), cols).transposed());
        let patch = pack(Part::PatchWeight, config.patch_values());
        let mut block = |layer| BlockPanels {
            qkv: pack(Part::Block(layer, BlockPart::QkvWeight), d),
            proj: pack(Part::Block(layer, BlockPart::ProjWeight), d),
            fc1: pack(Part::Block(layer, BlockPart::Fc1Weight), d),
            fc2: pack(Part::Block(layer, BlockPart::Fc2Weight), mlp),
        };
        let blocks = (0..config.layers).map(&mut block).collect();
        Vit { config, isa, pool, params, patch, blocks, tables: Mutex::default(), acm: None }
    }

    /// The shape.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }

    /// Threads that take part.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes of packed weights.
    pub fn weight_bytes(&self) -> usize {
        let blocks = self.blocks.iter().flat_map(|b| [&b.qkv, &b.proj, &b.fc1, &b.fc2]);
        blocks.chain([&self.patch]).map(Panels::bytes).sum::<usize>() + self.params.len() * 4
    }

    /// Tokens of an image of `size` (rows, columns) pixels.
    ///
    /// # Errors
    /// A size that holds no patch.
    pub fn tokens(&self, size: (usize, usize)) -> Result<usize, VisionError> {
        let patches = (size.0 / self.config.patch) * (size.1 / self.config.patch);
        if patches == 0 {
            let why = format!("{} x {} pixels hold no patch of {}", size.0, size.1, self.config.patch);
            return Err(VisionError::input("image size", why));
        }
        Ok(self.config.prefix_tokens() + patches)
    }

    /// Hidden states after the last norm (before it where the model norms after pooling): (images x tokens, width).
    /// `pixels`: (images, 3, rows, columns), normalised.
    ///
    /// # Errors
    /// A length that is no whole number of images, or images smaller than a patch.
    pub fn hidden(
        &self,
        pixels: &[f32],
        size: (usize, usize),
        trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>, VisionError> {
        let image = self.check_pixels(pixels, size)?;
        if let Some(trace) = trace {
            return Ok(self.some(pixels, size, Some(trace), None));
        }
        Ok(pixels.chunks(BATCH * image).flat_map(|pixels| self.some(pixels, size, None, None)).collect())
    }

    /// Values of an image, after pixels were held against it.
    fn check_pixels(&self, pixels: &[f32], size: (usize, usize)) -> Result<usize, VisionError> {
        self.tokens(size)?;
        let image = 3 * size.0 * size.1;
        if pixels.is_empty() || !pixels.len().is_multiple_of(image) {
            let why = format!("{} values are no whole number of images of 3 x {} x {}", pixels.len(), size.0, size.1);
            return Err(VisionError::input("pixels", why));
        }
        Ok(image)
    }

    /// One vector for each image: (images, width) or (images, 2 x width).
    ///
    /// # Errors
    /// As [`Vit::hidden`], or a class token asked of a model that has none.
    pub fn embed(&self, pixels: &[f32], size: (usize, usize), pooling: Pooling) -> Result<Vec<f32>, VisionError> {
        if pooling != Pooling::Mean && !self.config.class_token {
            return Err(VisionError::input("pooling", "this model has no class token; use the mean"));
        }
        let hidden = self.hidden(pixels, size, None)?;
        let d = self.config.width;
        let mut out = Vec::new();
        for image in hidden.chunks_exact(self.tokens(size)? * d) {
            if pooling != Pooling::Mean {
                out.extend_from_slice(&image[..d]);
            }
            if pooling != Pooling::Class {
                out.extend(self.mean(image));
            }
        }
        if self.config.norm_after_pool && pooling == Pooling::Mean {
            return Ok(self.norm(&out));
        }
        Ok(out)
    }

    /// Logits (images, classes).
    ///
    /// # Errors
    /// As [`Vit::hidden`], or a model without a classifier.
    pub fn logits(&self, pixels: &[f32], size: (usize, usize)) -> Result<Vec<f32>, VisionError> {
        let d = self.config.width;
        let head = (Part::HeadWeight, Part::HeadBias);
        let pooling = match self.config.head {
            Head::None => {
                let why = "this model has no classifier: tune one first, or use its embeddings";
                return Err(VisionError::input("model", why));
            }
            Head::Class => Pooling::Class,
            Head::Mean => Pooling::Mean,
            Head::ClassAndMean => Pooling::ClassAndMean,
            Head::Distilled => {
                let hidden = self.hidden(pixels, size, None)?;
                let step = self.tokens(size)? * d;
                let token =
                    |at: usize| hidden.chunks_exact(step).flat_map(|i| i[at * d..][..d].to_vec()).collect::<Vec<_>>();
                let second = (Part::DistilledHeadWeight, Part::DistilledHeadBias);
                let (a, b) = (self.classify(&token(0), head), self.classify(&token(1), second));
                return Ok(a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect());
            }
        };
        Ok(self.classify(&self.embed(pixels, size, pooling)?, head))
    }

    fn classify(&self, x: &[f32], (weight, bias): (Part, Part)) -> Vec<f32> {
        let (weight, bias) = (self.params.get(weight), self.params.get(bias));
        let cols = self.config.head_width();
        let mut out = Vec::with_capacity(x.len() / cols * bias.len());
        for x in x.chunks_exact(cols) {
            let dot = |w: &[f32]| w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
            out.extend(weight.chunks_exact(cols).zip(bias).map(|(w, b)| (dot(w) + f64::from(*b)) as f32));
        }
        out
    }

    /// The mean of an image's patch tokens.
    fn mean(&self, image: &[f32]) -> Vec<f32> {
        let d = self.config.width;
        let patches = &image[self.config.prefix_tokens() * d..];
        let mut sums = vec![0f64; d];
        for row in patches.chunks_exact(d) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
        }
        let count = (patches.len() / d) as f64;
        sums.into_iter().map(|s| (s / count) as f32).collect()
    }

    fn norm(&self, x: &[f32]) -> Vec<f32> {
        let affine = Affine { weight: self.params.get(Part::NormWeight), bias: self.params.get(Part::NormBias) };
        let mut out = vec![0.0; x.len()];
        ops::layer_norm(&self.pool, self.isa, x, affine, self.config.eps, &mut out);
        out
    }

    /// The position table for patches of so many rows and columns, class position and all.
    fn table(&self, grid: (usize, usize)) -> Arc<Vec<f32>> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = tables.iter().find(|(size, _)| *size == grid) {
            return Arc::clone(table);
        }
        let (d, own) = (self.config.width, self.params.get(Part::Positions));
        let (prefix, patches) = own.split_at(self.config.prefix_positions * d);
        let mut table = prefix.to_vec();
        table.resize(prefix.len() + grid.0 * grid.1 * d, 0.0);
        position_taps(self.config.grid(), grid, self.config.antialias).apply(patches, d, &mut table[prefix.len()..]);
        let table = Arc::new(table);
        tables.push((grid, Arc::clone(&table)));
        table
    }

    /// Patches and the tokens before them: (images x tokens, width).
    fn tokens_of(&self, pixels: &[f32], size: (usize, usize)) -> Vec<f32> {
        let c = &self.config;
        let grid = (size.0 / c.patch, size.1 / c.patch);
        let (patches, d, values) = (grid.0 * grid.1, c.width, c.patch_values());
        let images = pixels.len() / (3 * size.0 * size.1);
        let table = self.table(grid);
        let (prefix_table, patch_table) = table.split_at(c.prefix_positions * d);
        let mut unfolded = vec![0.0; images * patches * values];
        self.pool.chunks(&mut unfolded, patches * values, |image, out| {
            unfold(&pixels[image * 3 * size.0 * size.1..][..3 * size.0 * size.1], size, c.patch, out);
        });
        let mut embedded = vec![0.0; images * patches * d];
        let bias = self.params.get(Part::PatchBias);
        let finish = |row: usize, col: usize, out: &mut [f32]| {
            let position = &patch_table[row % patches * d + col..];
            for ((o, b), p) in out.iter_mut().zip(&bias[col..]).zip(position) {
                *o = *o + b + p;
            }
        };
        let options = Options { finish: Some(&finish), ..Options::default() };
        gemm(&self.pool, self.isa, View::new(&unfolded, values), &self.patch, &mut embedded, options);
        let before =
            [Part::ClassToken, Part::DistilledToken, Part::Registers].map(|part| self.params.get(part)).concat();
        let mut tokens = Vec::with_capacity(images * (before.len() + patches * d));
        for image in embedded.chunks_exact(patches * d) {
            let from = tokens.len();
            tokens.extend_from_slice(&before);
            tokens[from..].iter_mut().zip(prefix_table).for_each(|(t, p)| *t += p);
            tokens.extend_from_slice(image);
        }
        tokens
    }

    fn some(
        &self,
        pixels: &[f32],
        size: (usize, usize),
        mut trace: Option<&mut Trace>,
        mut tap: Option<&mut Tap>,
    ) -> Vec<f32> {
        let mut x = self.tokens_of(pixels, size);
        let images = pixels.len() / (3 * size.0 * size.1);
        let c = &self.config;
        let tokens = x.len() / c.width / images;
        let shape = DenseShape { images, tokens, heads: c.heads, head_dim: c.width / c.heads };
        let rows = shape.rows();
        let mut room = Room {
            normed: vec![0.0; rows * c.width],
            wide: vec![0.0; rows * c.mlp.max(3 * c.width)],
            branch: vec![0.0; rows * c.width],
            plan: GroupedPlan::new(),
        };
        for layer in 0..c.layers {
            if let Some(trace) = &mut trace {
                trace.hidden.push(x.clone());
            }
            let mut first = trace.is_some().then(|| vec![0.0; images * c.heads * tokens]);
            self.attend(layer, shape, &mut x, &mut room, first.as_deref_mut());
            self.feed_forward(layer, &mut x, &mut room, tap.as_deref_mut());
            if let (Some(trace), Some(first)) = (&mut trace, first) {
                trace.class_attention.push(mean_over_heads(&first, c.heads, tokens));
            }
        }
        if let Some(trace) = trace {
            trace.hidden.push(x.clone());
        }
        if c.norm_after_pool { x } else { self.norm(&x) }
    }

    /// Attention, and the norm after it.
    fn attend(&self, layer: usize, shape: DenseShape, x: &mut [f32], room: &mut Room, first: Option<&mut [f32]>) {
        let (pool, isa, c) = (&self.pool, self.isa, &self.config);
        let (d, rows) = (c.width, shape.rows());
        let part = |part| self.params.block(layer, part);
        let panels = &self.blocks[layer];
        let affine = |weight, bias| Affine { weight: part(weight), bias: part(bias) };
        let plain = |bias: BlockPart| {
            let bias = part(bias);
            move |_: usize, col: usize, out: &mut [f32]| {
                bias.get(col..).into_iter().flatten().zip(out).for_each(|(b, o)| *o += b);
            }
        };
        ops::layer_norm(pool, isa, x, affine(BlockPart::Norm1Weight, BlockPart::Norm1Bias), c.eps, &mut room.normed);
        let qkv = &mut room.wide[..rows * 3 * d];
        let bias = plain(BlockPart::QkvBias);
        let options = Options { finish: Some(&bias), ..Options::default() };
        gemm(pool, isa, View::new(&room.normed, d), &panels.qkv, qkv, options);
        dense(pool, isa, shape, qkv, &mut room.branch, first);
        self.branch((&room.branch, d), &panels.proj, (part(BlockPart::ProjBias), part(BlockPart::Scale1)), x);
        ops::layer_norm(pool, isa, x, affine(BlockPart::Norm2Weight, BlockPart::Norm2Bias), c.eps, &mut room.normed);
    }

    /// `x <- x + (input Wᵀ + bias) * scale`.
    fn branch(&self, (input, cols): (&[f32], usize), weight: &Panels, (bias, scale): (&[f32], &[f32]), x: &mut [f32]) {
        let view = View::new(input, cols);
        if scale.is_empty() {
            let finish = |_: usize, col: usize, out: &mut [f32]| {
                out.iter_mut().zip(&bias[col..]).for_each(|(o, b)| *o += b);
            };
            let options = Options { accumulate: true, finish: Some(&finish) };
            return gemm(&self.pool, self.isa, view, weight, x, options);
        }
        let mut out = vec![0.0; x.len()];
        let finish = |_: usize, col: usize, out: &mut [f32]| {
            for ((o, b), s) in out.iter_mut().zip(&bias[col..]).zip(&scale[col..]) {
                *o = (*o + b) * s;
            }
        };
        gemm(&self.pool, self.isa, view, weight, &mut out, Options { finish: Some(&finish), ..Options::default() });
        ops::add(&self.pool, self.isa, x, &out);
    }
}

/// Buffers of a forward pass.
struct Room {
    /// (rows, width).
    normed: Vec<f32>,
    /// (rows, 3 x width) or (rows, mlp).
    wide: Vec<f32>,
    /// (rows, width).
    branch: Vec<f32>,
    plan: GroupedPlan,
}

/// `first` (images, heads, tokens) to (images, tokens).
fn mean_over_heads(first: &[f32], heads: usize, tokens: usize) -> Vec<f32> {
    let one = |image: &[f32]| -> Vec<f32> {
        (0..tokens).map(|t| image.iter().skip(t).step_by(tokens).sum::<f32>() / heads as f32).collect()
    };
    first.chunks_exact(heads * tokens).flat_map(one).collect()
}
