//! All files of one model behind one door, whatever they are.
//!
//! A `.gguf` holds everything; a Hugging Face folder holds weights, settings and tokenizer apart. Above
//! this door tensors have Hugging Face names and nobody asks which kind it was, but where the two store
//! different numbers ([`crate::names`] says which).

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::FileError;
use crate::gguf::Gguf;
use crate::hf::{Config, GenerationConfig, TokenizerConfig};
use crate::safetensors_file::Safetensors;
use crate::storage::Storage;
use crate::tensor::{self, TensorInfo, UnsupportedTensor};
use crate::{fingerprint, json, layout, names};

/// An open model: a `.gguf`, a folder, or a `.safetensors` beside its config.json.
#[derive(Debug)]
pub struct ModelFiles {
    path: PathBuf,
    weights: Weights,
    architecture: String,
    tensors: Vec<TensorInfo>,
    unsupported: Vec<UnsupportedTensor>,
    index: HashMap<String, usize>,
    beside: Beside,
}

#[derive(Debug)]
enum Weights {
    Gguf(Gguf),
    Safetensors(Safetensors),
}

/// What lies beside safetensors weights; nothing for a GGUF.
#[derive(Debug, Default)]
struct Beside {
    config: Option<(PathBuf, Config)>,
    generation: Option<GenerationConfig>,
    tokenizer: Option<PathBuf>,
    tokenizer_config: Option<TokenizerConfig>,
    chat_template: Option<String>,
}

impl ModelFiles {
    /// Opens a model: a `.gguf` file, a folder with config.json and `*.safetensors` (or with one
    /// `.gguf`), or a `.safetensors` file or index beside its config.json. Heads only; no tensor is read.
    pub fn open(path: &Path) -> Result<ModelFiles, FileError> {
        match layout::find(path)? {
            layout::Found::Gguf(file) => Self::open_gguf(path, &file),
            layout::Found::Safetensors(file) => Self::open_safetensors(path, &file),
        }
    }

    fn open_gguf(path: &Path, file: &Path) -> Result<ModelFiles, FileError> {
        let gguf = Gguf::open(file)?;
        let parts = gguf.opt_u32("split.count")?.unwrap_or(1);
        if parts > 1 {
            return Err(FileError::NotAModel {
                path: file.to_owned(),
                problem: format!("it is one of {parts} parts of a split GGUF"),
                fix: "join the parts first (llama-gguf-split --merge) and give the whole file".into(),
            });
        }
        let architecture = gguf.architecture()?.to_owned();
        let rename = |name: &str| names::to_hugging_face(&architecture, name);
        let tensors = gguf.tensors().iter().map(|t| TensorInfo { name: rename(&t.name), ..t.clone() }).collect();
        let unsupported =
            gguf.unsupported().iter().map(|u| UnsupportedTensor { name: rename(&u.name), ..u.clone() }).collect();
        Self::join(path, Weights::Gguf(gguf), architecture, (tensors, unsupported), Beside::default())
    }

    fn open_safetensors(path: &Path, file: &Path) -> Result<ModelFiles, FileError> {
        let beside = Beside::read(file)?;
        let Some((_, config)) = &beside.config else {
            return Err(FileError::NotAModel {
                path: file.to_owned(),
                problem: "there is no config.json beside it".into(),
                fix: "put the model's config.json, tokenizer.json and tokenizer_config.json into the same folder"
                    .into(),
            });
        };
        let architecture = config.architecture().to_owned();
        let weights = Safetensors::open(file)?;
        let tensors = weights
            .tensors()
            .iter()
            .map(|t| TensorInfo { name: names::without_wrapper(&t.name), ..t.clone() })
            .collect();
        let unsupported = weights
            .unsupported()
            .iter()
            .map(|u| UnsupportedTensor { name: names::without_wrapper(&u.name), ..u.clone() })
            .collect();
        Self::join(path, Weights::Safetensors(weights), architecture, (tensors, unsupported), beside)
    }

    fn join(
        path: &Path,
        weights: Weights,
        architecture: String,
        (tensors, unsupported): (Vec<TensorInfo>, Vec<UnsupportedTensor>),
        beside: Beside,
    ) -> Result<ModelFiles, FileError> {
        let mut index = HashMap::with_capacity(tensors.len());
        for (i, t) in tensors.iter().enumerate() {
            if index.insert(t.name.clone(), i).is_some() {
                let problem = "two tensors of the file mean this one";
                return Err(FileError::malformed(path, format!("tensor {}", t.name), problem));
            }
        }
        Ok(ModelFiles { path: path.to_owned(), weights, architecture, tensors, unsupported, index, beside })
    }

    /// Path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The GGUF file, when it is one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.weights {
            Weights::Gguf(gguf) => Some(gguf),
            Weights::Safetensors(_) => None,
        }
    }

    /// config.json, when the model is a folder.
    pub fn config(&self) -> Option<&Config> {
        self.beside.config.as_ref().map(|(_, config)| config)
    }

    /// generation_config.json, when there is one.
    pub fn generation_config(&self) -> Option<&GenerationConfig> {
        self.beside.generation.as_ref()
    }

    /// Path of tokenizer.json, when there is one.
    pub fn tokenizer_json(&self) -> Option<&Path> {
        self.beside.tokenizer.as_deref()
    }

    /// tokenizer_config.json, when there is one.
    pub fn tokenizer_config(&self) -> Option<&TokenizerConfig> {
        self.beside.tokenizer_config.as_ref()
    }

    /// Jinja source of the chat template: the GGUF key, or chat_template.jinja, chat_template.json or
    /// tokenizer_config.json in this order (the newer spelling first).
    pub fn chat_template(&self) -> Option<String> {
        match &self.weights {
            Weights::Gguf(gguf) => gguf.opt_str("tokenizer.chat_template").ok().flatten().map(str::to_owned),
            Weights::Safetensors(_) => self.beside.chat_template.clone(),
        }
    }

    /// "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", or whatever else a GGUF names.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Tensors that can be read, under Hugging Face names, in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// Tensors of element types that cannot be read, under Hugging Face names.
    pub fn unsupported(&self) -> &[UnsupportedTensor] {
        &self.unsupported
    }

    /// A tensor by its Hugging Face name; `None` also for one of a type that is not read.
    pub fn tensor(&self, hf_name: &str) -> Option<&TensorInfo> {
        self.index.get(hf_name).map(|&i| &self.tensors[i])
    }

    /// The same for a tensor that has to be there: says whether it is missing or of a type not read.
    pub fn require(&self, hf_name: &str) -> Result<&TensorInfo, FileError> {
        self.tensor(hf_name).ok_or_else(|| tensor::absent(&self.path, &self.tensors, &self.unsupported, hf_name))
    }

    /// All bytes of a tensor, in the file's layout.
    pub fn read(&self, t: &TensorInfo) -> Result<Vec<u8>, FileError> {
        match &self.weights {
            Weights::Gguf(g) => g.read(t),
            Weights::Safetensors(s) => s.read(t),
        }
    }

    /// Bytes of whole rows of a tensor.
    pub fn read_rows(&self, t: &TensorInfo, rows: Range<usize>) -> Result<Vec<u8>, FileError> {
        match &self.weights {
            Weights::Gguf(g) => g.read_rows(t, rows),
            Weights::Safetensors(s) => s.read_rows(t, rows),
        }
    }

    /// File and byte offset where a tensor of this model lies, for mapping it.
    pub fn location(&self, t: &TensorInfo) -> (&Path, u64) {
        let path = self.storages().get(t.file).map_or(self.path.as_path(), |(s, _)| s.path());
        (path, t.offset)
    }

    /// Whether rows of q and k are stored in neighbouring pairs, see [`names::permuted_heads`].
    pub fn permuted_heads(&self) -> bool {
        self.gguf().is_some() && names::permuted_heads(&self.architecture)
    }

    /// Whether stored norm weights already hold gemma's plus one, see [`names::norms_hold_plus_one`].
    pub fn norms_hold_plus_one(&self) -> bool {
        self.gguf().is_some() && names::norms_hold_plus_one(&self.architecture)
    }

    /// Identity of the model that a saved session is bound to: SHA-256 over the lengths and heads of all
    /// weight files, config.json, and samples of every tensor's bytes. Reads about 16 kB a tensor, not
    /// the gigabytes. Two files differ in it when their lengths, heads or sampled bytes differ; where the
    /// file lies and what it is called does not matter.
    pub fn fingerprint(&self) -> Result<[u8; 32], FileError> {
        let config = match &self.beside.config {
            Some((path, _)) => Some(json::read_bytes(path, layout::CONFIG_MAX)?),
            None => None,
        };
        fingerprint::of(&self.storages(), &self.tensors, config.as_deref())
    }

    /// Weight files with the length of their heads.
    fn storages(&self) -> Vec<(&Storage, u64)> {
        match &self.weights {
            Weights::Gguf(g) => vec![(g.storage(), g.data_start())],
            Weights::Safetensors(s) => s.storages().collect(),
        }
    }
}

impl Beside {
    /// Reads what lies in the folder of a weights file; only config.json has to be there.
    fn read(weights: &Path) -> Result<Beside, FileError> {
        let there = |name: &str| Some(weights.with_file_name(name)).filter(|p| p.exists());
        let mut beside = Beside::default();
        if let Some(path) = there("config.json") {
            let config = Config::open(&path)?;
            beside.config = Some((path, config));
        }
        if let Some(path) = there("generation_config.json") {
            beside.generation = Some(json::read(&path, layout::CONFIG_MAX)?);
        }
        if let Some(path) = there("tokenizer_config.json") {
            beside.tokenizer_config = Some(json::read(&path, layout::TOKENIZER_MAX)?);
        }
        beside.tokenizer = there("tokenizer.json");
        beside.chat_template = match (there("chat_template.jinja"), there("chat_template.json")) {
            (Some(jinja), _) => Some(json::read_text(&jinja, layout::CONFIG_MAX)?),
            (None, Some(wrapped)) => {
                Some(json::read::<layout::ChatTemplateFile>(&wrapped, layout::CONFIG_MAX)?.chat_template)
            }
            (None, None) => beside.tokenizer_config.as_ref().and_then(|t| t.default_chat_template()).map(str::to_owned),
        };
        Ok(beside)
    }
}
