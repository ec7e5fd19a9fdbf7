//! What a weight is called in a file, by whose names the file uses.

use std::ops::Range;

use super::config::{Head, Naming, VitConfig};
use super::params::{BlockPart, Part};

/// A tensor of a file and the outermost rows of the weight that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorName {
    /// Name in the file.
    pub name: String,
    /// Rows of the weight.
    pub rows: Range<usize>,
}

impl VitConfig {
    /// The tensors that make up a weight: one, or three for queries, keys and values where a file keeps them apart.
    pub fn tensors(&self, part: Part) -> Vec<TensorName> {
        let rows = self.shape(part)[0];
        let whole = |name: String| vec![TensorName { name, rows: 0..rows }];
        let (prefix, d) = (&self.prefix, self.width);
        if let (Part::Block(layer, BlockPart::QkvWeight | BlockPart::QkvBias), false) =
            (part, self.naming == Naming::Timm)
        {
            let end = if part == Part::Block(layer, BlockPart::QkvBias) { "bias" } else { "weight" };
            let name = |which| format!("{prefix}encoder.layer.{layer}.attention.attention.{which}.{end}");
            let each = ["query", "key", "value"].into_iter().enumerate();
            return each.map(|(i, which)| TensorName { name: name(which), rows: i * d..(i + 1) * d }).collect();
        }
        if let Part::Block(layer, part) = part {
            let (folder, name) = match self.naming {
                Naming::Vit => ("encoder.layer", vit(part)),
                Naming::Dinov2 => ("encoder.layer", dinov2(part)),
                Naming::Timm => ("blocks", timm(part)),
            };
            return whole(format!("{prefix}{folder}.{layer}.{name}"));
        }
        if self.naming == Naming::Timm {
            return whole(format!("{prefix}{}", self.timm_name(part)));
        }
        whole(match part {
            Part::HeadWeight | Part::HeadBias | Part::DistilledHeadWeight | Part::DistilledHeadBias => {
                self.hf_head(part)
            }
            _ => format!("{prefix}{}", hf_name(part)),
        })
    }

    fn hf_head(&self, part: Part) -> String {
        let which = match (part, self.head) {
            (Part::DistilledHeadWeight | Part::DistilledHeadBias, _) => "distillation_classifier",
            (_, Head::Distilled) => "cls_classifier",
            _ => "classifier",
        };
        let bias = matches!(part, Part::HeadBias | Part::DistilledHeadBias);
        format!("{which}.{}", if bias { "bias" } else { "weight" })
    }

    fn timm_name(&self, part: Part) -> &'static str {
        match part {
            Part::PatchWeight => "patch_embed.proj.weight",
            Part::PatchBias => "patch_embed.proj.bias",
            Part::ClassToken => "cls_token",
            Part::DistilledToken => "dist_token",
            Part::Registers => "reg_token",
            Part::Positions => "pos_embed",
            Part::NormWeight if self.norm_after_pool => "fc_norm.weight",
            Part::NormBias if self.norm_after_pool => "fc_norm.bias",
            Part::NormWeight => "norm.weight",
            Part::NormBias => "norm.bias",
            Part::HeadWeight => "head.weight",
            Part::HeadBias => "head.bias",
            Part::DistilledHeadWeight => "head_dist.weight",
            Part::DistilledHeadBias => "head_dist.bias",
            Part::Block(_, part) => timm(part),
        }
    }
}

fn hf_name(part: Part) -> &'static str {
    match part {
        Part::PatchWeight => "embeddings.patch_embeddings.projection.weight",
        Part::PatchBias => "embeddings.patch_embeddings.projection.bias",
        Part::ClassToken => "embeddings.cls_token",
        Part::DistilledToken => "embeddings.distillation_token",
        Part::Registers => "embeddings.register_tokens",
        Part::Positions => "embeddings.position_embeddings",
        Part::NormBias => "layernorm.bias",
        _ => "layernorm.weight",
    }
}

fn vit(part: BlockPart) -> &'static str {
    match part {
        BlockPart::Norm1Weight => "layernorm_before.weight",
        BlockPart::Norm1Bias => "layernorm_before.bias",
        BlockPart::ProjWeight => "attention.output.dense.weight",
        BlockPart::ProjBias => "attention.output.dense.bias",
        BlockPart::Norm2Weight => "layernorm_after.weight",
        BlockPart::Norm2Bias => "layernorm_after.bias",
        BlockPart::Fc1Weight => "intermediate.dense.weight",
        BlockPart::Fc1Bias => "intermediate.dense.bias",
        BlockPart::Fc2Weight => "output.dense.weight",
        BlockPart::Fc2Bias => "output.dense.bias",
        other => dinov2(other),
    }
}

fn dinov2(part: BlockPart) -> &'static str {
    match part {
        BlockPart::Scale1 => "layer_scale1.lambda1",
        BlockPart::Scale2 => "layer_scale2.lambda1",
        BlockPart::ProjWeight => "attention.output.dense.weight",
        BlockPart::ProjBias => "attention.output.dense.bias",
        BlockPart::QueryDown => "attention.attention.query.lora_A.weight",
        BlockPart::QueryUp => "attention.attention.query.lora_B.weight",
        BlockPart::ValueDown => "attention.attention.value.lora_A.weight",
        BlockPart::ValueUp => "attention.attention.value.lora_B.weight",
        other => timm(other),
    }
}

fn timm(part: BlockPart) -> &'static str {
    match part {
        BlockPart::Norm1Weight => "norm1.weight",
        BlockPart::Norm1Bias => "norm1.bias",
        BlockPart::QkvWeight => "attn.qkv.weight",
        BlockPart::QkvBias => "attn.qkv.bias",
        BlockPart::ProjWeight => "attn.proj.weight",
        BlockPart::ProjBias => "attn.proj.bias",
        BlockPart::Scale1 => "ls1.gamma",
        BlockPart::Norm2Weight => "norm2.weight",
        BlockPart::Norm2Bias => "norm2.bias",
        BlockPart::Fc1Weight => "mlp.fc1.weight",
        BlockPart::Fc1Bias => "mlp.fc1.bias",
        BlockPart::Fc2Weight => "mlp.fc2.weight",
        BlockPart::Fc2Bias => "mlp.fc2.bias",
        BlockPart::Scale2 => "ls2.gamma",
        // timm joins queries, keys and values: these belong to the first and the last third of its rows.
        BlockPart::QueryDown => "attn.qkv.q.lora_A.weight",
        BlockPart::QueryUp => "attn.qkv.q.lora_B.weight",
        BlockPart::ValueDown => "attn.qkv.v.lora_A.weight",
        BlockPart::ValueUp => "attn.qkv.v.lora_B.weight",
    }
}
