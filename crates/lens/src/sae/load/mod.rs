//! Autoencoders of other projects, one family a file.
//!
//! | family | files |
//! | --- | --- |
//! | [SAELens](saelens) | `cfg.json`, `sae_weights.safetensors` |
//! | [Gemma Scope](gemma_scope) | `params.npz` |
//! | [sparsify], EleutherAI's | `cfg.json`, `sae.safetensors` |
//! | [Llama Scope](llama_scope) | `hyperparams.json`, `checkpoints/final.safetensors` |
//! | [dictionary_learning] | `config.json`, `ae.safetensors` (or `ae.pt`, which has to be converted) |
//!
//! Orientation is decided by shapes, never by a file's word alone; what cannot be decided is refused.

mod dictionary_learning;
mod gemma_scope;
mod llama_scope;
mod saelens;
mod sparsify;

use std::path::{Path, PathBuf};

use meden_files::FileError;
use meden_files::hash::Hash;
use meden_files::safetensors_file::Safetensors;
use meden_kernels::weights::dequantize;
use serde_json::Value;

use super::error::SaeError;
use super::parts::Parts;

/// Which project's files they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// SAELens, and what `meden sae train` writes.
    SaeLens,
    /// Google DeepMind's Gemma Scope.
    GemmaScope,
    /// EleutherAI's sae and sparsify.
    Sparsify,
    /// OpenMOSS's Llama Scope.
    LlamaScope,
    /// saprmarks's dictionary_learning.
    DictionaryLearning,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 5] =
        [Family::SaeLens, Family::GemmaScope, Family::Sparsify, Family::LlamaScope, Family::DictionaryLearning];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Family::SaeLens => "SAELens",
            Family::GemmaScope => "Gemma Scope",
            Family::Sparsify => "sparsify",
            Family::LlamaScope => "Llama Scope",
            Family::DictionaryLearning => "dictionary_learning",
        }
    }

    /// Files that make a folder one of the family, the weights last.
    fn files(self) -> &'static [&'static str] {
        match self {
            Family::SaeLens => &["cfg.json", "sae_weights.safetensors"],
            Family::GemmaScope => &["params.npz"],
            Family::Sparsify => &["cfg.json", "sae.safetensors"],
            Family::LlamaScope => &["hyperparams.json", "checkpoints/final.safetensors"],
            Family::DictionaryLearning => &["config.json", "ae.safetensors"],
        }
    }
}

/// Reads an autoencoder from its folder, or from the file of its weights.
///
/// # Errors
/// A folder that is none of the families; a file that is damaged; parts that do not fit.
pub fn load(path: &Path) -> Result<Parts, SaeError> {
    let folder = if path.is_dir() { path.to_owned() } else { folder_of(path)? };
    if folder.join("ae.pt").is_file() && !folder.join("ae.safetensors").is_file() {
        return Err(dictionary_learning::pickled(&folder.join("ae.pt")));
    }
    let family = Family::ALL.into_iter().find(|f| f.files().iter().all(|name| folder.join(name).is_file()));
    let Some(family) = family else {
        let wanted: Vec<String> =
            Family::ALL.iter().map(|f| format!("{} ({})", f.name(), f.files().join(" + "))).collect();
        let fix = format!("an autoencoder is a folder of one of: {}", wanted.join("; "));
        return Err(SaeError::format(&folder, "no autoencoder is in it", fix));
    };
    let mut parts = match family {
        Family::SaeLens => saelens::read(&folder)?,
        Family::GemmaScope => gemma_scope::read(&folder)?,
        Family::Sparsify => sparsify::read(&folder)?,
        Family::LlamaScope => llama_scope::read(&folder)?,
        Family::DictionaryLearning => dictionary_learning::read(&folder)?,
    };
    parts.origin.family = family.name().to_owned();
    let weights = family.files().last().map_or(folder.clone(), |name| folder.join(name));
    parts.origin.sha256 = Some(sha256(&weights)?);
    parts.check()?;
    Ok(parts)
}

/// The folder that a file of weights belongs to.
fn folder_of(path: &Path) -> Result<PathBuf, SaeError> {
    let parent = path.parent().map(Path::to_owned).unwrap_or_default();
    let folder = if path.ends_with("checkpoints/final.safetensors") { parent.join("..") } else { parent };
    match path.is_file() {
        true => Ok(folder),
        false => Err(SaeError::format(path, "there is no such file or folder", "give the folder of an autoencoder")),
    }
}

fn sha256(path: &Path) -> Result<String, SaeError> {
    use std::io::Read;
    let io = |e| FileError::io(path, "read", e);
    let mut file = std::fs::File::open(path).map_err(io)?;
    let (mut hash, mut piece) = (Hash::sha256(), vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut piece).map_err(io)?;
        if n == 0 {
            return Ok(hash.hex());
        }
        hash.update(&piece[..n]);
    }
}

/// Most bytes of a configuration.
const CONFIG: u64 = 4 << 20;

/// A configuration in JSON.
fn config(path: &Path) -> Result<Value, SaeError> {
    let size = std::fs::metadata(path).map_err(|e| FileError::io(path, "open", e))?.len();
    if size > CONFIG {
        return Err(SaeError::format(path, format!("{size} bytes are no configuration"), "fetch it again"));
    }
    let text = std::fs::read(path).map_err(|e| FileError::io(path, "read", e))?;
    serde_json::from_slice(&text)
        .map_err(|e| SaeError::format(path, format!("no JSON: {e}"), "the file is damaged: fetch it again"))
}

/// A whole number of a configuration.
fn number(config: &Value, key: &str) -> Option<usize> {
    config.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
}

/// A text of a configuration.
fn text(config: &Value, key: &str) -> Option<String> {
    config.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// A tensor of floats: shape and values.
fn floats(file: &Safetensors, name: &str) -> Result<(Vec<usize>, Vec<f32>), SaeError> {
    let info = file.tensor(name)?;
    let bytes = file.read(info)?;
    let mut values = vec![0f32; info.elements()];
    dequantize(info.dtype, &bytes, &mut values)?;
    Ok((info.shape.clone(), values))
}

/// A vector of so many values.
fn vector(file: &Safetensors, name: &'static str, n: usize) -> Result<Vec<f32>, SaeError> {
    let (shape, values) = floats(file, name)?;
    if shape == [n] || shape.iter().product::<usize>() == n {
        return Ok(values);
    }
    Err(SaeError::Shape { what: name, got: values.len(), want: n, width: n, d: 1 })
}

/// Rows of latents, (n, d), of a matrix that is stored so or as its transpose.
fn by_latent(
    path: &Path,
    name: &str,
    (shape, values): (&[usize], Vec<f32>),
    n: usize,
    d: usize,
) -> Result<Vec<f32>, SaeError> {
    if n == d {
        let problem = format!("{name} is {n} x {n}: nothing says which way it lies");
        return Err(SaeError::format(path, problem, "an autoencoder with as many latents as values is not read"));
    }
    if shape == [n, d] {
        return Ok(values);
    }
    if shape == [d, n] {
        let mut out = vec![0f32; n * d];
        for (i, row) in values.chunks_exact(n).enumerate() {
            row.iter().enumerate().for_each(|(latent, &w)| out[latent * d + i] = w);
        }
        return Ok(out);
    }
    let problem = format!("{name} is {shape:?}; {n} latents of {d} values were expected");
    Err(SaeError::format(path, problem, "the file is damaged or its configuration belongs to another one"))
}
