//! Where models and references are.

use std::path::PathBuf;
use std::sync::OnceLock;

use meden_engine::text::Tokenizer;
use meden_files::ModelFiles;

/// A built-in model and its tokenizer.
pub struct Model {
    pub files: ModelFiles,
    pub tokenizer: Tokenizer,
}

fn open(name: &str) -> Option<Model> {
    let home = std::env::var("HOME").ok()?;
    let path = PathBuf::from(home).join(".cache/meden-peers/models").join(match name {
        "smollm2" => "smollm2-q4_1.gguf",
        _ => "gemma-3-270m-q4_k_m.gguf",
    });
    let files = ModelFiles::open(&path).unwrap();
    let start = std::time::Instant::now();
    let tokenizer = Tokenizer::load(&files).unwrap();
    println!("{name}: tokenizer loaded in {:?}", start.elapsed());
    Some(Model { files, tokenizer })
}

/// The default model.
pub fn smollm2() -> &'static Model {
    static MODEL: OnceLock<Option<Model>> = OnceLock::new();
    MODEL.get_or_init(|| open("smollm2")).as_ref().unwrap()
}

/// The second built-in model.
pub fn gemma3() -> Option<&'static Model> {
    static MODEL: OnceLock<Option<Model>> = OnceLock::new();
    MODEL.get_or_init(|| open("gemma3-270m")).as_ref()
}

/// A reference file, parsed; `None`, with a printed line, when the folder of references is not there.
pub fn reference(path: &str) -> Option<serde_json::Value> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/oracle")).join(path);
    match std::fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(_) => {
            println!("skipped: no reference file {}", path.display());
            None
        }
    }
}
