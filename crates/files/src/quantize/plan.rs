//! What a file will hold: every tensor with its format, and the metadata.

use meden_kernels::DType;

use super::{Outline, QuantizeError, Recipe, Substitutes};
use crate::ModelFiles;
use crate::error::FileError;
use crate::gguf::{TensorHead, Value};
use crate::names;
use crate::tensor::TensorInfo;

/// What a GGUF file needs and a Hugging Face folder has not in this form.
#[derive(Debug, Default)]
pub struct Additions {
    /// All metadata: architecture, sizes, tokenizer, chat template.
    pub metadata: Vec<(String, Value)>,
    /// Tensors that follow from the configuration, such as rotation factors.
    pub vectors: Vec<(String, Vec<f32>)>,
}

/// How the numbers of one tensor change on the way, beside their format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// Gemma's norms: files of the one kind hold the 1 that the model adds, those of the other do not.
    PlusOne,
    /// Rows of q and k: the two halves of a head become neighbouring pairs. Holds the rows of a head.
    Interleave(usize),
}

#[derive(Debug)]
pub(super) struct Item {
    pub(super) source: TensorInfo,
    pub(super) change: Change,
}

/// A file that is to be written.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(super) files: &'a ModelFiles,
    pub(super) metadata: Vec<(String, Value)>,
    pub(super) heads: Vec<TensorHead>,
    /// As many as `heads`, but for the vectors at the end.
    pub(super) items: Vec<Item>,
    pub(super) vectors: Vec<Vec<f32>>,
    substitutes: Substitutes,
    requantized: usize,
}

impl<'a> Plan<'a> {
    /// Plans the file of a model. `additions` are for a Hugging Face folder; a GGUF file has its own metadata, which
    /// is carried over whole. Reads no tensor.
    pub fn new(files: &'a ModelFiles, recipe: Recipe, additions: Additions) -> Result<Plan<'a>, QuantizeError> {
        if let Some(u) = files.unsupported().first() {
            return Err(FileError::UnsupportedType {
                path: files.path().to_owned(),
                tensor: u.name.clone(),
                type_name: u.type_name.clone(),
            }
            .into());
        }
        let sources = sources(files)?;
        let outline = Outline {
            layers: sources.iter().filter_map(|(name, _)| layer(name)).max().map_or(0, |last| last + 1),
            tied: !sources.iter().any(|(name, _)| name == "output.weight"),
        };
        let mut plan = Plan {
            files,
            metadata: metadata(files, recipe, additions.metadata),
            heads: Vec::new(),
            items: Vec::new(),
            vectors: Vec::new(),
            substitutes: Substitutes::default(),
            requantized: 0,
        };
        for (name, source) in sources {
            let choice = recipe.choose(outline, &name, &source.shape);
            plan.substitutes.count(choice);
            plan.requantized += usize::from(!source.dtype.is_float() && source.dtype != choice.dtype);
            plan.items.push(Item { change: change(files, &name, &source)?, source: source.clone() });
            plan.heads.push(TensorHead { name, dtype: choice.dtype, shape: source.shape });
        }
        for (name, values) in additions.vectors {
            plan.heads.push(TensorHead { name, dtype: DType::F32, shape: vec![values.len()] });
            plan.vectors.push(values);
        }
        Ok(plan)
    }

    /// Tensors that do not get the recipe's format.
    pub fn substitutes(&self) -> &Substitutes {
        &self.substitutes
    }

    /// Tensors that were quantised before and are to be rounded a second time.
    pub fn requantized(&self) -> usize {
        self.requantized
    }

    /// Bytes of tensor data that will be read.
    pub fn source_bytes(&self) -> u64 {
        self.items.iter().map(|i| i.source.bytes as u64).sum()
    }

    /// Bytes of tensor data that will be written.
    pub fn bytes(&self) -> u64 {
        self.heads.iter().map(|h| crate::tensor::byte_len(h.dtype, &h.shape).unwrap_or(0) as u64).sum()
    }

    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.heads.iter().map(|h| h.shape.iter().product::<usize>() as u64).sum()
    }

    /// Formats with the number of tensors that get them, most bytes first.
    pub fn formats(&self) -> Vec<(DType, usize)> {
        let mut rows: Vec<(DType, usize, usize)> = Vec::new();
        for head in &self.heads {
            let bytes = crate::tensor::byte_len(head.dtype, &head.shape).unwrap_or(0);
            match rows.iter_mut().find(|r| r.0 == head.dtype) {
                Some(row) => (row.1, row.2) = (row.1 + 1, row.2 + bytes),
                None => rows.push((head.dtype, 1, bytes)),
            }
        }
        rows.sort_by_key(|r| std::cmp::Reverse(r.2));
        rows.into_iter().map(|(dtype, tensors, _)| (dtype, tensors)).collect()
    }
}

/// Every tensor under its GGUF name, in the order of the file.
fn sources(files: &ModelFiles) -> Result<Vec<(String, TensorInfo)>, QuantizeError> {
    if let Some(gguf) = files.gguf() {
        return Ok(gguf.tensors().iter().map(|t| (t.name.clone(), t.clone())).collect());
    }
    let tied = files.config().is_some_and(|c| c.tie_word_embeddings == Some(true));
    let mut sources = Vec::new();
    for tensor in files.tensors() {
        // a tied output matrix is the embedding once more; old llama files carry frequencies that follow from the base
        if tied && tensor.name == "lm_head.weight" || tensor.name.ends_with("rotary_emb.inv_freq") {
            continue;
        }
        let name = names::to_gguf(files.architecture(), &tensor.name);
        if name == tensor.name {
            return Err(QuantizeError::NoName { tensor: name, architecture: files.architecture().to_owned() });
        }
        sources.push((name, tensor.clone()));
    }
    Ok(sources)
}

fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

fn change(files: &ModelFiles, name: &str, source: &TensorInfo) -> Result<Change, QuantizeError> {
    let Some(config) = files.config().filter(|_| files.gguf().is_none()) else { return Ok(Change::None) };
    let architecture = files.architecture();
    if names::norms_hold_plus_one(architecture) && name.contains("norm") {
        return Ok(Change::PlusOne);
    }
    let turned = name.contains(".attn_q.") || name.contains(".attn_k.");
    if !names::permuted_heads(architecture) || !turned {
        return Ok(Change::None);
    }
    let head = config.head_dim.unwrap_or(config.hidden_size / config.num_attention_heads);
    let rows = source.shape.first().copied().unwrap_or(0);
    if head == 0 || !head.is_multiple_of(2) || !rows.is_multiple_of(head) {
        let problem = format!("its {rows} rows are no whole number of heads of {head}");
        return Err(FileError::malformed(files.path(), format!("tensor {}", source.name), problem).into());
    }
    Ok(Change::Interleave(head))
}

/// The file's own metadata or what was given, with what says how it is quantised.
fn metadata(files: &ModelFiles, recipe: Recipe, given: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let mut metadata = match files.gguf() {
        Some(gguf) => gguf.metadata().iter().map(|(k, v)| (k.to_owned(), v.clone())).collect(),
        None => given,
    };
    let mut set = |key: &str, value: u32| match metadata.iter_mut().find(|(k, _)| k == key) {
        Some((_, old)) => *old = Value::U32(value),
        None => metadata.push((key.to_owned(), Value::U32(value))),
    };
    set("general.file_type", recipe.file_type());
    set("general.quantization_version", 2);
    if let Some(gguf) = files.gguf().filter(|g| g.metadata().get("general.alignment").is_some()) {
        // writers do not agree on this number's width
        set("general.alignment", u32::try_from(gguf.alignment()).unwrap_or(32));
    }
    metadata
}
