//! Weights from files into their one resident layout.
//!
//! Names are Hugging Face's whatever the file (one place in `meden-files` maps them). GGUF stores rows of Q and K of
//! llama and mistral for interleaved rotation; whole rows are put back here, which is lossless in every format.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use meden_files::hash::Hash;
use meden_files::quantize::{Outline, Recipe};
use meden_files::{FileError, ModelFiles, TensorInfo};
use meden_kernels::dtype::DType;
use meden_kernels::isa::Isa;
use meden_kernels::matmul::Matrix;
use meden_kernels::mem::MappedFile;
use meden_kernels::pool::Pool;
use meden_kernels::weights;

use super::config::Config;
use super::quantizing::{Quantizing, Rows};
use super::size::bytes_read;
use super::watch::{LoadWatch, Watched};
use super::{Attention, Block, Linear, LoadOptions, Mlp, Model, WeightMode};
use crate::error::EngineError;

/// Everything that reading one tensor needs.
struct Loader<'a> {
    files: &'a ModelFiles,
    config: &'a Config,
    mode: WeightMode,
    isa: Isa,
    /// Into which formats weights are put, if not those of the file.
    quantizing: Option<Quantizing<'a>>,
    watched: Watched<'a>,
    pool: &'a Pool,
    maps: Mutex<Vec<(std::path::PathBuf, Arc<MappedFile>)>>,
}

pub(crate) fn load(files: &ModelFiles, options: &LoadOptions, watch: LoadWatch<'_>) -> Result<Model, EngineError> {
    let isa = options.isa.unwrap_or_else(Isa::best);
    if !isa.is_available() {
        let names: Vec<String> = Isa::available().iter().map(ToString::to_string).collect();
        return Err(EngineError::Setting {
            field: "instruction set",
            value: isa.to_string(),
            allowed: format!("this processor has {}", names.join(", ")),
        });
    }
    if let Some(recipe) = options.quantize.filter(|_| options.weights != WeightMode::Native) {
        return Err(EngineError::Setting {
            field: "weight mode",
            value: format!("{:?}", options.weights).to_lowercase(),
            allowed: format!("weights that are quantised to {recipe} while loading are native"),
        });
    }
    let threads = if options.threads == 0 { Pool::default_threads() } else { options.threads };
    let mut config = Config::read(files)?;
    config.vocab = embedding_rows(files, &config)?;
    let config = config;
    let pool = Pool::new(threads);
    let loader = Loader {
        files,
        config: &config,
        mode: options.weights,
        isa,
        quantizing: options.quantize.map(|recipe| Quantizing::new(recipe, outline(files), files.architecture())),
        watched: Watched::new(watch, bytes_read(files)),
        pool: &pool,
        maps: Mutex::default(),
    };

    let embedding = Arc::new(loader.matrix("model.embed_tokens.weight", (config.vocab, config.hidden), None)?);
    // an absent output matrix means the embedding serves; one of a type that is not read is an error, not tied
    let tied = files.config().is_some_and(|c| c.tie_word_embeddings == Some(true))
        || match files.require("lm_head.weight") {
            Ok(_) => false,
            Err(FileError::MissingTensor { .. }) => true,
            Err(other) => return Err(other.into()),
        };
    let head = if tied {
        embedding.clone()
    } else {
        Arc::new(loader.matrix("lm_head.weight", (config.vocab, config.hidden), None)?)
    };
    let blocks = loader.blocks()?;
    let final_norm = loader.norm("model.norm.weight", config.hidden)?;
    let mut weight_bytes = embedding.bytes() + final_norm.len() * 4;
    if !tied {
        weight_bytes += head.bytes();
    }
    weight_bytes += blocks.iter().map(Block::bytes).sum::<usize>();
    loader.watched.finish();
    let (substitutes, clamped) = loader.quantizing.map(Quantizing::into_counts).unwrap_or_default();
    let fingerprint = fingerprint(files, options.quantize)?;
    Ok(Model {
        embedding,
        blocks,
        final_norm,
        head,
        pool,
        isa,
        fingerprint,
        weight_bytes,
        substitutes,
        clamped,
        config,
    })
}

/// What of a model decides which format its tensors get.
pub(super) fn outline(files: &ModelFiles) -> Outline {
    let layer = |t: &TensorInfo| t.name.strip_prefix("model.layers.")?.split_once('.')?.0.parse::<usize>().ok();
    let tied = files.config().is_some_and(|c| c.tie_word_embeddings == Some(true));
    Outline {
        layers: files.tensors().filter_map(layer).max().map_or(0, |last| last + 1),
        tied: tied || files.tensor("lm_head.weight").is_none(),
    }
}

/// A model that was quantised on the way gives other numbers than its files, so its saved sessions are others too.
fn fingerprint(files: &ModelFiles, quantize: Option<Recipe>) -> Result<[u8; 32], EngineError> {
    let plain = files.fingerprint()?;
    let Some(recipe) = quantize else { return Ok(plain) };
    let mut hash = Hash::sha256();
    hash.update(&plain);
    hash.update(recipe.name().as_bytes());
    Ok(hash.bytes())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn embedding_rows(files: &ModelFiles, config: &Config) -> Result<usize, EngineError> {
    let name = "model.embed_tokens.weight";
    let info = files.require(name)?;
    match info.shape.as_slice() {
        &[rows, hidden] if hidden == config.hidden && rows > 0 && (config.vocab == 0 || config.vocab == rows) => {
            Ok(rows)
        }
        _ => Err(EngineError::TensorShape {
            name: name.into(),
            found: info.shape.clone(),
            needed: vec![config.vocab.max(1), config.hidden],
        }),
    }
}

/// Where the row `row` of a head stored for interleaved rotation belongs: pairs (2i, 2i+1) become (i, i + dim/2).
fn interleaved_source(row: usize, head_dim: usize) -> usize {
    let (head, at) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + if at < half { 2 * at } else { 2 * (at - half) + 1 }
}

fn unpermute(bytes: &[u8], rows: usize, head_dim: usize) -> Vec<u8> {
    let row_bytes = bytes.len() / rows;
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let source = interleaved_source(row, head_dim);
        out.extend_from_slice(&bytes[source * row_bytes..(source + 1) * row_bytes]);
    }
    out
}

/// Which rows of a tensor to take, and whether they have to be put back in order.
#[derive(Clone, Default)]
struct Part {
    rows: Option<Range<usize>>,
    interleaved: bool,
}

impl Loader<'_> {
    fn info(&self, name: &str) -> Result<&TensorInfo, EngineError> {
        Ok(self.files.require(name)?)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
        let info = self.info(name)?;
        if info.shape.iter().product::<usize>() != len {
            return Err(EngineError::TensorShape { name: name.into(), found: info.shape.clone(), needed: vec![len] });
        }
        let mut values = vec![0.0; len];
        weights::dequantize(info.dtype, &self.files.read(info)?, &mut values)?;
        self.quantizing.as_ref().map_or(Ok(()), |quantizing| quantizing.check(info, &values))?;
        self.watched.step(info.bytes)?;
        Ok(values)
    }

    fn norm(&self, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
        let mut weight = self.vector(name, len)?;
        if self.config.norm_plus_one {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(weight)
    }

    /// A whole matrix, or some of its rows. `shape` is that of the result.
    fn matrix(&self, name: &str, shape: (usize, usize), part: Option<Part>) -> Result<Matrix, EngineError> {
        let (rows, cols) = shape;
        self.watched.step(0)?; // before anything large is read
        let part = part.unwrap_or_default();
        let info = self.info(name)?.clone();
        let wanted = part.rows.clone().unwrap_or(0..rows);
        let whole = part.rows.is_none();
        let first_row = wanted.start;
        let fits =
            matches!(info.shape.as_slice(), &[r, c] if c == cols && (if whole { r == rows } else { r >= wanted.end }));
        if !fits || wanted.len() != rows {
            return Err(EngineError::TensorShape {
                name: name.into(),
                found: info.shape,
                needed: vec![wanted.end, cols],
            });
        }
        if self.mode == WeightMode::Mapped && !part.interleaved {
            let (path, offset) = self.files.location(&info);
            let skip = info.bytes / info.shape[0] * wanted.start;
            let map = self.map(&path.to_path_buf())?;
            self.watched.step(info.bytes / info.shape[0] * rows)?;
            return Ok(Matrix::from_mapped(info.dtype, rows, cols, map, offset as usize + skip, self.isa)?);
        }
        let mut bytes = if whole { self.files.read(&info)? } else { self.files.read_rows(&info, wanted)? };
        if part.interleaved {
            bytes = unpermute(&bytes, rows, self.config.head_dim);
        }
        let mut dtype = info.dtype;
        if let Some(quantizing) = &self.quantizing {
            let moved = |row: usize| if part.interleaved { interleaved_source(row, self.config.head_dim) } else { row };
            let part = Rows { info: &info, cols, bytes, in_file: &|row| first_row + moved(row) };
            (dtype, bytes) = quantizing.apply(self.pool, part, &self.watched)?;
        } else {
            self.watched.step(bytes.len())?;
        }
        if self.mode == WeightMode::F32 || dtype == DType::F32 {
            let mut values = vec![0.0; rows * cols];
            weights::dequantize(dtype, &bytes, &mut values)?;
            drop(bytes);
            return Ok(Matrix::from_f32(rows, cols, values, self.isa)?);
        }
        Ok(Matrix::new(dtype, rows, cols, bytes, self.isa)?)
    }

    fn map(&self, path: &std::path::PathBuf) -> Result<Arc<MappedFile>, EngineError> {
        let mut maps = lock(&self.maps);
        if let Some((_, map)) = maps.iter().find(|(p, _)| p == path) {
            return Ok(map.clone());
        }
        let map = MappedFile::open(path).map_err(|error| EngineError::Config {
            field: "weights mapped".into(),
            why: format!("{}: {error}", path.display()),
        })?;
        let map = Arc::new(map);
        maps.push((path.clone(), map.clone()));
        Ok(map)
    }

    fn bias(&self, weight_name: &str, part: &Part, rows: usize) -> Result<Option<Vec<f32>>, EngineError> {
        let name = weight_name.replace(".weight", ".bias");
        let Some(info) = self.files.tensor(&name) else { return Ok(None) };
        let all = self.vector(&name, info.shape.iter().product())?;
        let wanted = part.rows.clone().unwrap_or(0..all.len());
        let bias = all.get(wanted).filter(|b| b.len() == rows).map(<[f32]>::to_vec).ok_or_else(|| {
            EngineError::TensorShape { name: name.clone(), found: vec![all.len()], needed: vec![rows] }
        })?;
        if part.interleaved {
            let order = |row| bias[interleaved_source(row, self.config.head_dim)];
            return Ok(Some((0..rows).map(order).collect()));
        }
        Ok(Some(bias))
    }

    fn linear(&self, name: &str, shape: (usize, usize), part: Part) -> Result<Linear, EngineError> {
        Ok(Linear { bias: self.bias(name, &part, shape.0)?, weight: self.matrix(name, shape, Some(part))? })
    }

    fn attention(&self, layer: usize) -> Result<Attention, EngineError> {
        let c = self.config;
        let (hidden, dim) = (c.hidden, c.head_dim);
        let (q_rows, kv_rows) = (c.q_heads * dim, c.kv_heads * dim);
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}.weight");
        let interleaved = c.interleaved_qk;
        let (q, k, v) = if c.architecture == "phi3" {
            let fused = name("qkv_proj");
            let rows = |range: Range<usize>| Part { rows: Some(range), interleaved };
            (
                self.linear(&fused, (q_rows, hidden), rows(0..q_rows))?,
                self.linear(&fused, (kv_rows, hidden), rows(q_rows..q_rows + kv_rows))?,
                self.linear(&fused, (kv_rows, hidden), rows(q_rows + kv_rows..q_rows + 2 * kv_rows))?,
            )
        } else {
            let turned = Part { rows: None, interleaved };
            (
                self.linear(&name("q_proj"), (q_rows, hidden), turned.clone())?,
                self.linear(&name("k_proj"), (kv_rows, hidden), turned)?,
                self.linear(&name("v_proj"), (kv_rows, hidden), Part::default())?,
            )
        };
        let o = self.linear(&name("o_proj"), (hidden, q_rows), Part::default())?;
        let norm = |part: &str| c.qk_norm.then(|| self.norm(&name(part), dim)).transpose();
        Ok(Attention { q_norm: norm("q_norm")?, k_norm: norm("k_norm")?, q, k, v, o })
    }

    fn mlp(&self, layer: usize) -> Result<Mlp, EngineError> {
        let c = self.config;
        let (hidden, wide) = (c.hidden, c.intermediate);
        let name = |part: &str| format!("model.layers.{layer}.mlp.{part}.weight");
        let (gate, up) = if c.architecture == "phi3" {
            let fused = name("gate_up_proj");
            let rows = |range: Range<usize>| Part { rows: Some(range), interleaved: false };
            (
                self.linear(&fused, (wide, hidden), rows(0..wide))?,
                self.linear(&fused, (wide, hidden), rows(wide..2 * wide))?,
            )
        } else {
            (
                self.linear(&name("gate_proj"), (wide, hidden), Part::default())?,
                self.linear(&name("up_proj"), (wide, hidden), Part::default())?,
            )
        };
        Ok(Mlp { gate, up, down: self.linear(&name("down_proj"), (hidden, wide), Part::default())? })
    }

    /// All layers, several at a time: a thread that waits for the disk, or interleaves rows, holds up no other.
    fn blocks(&self) -> Result<Vec<Block>, EngineError> {
        let blocks: Vec<OnceLock<Result<Block, EngineError>>> =
            (0..self.config.layers).map(|_| OnceLock::new()).collect();
        self.pool.run(blocks.len(), &|layer| {
            // Each layer is one task, so its place is empty.
            let _ = blocks[layer].set(self.block(layer));
        });
        blocks
            .into_iter()
            .enumerate()
            // Only a panic, which has been passed on by now, leaves a layer out.
            .map(|(layer, block)| block.into_inner().unwrap_or_else(|| self.block(layer)))
            .collect()
    }

    fn block(&self, layer: usize) -> Result<Block, EngineError> {
        let c = self.config;
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let (mlp_norm, post_attention, post_mlp) = if c.post_norms {
            let post = |part: &str| self.norm(&name(part), c.hidden).map(Some);
            (
                self.norm(&name("pre_feedforward_layernorm"), c.hidden)?,
                post("post_attention_layernorm")?,
                post("post_feedforward_layernorm")?,
            )
        } else {
            (self.norm(&name("post_attention_layernorm"), c.hidden)?, None, None)
        };
        Ok(Block {
            attention_norm: self.norm(&name("input_layernorm"), c.hidden)?,
            attention: self.attention(layer)?,
            post_attention_norm: post_attention,
            mlp_norm,
            mlp: self.mlp(layer)?,
            post_mlp_norm: post_mlp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_rows_go_back_to_halves() {
        // one head of 6 rows, stored as pairs (0,3) (1,4) (2,5)
        let stored = [0u8, 3, 1, 4, 2, 5, 10, 13, 11, 14, 12, 15];
        assert_eq!(unpermute(&stored, 12, 6), [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]);
    }
}
