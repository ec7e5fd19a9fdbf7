//! Low-rank additions to queries and values: Hu et al., "LoRA" (arXiv 2106.09685), as PEFT users know it for ViT. With
//! s = alpha / r, `y = x Wᵀ + s drop(x) Aᵀ Bᵀ`, A (r, width) random, B (width, r) zero at first.

use std::io::Write;
use std::path::Path;

use meden_files::safetensors_file::SafetensorsWriter;
use meden_files::{AtomicFile, FileError};
use meden_kernels::DType;
use meden_kernels::gemm::{Options, Panels, View, gemm};
use meden_kernels::ops;
use meden_stats::Rng;
use meden_vision::vit::{BlockPart, Params, Part, VitConfig};

use super::block::{BlockRun, Room};
use super::error::TrainError;

/// The stream that A is drawn from.
const STREAM: u64 = 0x6c6f_7261;

/// Settings of low-rank additions.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LoraOptions {
    /// Rank.
    pub rank: usize,
    /// The additions are multiplied by `alpha / rank`.
    pub alpha: f64,
    /// Share of their inputs that a training step leaves out.
    pub dropout: f64,
}

impl Default for LoraOptions {
    fn default() -> Self {
        LoraOptions { rank: 16, alpha: 16.0, dropout: 0.1 }
    }
}

impl LoraOptions {
    /// What the additions are multiplied by.
    pub fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }

    pub(super) fn check(&self, width: usize) -> Result<(), TrainError> {
        if self.rank == 0 || self.rank > width {
            return Err(TrainError::setting("rank", format!("{} is outside 1 to {width}", self.rank)));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Err(TrainError::setting("lora alpha", format!("{} is no positive number", self.alpha)));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(TrainError::setting("lora dropout", format!("{} is outside [0, 1)", self.dropout)));
        }
        Ok(())
    }
}

/// Puts fresh additions beside the weights: they change nothing until they are trained. A is even within
/// 1/sqrt(width) either way, as PEFT draws it.
pub(super) fn begin(config: &mut VitConfig, params: &mut Params, options: &LoraOptions, seed: u64) {
    config.adapter_rank = options.rank;
    let mut rng = Rng::new(seed, STREAM);
    let reach = 1.0 / (config.width as f64).sqrt();
    for part in config.parts() {
        let Part::Block(_, kind) = part else { continue };
        if kind.is_adapter() {
            let len: usize = config.shape(part).iter().product();
            let down = matches!(kind, BlockPart::QueryDown | BlockPart::ValueDown);
            let mut value = || if down { ((2.0 * rng.uniform() - 1.0) * reach) as f32 } else { 0.0 };
            params.insert(part, (0..len).map(|_| value()).collect());
        }
    }
}

/// The same model without additions: `W <- W + s B A` in the query and value rows.
pub fn merged(config: &VitConfig, params: &Params, scale: f32) -> (VitConfig, Params) {
    let (mut plain, mut out) = (config.clone(), params.clone());
    let (d, r) = (config.width, config.adapter_rank);
    plain.adapter_rank = 0;
    if r == 0 {
        return (plain, out);
    }
    for layer in 0..config.layers {
        for (first, down, up) in pairs(d) {
            let (down, up) = (out.remove(Part::Block(layer, down)), out.remove(Part::Block(layer, up)));
            let Some(weight) = out.get_mut(Part::Block(layer, BlockPart::QkvWeight)) else { continue };
            for (row, up) in weight[first * d..(first + d) * d].chunks_exact_mut(d).zip(up.chunks_exact(r)) {
                for (i, w) in row.iter_mut().enumerate() {
                    let sum: f64 = up.iter().zip(0..).map(|(u, k)| f64::from(*u) * f64::from(down[k * d + i])).sum();
                    *w = (f64::from(*w) + f64::from(scale) * sum) as f32;
                }
            }
        }
    }
    (plain, out)
}

/// Writes the additions and the classifier as PEFT reads them: adapter_config.json and adapter_model.safetensors. Names of
/// a timm model, whose queries, keys and values are one matrix, are ours (`attn.qkv.q.lora_A`); PEFT cannot read those.
///
/// # Errors
/// A folder that cannot be written.
pub fn save_adapter(
    folder: &Path,
    (config, params): (&VitConfig, &Params),
    options: &LoraOptions,
    prefix: &str,
) -> Result<(), TrainError> {
    let io = |path: &Path, action: &str, source| FileError::Io { path: path.to_owned(), action: action.into(), source };
    std::fs::create_dir_all(folder).map_err(|e| io(folder, "create", e))?;
    let named = VitConfig { prefix: prefix.to_owned(), ..config.clone() };
    let mut writer = SafetensorsWriter::new().meta("format", "pt");
    for (part, values) in params.iter() {
        let adapter = matches!(part, Part::Block(_, kind) if kind.is_adapter());
        if !adapter && !matches!(part, Part::HeadWeight | Part::HeadBias) {
            continue;
        }
        for tensor in named.tensors(part) {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let name = format!("base_model.model.{}", tensor.name);
            writer = writer.tensor(&name, DType::F32, &config.shape(part), bytes);
        }
    }
    let fields = serde_json::json!({
        "peft_type": "LORA", "task_type": null, "r": options.rank, "lora_alpha": options.alpha,
        "lora_dropout": options.dropout, "target_modules": ["query", "value"], "bias": "none",
        "modules_to_save": ["classifier"], "inference_mode": true, "fan_in_fan_out": false,
    });
    let path = folder.join("adapter_config.json");
    let mut file = AtomicFile::create(&path)?;
    file.write_all(format!("{fields:#}\n").as_bytes()).map_err(|e| io(&path, "write", e))?;
    file.commit()?;
    Ok(writer.write(&folder.join("adapter_model.safetensors"))?)
}

/// First row of queries and of values in the joined matrix, with what is added to them.
fn pairs(d: usize) -> [(usize, BlockPart, BlockPart); 2] {
    [(0, BlockPart::QueryDown, BlockPart::QueryUp), (2 * d, BlockPart::ValueDown, BlockPart::ValueUp)]
}

impl BlockRun<'_> {
    /// Adds the additions' share to queries and values (rows, 3 width), from the block's normed input.
    pub(super) fn adapt(&self, room: &mut Room, normed: &[f32], qkv: &mut [f32]) {
        let (d, r) = (self.config.width, self.config.adapter_rank);
        if r == 0 {
            return;
        }
        let rows = normed.len() / d;
        for (which, (first, down, up)) in pairs(d).into_iter().enumerate() {
            let inner = self.inner(room, (normed, which), down);
            let mut added = vec![0.0; rows * d];
            room.linear((&inner, r), self.part(up), &mut added, Options::default());
            for (row, added) in qkv.chunks_exact_mut(3 * d).zip(added.chunks_exact(d)) {
                row[first..first + d].iter_mut().zip(added).for_each(|(q, a)| *q += a);
            }
        }
    }

    /// What the additions give to the gradient of the normed input (`None` without additions); their own gradients are
    /// added to `gradients`, for which `normed` has to hold the normed input.
    pub(super) fn adapt_back(
        &self,
        room: &mut Room,
        normed: &[f32],
        d_qkv: &[f32],
        mut gradients: Option<&mut Params>,
    ) -> Option<Vec<f32>> {
        let (d, r) = (self.config.width, self.config.adapter_rank);
        if r == 0 {
            return None;
        }
        let rows = d_qkv.len() / (3 * d);
        let mut sum = vec![0.0; rows * d];
        for (which, (first, down, up)) in pairs(d).into_iter().enumerate() {
            let own = View::rows(&d_qkv[first..], rows, d, 3 * d);
            // The gradient of drop(x) Aᵀ, the factor s in it.
            let mut d_inner = vec![0.0; rows * r];
            let mut panels = Panels::new();
            panels.pack(&room.pool, View::new(self.part(up), r));
            gemm(&room.pool, room.isa, own, &panels, &mut d_inner, Options::default());
            d_inner.iter_mut().for_each(|v| *v *= self.adapter_scale);
            if let Some(gradients) = gradients.as_deref_mut() {
                let inner = self.inner(room, (normed, which), down);
                if let Some(d_up) = gradients.get_mut(Part::Block(self.layer, up)) {
                    panels.pack(&room.pool, View::new(&inner, r));
                    let add = Options { accumulate: true, finish: None };
                    gemm(&room.pool, room.isa, own.transposed(), &panels, d_up, add);
                }
                if let Some(d_down) = gradients.get_mut(Part::Block(self.layer, down)) {
                    let input = self.input(room, (normed, which));
                    room.weight_gradient((&d_inner, r), (&input, d), d_down);
                }
            }
            let mut back = vec![0.0; rows * d];
            room.back((&d_inner, r), self.part(down), &mut back);
            self.noise.inputs(&room.pool, (self.layer, which), &mut back);
            ops::add(&room.pool, room.isa, &mut sum, &back);
        }
        Some(sum)
    }

    fn input(&self, room: &Room, (normed, which): (&[f32], usize)) -> Vec<f32> {
        let mut input = normed.to_vec();
        self.noise.inputs(&room.pool, (self.layer, which), &mut input);
        input
    }

    /// `s drop(x) Aᵀ` (rows, rank).
    fn inner(&self, room: &mut Room, from: (&[f32], usize), down: BlockPart) -> Vec<f32> {
        let (d, r) = (self.config.width, self.config.adapter_rank);
        let input = self.input(room, from);
        let mut inner = vec![0.0; input.len() / d * r];
        room.linear((&input, d), self.part(down), &mut inner, Options::default());
        inner.iter_mut().for_each(|v| *v *= self.adapter_scale);
        inner
    }
}
