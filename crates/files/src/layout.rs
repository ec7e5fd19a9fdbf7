//! Which of the files at a path is the model.

use std::path::{Path, PathBuf};

use crate::error::FileError;

/// Largest config.json, generation_config.json or chat template: real ones take a few kB.
pub(crate) const CONFIG_MAX: u64 = 4 << 20;
/// Largest tokenizer_config.json: gemma3's takes 1.2 MB.
pub(crate) const TOKENIZER_MAX: u64 = 8 << 20;

/// chat_template.json, which some processors write.
#[derive(serde::Deserialize)]
pub(crate) struct ChatTemplateFile {
    pub(crate) chat_template: String,
}

/// The weights at a path.
pub(crate) enum Found {
    /// A GGUF file.
    Gguf(PathBuf),
    /// A safetensors file or index.
    Safetensors(PathBuf),
}

/// Decides by name, in a folder by what lies there: index, model.safetensors, the only `.safetensors`,
/// the only `.gguf`.
pub(crate) fn find(path: &Path) -> Result<Found, FileError> {
    if std::fs::metadata(path).map_err(|e| FileError::io(path, "open", e))?.is_dir() {
        return in_folder(path);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
        return Ok(Found::Safetensors(path.to_owned()));
    }
    if name == "config.json" {
        return in_folder(path.parent().unwrap_or(Path::new(".")));
    }
    if name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth") {
        return Err(not_a_model(
            path,
            "it looks like a PyTorch file",
            "give a .gguf, or the .safetensors of the same model",
        ));
    }
    // Whatever it is called: blobs of download caches have no extension. The magic decides.
    Ok(Found::Gguf(path.to_owned()))
}

fn in_folder(folder: &Path) -> Result<Found, FileError> {
    for name in ["model.safetensors.index.json", "model.safetensors"] {
        let file = folder.join(name);
        if file.exists() {
            return Ok(Found::Safetensors(file));
        }
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| FileError::io(folder, "list", e))? {
        let entry = entry.map_err(|e| FileError::io(folder, "list", e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let ending = |end: &str| -> Vec<&String> { names.iter().filter(|n| n.ends_with(end)).collect() };
    let (indices, weights, ggufs) = (ending(".safetensors.index.json"), ending(".safetensors"), ending(".gguf"));
    match (&indices[..], &weights[..], &ggufs[..]) {
        ([one], _, _) | ([], [one], _) => Ok(Found::Safetensors(folder.join(one))),
        ([], [], [one]) => Ok(Found::Gguf(folder.join(one))),
        ([], [], []) => Err(not_a_model(
            folder,
            "there is no .gguf and no .safetensors in this folder",
            "give the path of a model file, or of a folder with config.json and model.safetensors",
        )),
        ([], [], many) => {
            let list: Vec<&str> = many.iter().map(|n| n.as_str()).collect();
            Err(not_a_model(
                folder,
                &format!("there are {} .gguf files in this folder", many.len()),
                &format!("give the path of one of them: {}", list.join(", ")),
            ))
        }
        _ => Err(not_a_model(
            folder,
            "there are several .safetensors files and no model.safetensors.index.json",
            "fetch the index, or give the path of one file",
        )),
    }
}

fn not_a_model(path: &Path, problem: &str, fix: &str) -> FileError {
    FileError::NotAModel { path: path.to_owned(), problem: problem.to_owned(), fix: fix.to_owned() }
}
