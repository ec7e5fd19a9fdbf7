//! The shape of a vision transformer.

use super::params::{BlockPart, Part};

/// Whose names a file's tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Naming {
    /// transformers' ViT and DeiT.
    Vit,
    /// transformers' DINOv2.
    Dinov2,
    /// timm.
    Timm,
}

/// What the classifier reads of the last hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Head {
    /// There is no classifier.
    None,
    /// The class token.
    Class,
    /// The class token, then the mean of the patch tokens.
    ClassAndMean,
    /// The mean of the patch tokens.
    Mean,
    /// Class and distilled token, a classifier each; their logits are averaged.
    Distilled,
}

/// The shape of a vision transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct VitConfig {
    /// Whose tensor names.
    pub naming: Naming,
    /// What stands before the encoder's tensor names: "vit.", "dinov2.", or nothing.
    pub prefix: String,
    /// Blocks.
    pub layers: usize,
    /// Width of a token.
    pub width: usize,
    /// Heads.
    pub heads: usize,
    /// Hidden width of the feed-forward.
    pub mlp: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Rows and columns of pixels that the position table is for.
    pub image: (usize, usize),
    /// Added to the variance in layer norms.
    pub eps: f32,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether branches are scaled by learnt factors before they are added.
    pub layer_scale: bool,
    /// Whether there is a class token.
    pub class_token: bool,
    /// Whether a distilled token follows it.
    pub distilled: bool,
    /// Register tokens between those and the patches.
    pub registers: usize,
    /// How many of the tokens before the patches have a row in the position table.
    pub prefix_positions: usize,
    /// Whether the position table is resampled with antialiasing (and a cubic of slope -0.5 instead of -0.75).
    pub antialias: bool,
    /// What the classifier reads.
    pub head: Head,
    /// Whether the last norm comes after the mean over patches (timm's `fc_norm`).
    pub norm_after_pool: bool,
    /// Names of the classes; empty without a classifier.
    pub classes: Vec<String>,
    /// Rank of the low-rank additions to queries and values; 0 where there are none, as in every file.
    pub adapter_rank: usize,
}

impl VitConfig {
    /// Patches of the position table: rows and columns.
    pub fn grid(&self) -> (usize, usize) {
        (self.image.0 / self.patch, self.image.1 / self.patch)
    }

    /// Tokens before the patches: class, distilled, registers.
    pub fn prefix_tokens(&self) -> usize {
        usize::from(self.class_token) + usize::from(self.distilled) + self.registers
    }

    /// Width of what a classifier reads.
    pub fn head_width(&self) -> usize {
        if self.head == Head::ClassAndMean { 2 * self.width } else { self.width }
    }

    /// Values of a patch: channels x rows x columns.
    pub fn patch_values(&self) -> usize {
        3 * self.patch * self.patch
    }

    /// All weights that such a model has, in the order of the data.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = vec![Part::PatchWeight, Part::PatchBias];
        let optional = [
            (self.class_token, Part::ClassToken),
            (self.distilled, Part::DistilledToken),
            (self.registers > 0, Part::Registers),
        ];
        parts.extend(optional.into_iter().filter(|(there, _)| *there).map(|(_, part)| part));
        parts.push(Part::Positions);
        for layer in 0..self.layers {
            parts.extend(self.block_parts().map(|part| Part::Block(layer, part)));
        }
        parts.extend([Part::NormWeight, Part::NormBias]);
        if self.head != Head::None {
            parts.extend([Part::HeadWeight, Part::HeadBias]);
        }
        if self.head == Head::Distilled {
            parts.extend([Part::DistilledHeadWeight, Part::DistilledHeadBias]);
        }
        parts
    }

    /// The weights of one block.
    pub fn block_parts(&self) -> impl Iterator<Item = BlockPart> {
        let there = move |part: &BlockPart| match part {
            BlockPart::Scale1 | BlockPart::Scale2 => self.layer_scale,
            BlockPart::QkvBias => self.qkv_bias,
            part if part.is_adapter() => self.adapter_rank > 0,
            _ => true,
        };
        BlockPart::ALL.into_iter().filter(there)
    }

    /// The shape of a weight, outermost first; linear layers are (outputs, inputs).
    pub fn shape(&self, part: Part) -> Vec<usize> {
        let (d, classes) = (self.width, self.classes.len());
        match part {
            Part::PatchWeight => vec![d, 3, self.patch, self.patch],
            Part::ClassToken | Part::DistilledToken => vec![1, 1, d],
            Part::Registers => vec![1, self.registers, d],
            Part::Positions => vec![1, self.prefix_positions + self.grid().0 * self.grid().1, d],
            Part::PatchBias | Part::NormWeight | Part::NormBias => vec![d],
            Part::HeadWeight | Part::DistilledHeadWeight => vec![classes, self.head_width()],
            Part::HeadBias | Part::DistilledHeadBias => vec![classes],
            Part::Block(_, part) => match part {
                BlockPart::QkvWeight => vec![3 * d, d],
                BlockPart::QkvBias => vec![3 * d],
                BlockPart::ProjWeight => vec![d, d],
                BlockPart::Fc1Weight => vec![self.mlp, d],
                BlockPart::Fc1Bias => vec![self.mlp],
                BlockPart::Fc2Weight => vec![d, self.mlp],
                BlockPart::QueryDown | BlockPart::ValueDown => vec![self.adapter_rank, d],
                BlockPart::QueryUp | BlockPart::ValueUp => vec![d, self.adapter_rank],
                _ => vec![d],
            },
        }
    }

    /// Numbers of such a model.
    pub fn parameters(&self) -> usize {
        self.parts().into_iter().map(|p| self.shape(p).iter().product::<usize>()).sum()
    }
}
