//! config.json, as transformers and timm write it, to the shape of a model. What the file leaves open (which tensors
//! carry a prefix, whether there is a classifier) is read off the tensors.

use std::collections::BTreeMap;
use std::path::Path;

use meden_files::safetensors_file::Safetensors;
use serde::Deserialize;
use serde_json::Value;

use super::config::{Head, Naming, VitConfig};
use crate::error::VisionError;

/// Largest numbers that a configuration may name: several times those of the largest models.
const LAYERS_MAX: usize = 512;
const WIDTH_MAX: usize = 1 << 16;
const IMAGE_MAX: usize = 1 << 16;
const CLASSES_MAX: usize = 1 << 20;

/// A number, or one for rows and one for columns.
#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
pub(super) enum Size {
    One(usize),
    Two([usize; 2]),
}

impl Size {
    pub(super) fn pair(self) -> (usize, usize) {
        match self {
            Size::One(n) => (n, n),
            Size::Two([rows, columns]) => (rows, columns),
        }
    }
}

#[derive(Deserialize)]
struct HfConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: Option<usize>,
    mlp_ratio: Option<f64>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
    image_size: Size,
    patch_size: Size,
    num_channels: Option<usize>,
    qkv_bias: Option<bool>,
    use_swiglu_ffn: Option<bool>,
    num_register_tokens: Option<usize>,
    id2label: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct TimmConfig {
    architecture: String,
    global_pool: Option<String>,
    label_names: Option<Vec<String>>,
    #[serde(default)]
    model_args: Value,
    #[serde(default)]
    pretrained_cfg: Value,
}

/// What a file's tensors say.
struct Tensors<'a> {
    path: &'a Path,
    weights: &'a Safetensors,
}

impl Tensors<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.weights.tensors().iter().find(|t| t.name == name).map(|t| t.shape.as_slice())
    }

    fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// One dimension of a tensor that has to be there.
    fn dimension(&self, name: &str, index: usize) -> Result<usize, VisionError> {
        let shape = self.shape(name).ok_or_else(|| VisionError::config(self.path, name, "there is no such tensor"))?;
        let wrong =
            || VisionError::config(self.path, name, format!("a tensor of shape {shape:?} is no weight of a ViT"));
        shape.get(index).copied().filter(|n| *n > 0).ok_or_else(wrong)
    }
}

/// The shape of the model that `config` (a config.json at `path`) and the tensors describe.
pub(super) fn read(path: &Path, config: &Value, weights: &Safetensors) -> Result<VitConfig, VisionError> {
    let tensors = Tensors { path, weights };
    let parsed = match config.get("model_type").and_then(Value::as_str) {
        Some(kind @ ("vit" | "deit" | "dinov2" | "dinov2_with_registers")) => from_hf(&tensors, kind, config)?,
        Some(other) => {
            let why = format!(
                "{other:?} is not run here; vit, deit, dinov2, dinov2_with_registers and timm's vit_* and deit_* are"
            );
            return Err(VisionError::config(path, "model_type", why));
        }
        None if config.get("architecture").is_some() => from_timm(&tensors, config)?,
        None => {
            return Err(VisionError::config(
                path,
                "model_type",
                "it is missing; this is no config.json of an image model",
            ));
        }
    };
    check(path, &parsed)?;
    Ok(parsed)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, config: &Value) -> Result<T, VisionError> {
    T::deserialize(config).map_err(|e| VisionError::config(path, "config.json", e.to_string()))
}

fn from_hf(tensors: &Tensors, kind: &str, config: &Value) -> Result<VitConfig, VisionError> {
    let path = tensors.path;
    let c: HfConfig = parse(path, config)?;
    let dinov2 = kind.starts_with("dinov2");
    if c.hidden_act.as_deref().is_some_and(|a| a != "gelu") {
        return Err(VisionError::config(path, "hidden_act", "only \"gelu\" (by the error function) is run here"));
    }
    if c.use_swiglu_ffn == Some(true) {
        return Err(VisionError::config(path, "use_swiglu_ffn", "gated feed-forwards (DINOv2 giant) are not run here"));
    }
    if c.num_channels.is_some_and(|n| n != 3) {
        return Err(VisionError::config(path, "num_channels", "only images of three channels are run here"));
    }
    let (rows, columns) = c.patch_size.pair();
    if rows != columns {
        return Err(VisionError::config(path, "patch_size", "only square patches are run here"));
    }
    let prefixes = ["vit.", "deit.", "dinov2.", "dinov2_with_registers.", ""];
    let embedding = |prefix: &&str| tensors.has(&format!("{prefix}embeddings.patch_embeddings.projection.weight"));
    let prefix = prefixes.into_iter().find(embedding).ok_or_else(|| {
        VisionError::config(path, "embeddings.patch_embeddings.projection.weight", "there is no such tensor")
    })?;
    let (head, classifier) = if tensors.has("cls_classifier.weight") {
        (Head::Distilled, "cls_classifier.weight")
    } else if !tensors.has("classifier.weight") {
        (Head::None, "")
    } else if dinov2 {
        (Head::ClassAndMean, "classifier.weight")
    } else {
        (Head::Class, "classifier.weight")
    };
    let classes = match head {
        Head::None => Vec::new(),
        _ => labels(c.id2label.unwrap_or_default(), tensors.dimension(classifier, 0)?),
    };
    let mlp = match (c.intermediate_size, c.mlp_ratio) {
        (Some(n), _) if !dinov2 => n,
        (_, Some(ratio)) if ratio.is_finite() && ratio > 0.0 => (c.hidden_size as f64 * ratio) as usize,
        (Some(n), None) => n,
        _ => 4 * c.hidden_size,
    };
    let distilled = kind == "deit";
    let registers = if kind == "dinov2_with_registers" { c.num_register_tokens.unwrap_or(4) } else { 0 };
    Ok(VitConfig {
        naming: if dinov2 { Naming::Dinov2 } else { Naming::Vit },
        prefix: prefix.to_owned(),
        layers: c.num_hidden_layers,
        width: c.hidden_size,
        heads: c.num_attention_heads,
        mlp,
        patch: rows,
        image: c.image_size.pair(),
        eps: c.layer_norm_eps.unwrap_or(if dinov2 { 1e-6 } else { 1e-12 }) as f32,
        qkv_bias: c.qkv_bias.unwrap_or(true),
        layer_scale: dinov2,
        class_token: true,
        distilled,
        registers,
        prefix_positions: 1 + usize::from(distilled),
        antialias: registers > 0,
        head,
        norm_after_pool: false,
        adapter_rank: 0,
        classes,
    })
}

/// Labels by number; one that the file does not name is called by its number.
fn labels(named: BTreeMap<String, String>, count: usize) -> Vec<String> {
    (0..count.min(CLASSES_MAX)).map(|i| named.get(&i.to_string()).cloned().unwrap_or_else(|| i.to_string())).collect()
}

fn from_timm(tensors: &Tensors, config: &Value) -> Result<VitConfig, VisionError> {
    let path = tensors.path;
    let c: TimmConfig = parse(path, config)?;
    if !(c.architecture.starts_with("vit_") || c.architecture.starts_with("deit_")) {
        let why = format!("{:?} is not run here; vit_* and deit_* are", c.architecture);
        return Err(VisionError::config(path, "architecture", why));
    }
    for (name, what) in
        [("blocks.0.attn.q_norm.weight", "norms of queries"), ("norm_pre.weight", "a norm before the blocks")]
    {
        if tensors.has(name) {
            return Err(VisionError::config(path, name, format!("models with {what} are not run here")));
        }
    }
    let width = tensors.dimension("patch_embed.proj.weight", 0)?;
    let patch = tensors.dimension("patch_embed.proj.weight", 2)?;
    let layers = (0..LAYERS_MAX).take_while(|l| tensors.has(&format!("blocks.{l}.norm1.weight"))).count();
    let class_token = tensors.has("cls_token");
    let distilled = tensors.has("dist_token");
    let registers = if tensors.has("reg_token") { tensors.dimension("reg_token", 1)? } else { 0 };
    let prefix = usize::from(class_token) + usize::from(distilled) + registers;
    let positions = tensors.dimension("pos_embed", 1)?;
    let size = |v: &Value| v.get("input_size").and_then(|s| <[usize; 3]>::deserialize(s).ok()).map(|s| (s[1], s[2]));
    let image = match size(&c.pretrained_cfg) {
        Some((h, w)) if h / patch * (w / patch) + prefix == positions || h / patch * (w / patch) == positions => (h, w),
        _ => square_table(positions, prefix).map(|side| (side * patch, side * patch)).ok_or_else(|| {
            VisionError::config(path, "pos_embed", format!("{positions} positions are no square of patches"))
        })?,
    };
    let patches = (image.0 / patch) * (image.1 / patch);
    let head = match c.global_pool.as_deref().unwrap_or("token") {
        _ if !tensors.has("head.weight") => Head::None,
        "token" if distilled => Head::Distilled,
        "token" => Head::Class,
        "avg" => Head::Mean,
        other => {
            let why = format!("{other:?} is not run here; \"token\" and \"avg\" are");
            return Err(VisionError::config(path, "global_pool", why));
        }
    };
    let heads = match c.model_args.get("num_heads").and_then(Value::as_u64) {
        Some(heads) => heads as usize,
        // A head is 64 wide in every ViT and DeiT whose arguments timm does not list.
        None => width / 64,
    };
    let classes = match head {
        Head::None => Vec::new(),
        _ => {
            let count = tensors.dimension("head.weight", 0)?;
            let named = c.label_names.unwrap_or_default().into_iter().enumerate();
            labels(named.map(|(i, n)| (i.to_string(), n)).collect(), count)
        }
    };
    Ok(VitConfig {
        naming: Naming::Timm,
        prefix: String::new(),
        layers,
        width,
        heads,
        mlp: tensors.dimension("blocks.0.mlp.fc1.weight", 0)?,
        patch,
        image,
        eps: 1e-6,
        qkv_bias: tensors.has("blocks.0.attn.qkv.bias"),
        layer_scale: tensors.has("blocks.0.ls1.gamma"),
        class_token,
        distilled,
        registers,
        prefix_positions: positions - patches,
        antialias: true,
        head,
        norm_after_pool: tensors.has("fc_norm.weight"),
        adapter_rank: 0,
        classes,
    })
}

/// The side of a square table, with or without the tokens before the patches.
fn square_table(positions: usize, prefix: usize) -> Option<usize> {
    let root = |n: usize| Some(n.isqrt()).filter(|s| s * s == n && n > 0);
    root(positions)
        .or_else(|| positions.checked_sub(prefix).and_then(root))
        .or_else(|| positions.checked_sub(1).and_then(root))
}

fn check(path: &Path, c: &VitConfig) -> Result<(), VisionError> {
    let within = [
        ("number of layers", c.layers, LAYERS_MAX),
        ("width", c.width, WIDTH_MAX),
        ("number of heads", c.heads, WIDTH_MAX),
        ("width of the feed-forward", c.mlp, WIDTH_MAX),
        ("patch size", c.patch, IMAGE_MAX),
        ("image rows", c.image.0, IMAGE_MAX),
        ("image columns", c.image.1, IMAGE_MAX),
    ];
    for (field, value, most) in within {
        if value == 0 || value > most {
            return Err(VisionError::config(path, field, format!("{value} is outside 1 ..= {most}")));
        }
    }
    if c.registers > WIDTH_MAX || c.classes.len() > CLASSES_MAX {
        return Err(VisionError::config(path, "registers or classes", "more than any model has"));
    }
    if !c.width.is_multiple_of(c.heads) {
        let why = format!("{} heads do not divide the width {}", c.heads, c.width);
        return Err(VisionError::config(path, "number of heads", why));
    }
    if c.image.0 < c.patch || c.image.1 < c.patch {
        let why = format!("a patch of {} is larger than the image {:?}", c.patch, c.image);
        return Err(VisionError::config(path, "patch size", why));
    }
    if !(c.eps.is_finite() && c.eps >= 0.0) {
        return Err(VisionError::config(path, "layer_norm_eps", format!("{} is no small number", c.eps)));
    }
    if c.prefix_positions > c.prefix_tokens() || (c.head == Head::Class && !c.class_token) {
        return Err(VisionError::config(path, "position table", "it does not fit the tokens before the patches"));
    }
    Ok(())
}
