//! The weights of a vision transformer, one entry a tensor, under names of their own.

use std::collections::BTreeMap;

use super::config::VitConfig;

/// A weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Patch embedding (width, 3, patch, patch).
    PatchWeight,
    /// Its bias.
    PatchBias,
    /// Class token.
    ClassToken,
    /// Distilled token.
    DistilledToken,
    /// Register tokens.
    Registers,
    /// Position table.
    Positions,
    /// A weight of a block.
    Block(usize, BlockPart),
    /// Scale of the last norm.
    NormWeight,
    /// Shift of the last norm.
    NormBias,
    /// Classifier.
    HeadWeight,
    /// Its bias.
    HeadBias,
    /// The distilled token's classifier.
    DistilledHeadWeight,
    /// Its bias.
    DistilledHeadBias,
}

/// A weight of a block. Queries, keys and values are one tensor, in this order. The last four are low-rank additions to
/// the query and the value rows, which only exist while a model is tuned (`VitConfig::adapter_rank`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum BlockPart {
    Norm1Weight,
    Norm1Bias,
    QkvWeight,
    QkvBias,
    ProjWeight,
    ProjBias,
    Scale1,
    Norm2Weight,
    Norm2Bias,
    Fc1Weight,
    Fc1Bias,
    Fc2Weight,
    Fc2Bias,
    Scale2,
    QueryDown,
    QueryUp,
    ValueDown,
    ValueUp,
}

impl BlockPart {
    /// All, in the order of the data.
    pub const ALL: [BlockPart; 18] = [
        BlockPart::Norm1Weight,
        BlockPart::Norm1Bias,
        BlockPart::QkvWeight,
        BlockPart::QkvBias,
        BlockPart::ProjWeight,
        BlockPart::ProjBias,
        BlockPart::Scale1,
        BlockPart::Norm2Weight,
        BlockPart::Norm2Bias,
        BlockPart::Fc1Weight,
        BlockPart::Fc1Bias,
        BlockPart::Fc2Weight,
        BlockPart::Fc2Bias,
        BlockPart::Scale2,
        BlockPart::QueryDown,
        BlockPart::QueryUp,
        BlockPart::ValueDown,
        BlockPart::ValueUp,
    ];

    /// Whether it is one of the low-rank additions.
    pub fn is_adapter(self) -> bool {
        matches!(self, BlockPart::QueryDown | BlockPart::QueryUp | BlockPart::ValueDown | BlockPart::ValueUp)
    }

    /// Whether it is a matrix of the block, without the low-rank additions.
    pub fn is_matrix(self) -> bool {
        matches!(self, BlockPart::QkvWeight | BlockPart::ProjWeight | BlockPart::Fc1Weight | BlockPart::Fc2Weight)
    }
}

impl Part {
    /// The block it belongs to.
    pub fn layer(self) -> Option<usize> {
        match self {
            Part::Block(layer, _) => Some(layer),
            _ => None,
        }
    }

    /// Whether weight decay is usual: on matrices, not on norms, biases, factors, tokens and positions.
    pub fn decays(self) -> bool {
        match self {
            Part::PatchWeight | Part::HeadWeight | Part::DistilledHeadWeight => true,
            Part::Block(_, part) => part.is_matrix() || part.is_adapter(),
            _ => false,
        }
    }
}

/// Weights, or anything that has a number for each weight: gradients, moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params(BTreeMap<Part, Vec<f32>>);

impl Params {
    /// No weights.
    pub fn new() -> Params {
        Params::default()
    }

    /// A zero for each weight of such a model that `wanted` names.
    pub fn zeros(config: &VitConfig, wanted: impl Fn(Part) -> bool) -> Params {
        let parts = config.parts().into_iter().filter(|p| wanted(*p));
        Params(parts.map(|p| (p, vec![0.0; config.shape(p).iter().product()])).collect())
    }

    /// The values of a weight, row by row; empty where the model has none.
    pub fn get(&self, part: Part) -> &[f32] {
        self.0.get(&part).map_or(&[], Vec::as_slice)
    }

    /// A block's weight.
    pub fn block(&self, layer: usize, part: BlockPart) -> &[f32] {
        self.get(Part::Block(layer, part))
    }

    /// The values, to be changed.
    pub fn get_mut(&mut self, part: Part) -> Option<&mut Vec<f32>> {
        self.0.get_mut(&part)
    }

    /// Whether there is such a weight.
    pub fn contains(&self, part: Part) -> bool {
        self.0.contains_key(&part)
    }

    /// Sets a weight.
    pub fn insert(&mut self, part: Part, values: Vec<f32>) {
        self.0.insert(part, values);
    }

    /// Takes a weight out.
    pub fn remove(&mut self, part: Part) -> Vec<f32> {
        self.0.remove(&part).unwrap_or_default()
    }

    /// All weights in order.
    pub fn iter(&self) -> impl Iterator<Item = (Part, &[f32])> {
        self.0.iter().map(|(p, v)| (*p, v.as_slice()))
    }

    /// All weights, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Part, &mut Vec<f32>)> {
        self.0.iter_mut().map(|(p, v)| (*p, v))
    }

    /// Numbers in all.
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
