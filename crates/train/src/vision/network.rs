//! The whole network, forward with what the way back needs, and back.

use std::collections::BTreeSet;

use meden_kernels::attention::DenseShape;
use meden_kernels::ops::{self, Affine, NormStats};
use meden_kernels::{Isa, Pool};
use meden_vision::VisionError;
use meden_vision::vit::{BlockPart, Params, Part, VitConfig};

use super::block::{BlockRun, BlockTape, Room, Wanted};
use super::embed::{self, EmbedTape};
use super::error::TrainError;
use super::noise::Noise;

/// The weights that a step trains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trained(pub BTreeSet<Part>);

impl Trained {
    /// Those of a model's weights that `wanted` names.
    pub fn of(config: &VitConfig, wanted: impl Fn(Part) -> bool) -> Trained {
        Trained(config.parts().into_iter().filter(|p| wanted(*p)).collect())
    }

    /// Whether any weight of a block is trained.
    pub fn block(&self, layer: usize) -> bool {
        self.0.iter().any(|p| p.layer() == Some(layer))
    }

    /// What of a block is trained.
    pub(super) fn wanted(&self, layer: usize) -> Wanted {
        let any = |f: &dyn Fn(BlockPart) -> bool| {
            self.0.iter().any(|p| matches!(p, Part::Block(l, part) if *l == layer && f(*part)))
        };
        let wide = |p: BlockPart| p.is_matrix() || matches!(p, BlockPart::Scale1 | BlockPart::Scale2);
        Wanted { own: any(&|p| !p.is_adapter()), matrices: any(&wide), adapters: any(&BlockPart::is_adapter) }
    }

    /// Whether matrices of a block are trained: what its gradients cost.
    pub fn matrices(&self, layer: usize) -> bool {
        self.wanted(layer).matrices
    }

    /// Whether any weight that makes tokens of pixels is trained.
    pub fn embedding(&self) -> bool {
        let parts = [Part::PatchWeight, Part::PatchBias, Part::ClassToken, Part::DistilledToken, Part::Registers];
        parts.iter().chain([&Part::Positions]).any(|p| self.0.contains(p))
    }

    /// The lowest block whose input needs a gradient or whose weights do: everything before it keeps nothing and is not
    /// gone back through. The number of blocks where none does.
    pub fn first(&self, layers: usize) -> usize {
        if self.embedding() { 0 } else { (0..layers).find(|l| self.block(*l)).unwrap_or(layers) }
    }
}

/// What is seen after a block has run.
pub struct Observed<'a> {
    /// Block.
    pub layer: usize,
    /// Images.
    pub images: usize,
    /// Tokens of each image that entered the block.
    pub tokens: usize,
    /// Tokens before the patches, the class token first.
    pub prefix: usize,
    /// The class token before and after the block: (images, width) each.
    pub class: (&'a [f32], &'a [f32]),
    /// What the class token attends to, mean over heads (images, tokens).
    pub attention: &'a [f32],
}

/// Tokens of each image that go on, ascending, the tokens before the patches among them; `None` keeps all.
pub type Kept = Option<Vec<Vec<usize>>>;

/// Called after each block.
pub type AfterBlock<'a> = dyn FnMut(Observed) -> Result<Kept, TrainError> + 'a;

/// What a forward pass keeps.
pub struct Tape {
    /// The class token after the last norm: (images, width).
    pub class: Vec<f32>,
    /// Tokens that entered each block.
    pub tokens: Vec<usize>,
    last: Vec<f32>,
    norm: NormStats,
    embed: EmbedTape,
    blocks: Vec<Option<BlockTape>>,
    /// Tokens of each image that left each block, where some were dropped.
    pub kept: Vec<Kept>,
    /// Tokens after the last block.
    left: usize,
    noise: Noise,
}

impl Tape {
    /// Bytes of activations that are kept for the way back.
    pub fn bytes(&self) -> usize {
        self.embed.bytes() + self.blocks.iter().flatten().map(BlockTape::bytes).sum::<usize>()
    }
}

/// A vision transformer with gradients.
pub struct Network {
    /// The shape.
    pub config: VitConfig,
    /// The weights.
    pub params: Params,
    /// What the low-rank additions are multiplied by.
    pub adapter_scale: f32,
    /// What is left out at random in the next forward pass.
    pub noise: Noise,
    room: Room,
}

impl Network {
    /// A network of weights that are here.
    ///
    /// # Errors
    /// A model without a class token: all methods here read it.
    pub fn new(config: VitConfig, params: Params, pool: Pool, isa: Isa) -> Result<Network, TrainError> {
        if !config.class_token || config.norm_after_pool {
            let why = "this model pools its patches and has no class token to read; tuning needs one";
            return Err(TrainError::setting("model", why));
        }
        let room = Room::new(pool, isa);
        Ok(Network { config, params, adapter_scale: 1.0, noise: Noise::default(), room })
    }

    /// Threads and instruction set.
    pub(super) fn place(&self) -> (&Pool, Isa) {
        (&self.room.pool, self.room.isa)
    }

    /// Runs forward. `pixels`: (images, 3, rows, columns), normalised.
    ///
    /// # Errors
    /// Pixels that do not fit, or what `after` answers.
    pub fn forward(
        &mut self,
        (pixels, size): (&[f32], (usize, usize)),
        trained: &Trained,
        mut after: Option<&mut AfterBlock>,
    ) -> Result<Tape, TrainError> {
        let Network { config, params, room, noise, adapter_scale } = self;
        let (noise, adapter_scale) = (*noise, *adapter_scale);
        let image = 3 * size.0 * size.1;
        if size.0 < config.patch || size.1 < config.patch || pixels.is_empty() || !pixels.len().is_multiple_of(image) {
            let why = format!("{} values as images of {} x {} pixels", pixels.len(), size.0, size.1);
            return Err(VisionError::Input { what: "pixels", why }.into());
        }
        let (d, images, prefix) = (config.width, pixels.len() / image, config.prefix_tokens());
        let first = trained.first(config.layers);
        let (mut x, embed) = embed::forward(room, (config, params), (pixels, size), trained.embedding());
        let (mut blocks, mut kept, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        for layer in 0..config.layers {
            let n = x.len() / d / images;
            tokens.push(n);
            let shape = DenseShape { images, tokens: n, heads: config.heads, head_dim: d / config.heads };
            let run = BlockRun { config, params, layer, noise, adapter_scale };
            let before = after.is_some().then(|| class_rows(&x, d, n));
            let mut attention = vec![0.0; if after.is_some() { images * config.heads * n } else { 0 }];
            let wanted = after.is_some().then_some(attention.as_mut_slice());
            let (out, tape) = run.forward(room, shape, x, trained.wanted(layer), wanted);
            blocks.push((layer >= first).then_some(tape));
            let mut keep = None;
            if let (Some(after), Some(before)) = (&mut after, &before) {
                let observed = Observed {
                    layer,
                    images,
                    tokens: n,
                    prefix,
                    class: (before, &class_rows(&out, d, n)),
                    attention: &mean_over_heads(&attention, config.heads, n),
                };
                keep = after(observed)?;
            }
            x = match &keep {
                Some(keep) => gather(&out, keep, d, n),
                None => out,
            };
            kept.push(keep);
        }
        let left = x.len() / d / images;
        let last = class_rows(&x, d, left);
        let norm = ops::layer_norm_stats(&room.pool, room.isa, &last, d, config.eps);
        let affine = Affine { weight: params.get(Part::NormWeight), bias: params.get(Part::NormBias) };
        let mut class = vec![0.0; last.len()];
        ops::layer_norm_again(&room.pool, room.isa, &last, affine, &norm, &mut class);
        Ok(Tape { class, tokens, last, norm, embed, blocks, kept, left, noise })
    }

    /// Logits (images, classes) of class tokens (images, width).
    pub fn logits(&self, class: &[f32]) -> Vec<f32> {
        let (weight, bias) = (self.params.get(Part::HeadWeight), self.params.get(Part::HeadBias));
        let d = self.config.width;
        let one = |row: &[f32]| -> Vec<f32> {
            let dot = |w: &[f32]| w.iter().zip(row).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
            weight.chunks_exact(d).zip(bias).map(|(w, b)| (dot(w) + f64::from(*b)) as f32).collect()
        };
        class.chunks_exact(d).flat_map(one).collect()
    }

    /// Adds the gradients of the weights that `gradients` holds, from that of the logits (images, classes).
    pub fn backward(&mut self, tape: Tape, d_logits: &[f32], gradients: &mut Params) {
        let (d, classes) = (self.config.width, self.params.get(Part::HeadBias).len());
        let rows = || d_logits.chunks_exact(classes).zip(tape.class.chunks_exact(d));
        if let Some(dw) = gradients.get_mut(Part::HeadWeight) {
            for (g, x) in rows() {
                for (dw, g) in dw.chunks_exact_mut(d).zip(g) {
                    dw.iter_mut().zip(x).for_each(|(w, x)| *w += g * x);
                }
            }
        }
        if let Some(db) = gradients.get_mut(Part::HeadBias) {
            rows().for_each(|(g, _)| db.iter_mut().zip(g).for_each(|(b, g)| *b += g));
        }
        let weight = self.params.get(Part::HeadWeight);
        let mut d_class = vec![0f32; tape.class.len()];
        for (g, out) in d_logits.chunks_exact(classes).zip(d_class.chunks_exact_mut(d)) {
            for (g, w) in g.iter().zip(weight.chunks_exact(d)) {
                out.iter_mut().zip(w).for_each(|(o, w)| *o += g * w);
            }
        }
        self.backward_class(tape, &d_class, gradients);
    }

    /// The same from the gradient of the class tokens after the last norm (images, width).
    pub fn backward_class(&mut self, tape: Tape, d_class: &[f32], gradients: &mut Params) {
        let Network { config, params, room, adapter_scale, .. } = self;
        let (noise, adapter_scale) = (tape.noise, *adapter_scale);
        let (d, images) = (config.width, tape.last.len() / config.width);
        let mut d_last = vec![0.0; tape.last.len()];
        let (mut dw, mut db) = (vec![0.0; d], vec![0.0; d]);
        let scale = (params.get(Part::NormWeight), &tape.norm);
        let pair = (d_class, tape.last.as_slice());
        ops::layer_norm_backward(&room.pool, room.isa, pair, scale, &mut d_last, Some((&mut dw, &mut db)));
        for (part, from) in [(Part::NormWeight, dw), (Part::NormBias, db)] {
            if let Some(to) = gradients.get_mut(part) {
                to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
            }
        }
        // Of the last block's tokens only the class token is read.
        let mut dx = vec![0.0; images * tape.left * d];
        for (image, row) in dx.chunks_exact_mut(tape.left * d).zip(d_last.chunks_exact(d)) {
            image[..d].copy_from_slice(row);
        }
        let blocks = tape.blocks.into_iter().zip(tape.kept).zip(tape.tokens).enumerate();
        for (layer, ((block, kept), n)) in blocks.rev() {
            // Nothing before this block is trained.
            let Some(block) = block else { return };
            if let Some(kept) = kept {
                dx = scatter(&dx, &kept, d, n);
            }
            BlockRun { config, params, layer, noise, adapter_scale }.backward(room, block, &mut dx, gradients);
        }
        embed::backward(room, config, tape.embed, &dx, gradients);
    }
}

fn class_rows(x: &[f32], width: usize, tokens: usize) -> Vec<f32> {
    x.chunks_exact(tokens * width).flat_map(|image| image[..width].to_vec()).collect()
}

fn mean_over_heads(first: &[f32], heads: usize, tokens: usize) -> Vec<f32> {
    let one = |image: &[f32]| -> Vec<f32> {
        (0..tokens).map(|t| image.iter().skip(t).step_by(tokens).sum::<f32>() / heads as f32).collect()
    };
    first.chunks_exact(heads * tokens).flat_map(one).collect()
}

/// The kept tokens of each image, one after another.
fn gather(x: &[f32], kept: &[Vec<usize>], width: usize, tokens: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(kept.iter().map(Vec::len).sum::<usize>() * width);
    for (image, kept) in x.chunks_exact(tokens * width).zip(kept) {
        kept.iter().for_each(|t| out.extend_from_slice(&image[t * width..(t + 1) * width]));
    }
    out
}

/// The way back of [`gather`]: zeros where a token was dropped.
fn scatter(d: &[f32], kept: &[Vec<usize>], width: usize, tokens: usize) -> Vec<f32> {
    let mut out = vec![0.0; kept.len() * tokens * width];
    let mut rows = d.chunks_exact(width);
    for (image, kept) in out.chunks_exact_mut(tokens * width).zip(kept) {
        for (t, row) in kept.iter().zip(&mut rows) {
            image[t * width..(t + 1) * width].copy_from_slice(row);
        }
    }
    out
}
