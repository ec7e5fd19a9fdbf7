//! A Hugging Face model in the words of GGUF: what `config.json` and `tokenizer.json` say, as metadata keys.
//!
//! The two formats do not say the same things, and a reader fills what its file leaves out. So what is written is
//! read again before it is used: where the shape, the rotation or the ids of a probing text differ from those of the
//! folder, the model cannot be expressed, and that is an error, not a file that babbles.

mod shape;
mod tokenizer;

use std::path::Path;

use meden_files::ModelFiles;
use meden_files::gguf::GgufWriter;
use meden_files::quantize::Additions;

use crate::error::EngineError;
use crate::model::config::Config;
use crate::text::{TextError, Tokenizer};

/// Why a model's folder cannot become a GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The configuration.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
}

/// Metadata and extra tensors for [`meden_files::quantize::Plan`]; nothing for a model that is a GGUF file already.
/// `scratch` is a file that does not exist yet; it is written, read again and removed.
pub fn additions(files: &ModelFiles, scratch: &Path) -> Result<Additions, ExportError> {
    let Some(file) = files.config() else { return Ok(Additions::default()) };
    let config = Config::read(files)?;
    let mut made = shape::additions(files, file, &config)?;
    let original = match Tokenizer::load(files) {
        Ok(tokenizer) => Some(tokenizer),
        Err(TextError::NoTokenizer { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    made.metadata.extend(tokenizer::metadata(files, original.as_ref())?);
    let checked = check(&made, (files, &config, original.as_ref()), scratch);
    // a scratch file that cannot be removed is a nuisance, not a reason to fail
    let _ = std::fs::remove_file(scratch);
    checked.map(|()| made)
}

fn check(
    made: &Additions,
    (files, config, original): (&ModelFiles, &Config, Option<&Tokenizer>),
    scratch: &Path,
) -> Result<(), ExportError> {
    let mut head = GgufWriter::new();
    for (key, value) in &made.metadata {
        head = head.meta(key, value.clone());
    }
    for (name, values) in &made.vectors {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        head = head.tensor(name, meden_kernels::DType::F32, &[values.len()], bytes);
    }
    head.write(scratch).map_err(EngineError::from)?;
    let again = ModelFiles::open(scratch).map_err(EngineError::from)?;
    shape::check(config, &Config::read(&again)?)?;
    if let Some(original) = original {
        tokenizer::check(files, original, &Tokenizer::load(&again)?)?;
    }
    Ok(())
}
