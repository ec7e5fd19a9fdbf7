//! Where models and references are.

use std::path::PathBuf;
use std::sync::OnceLock;

use meden_engine::text::Tokenizer;
use meden_files::ModelFiles;
use meden_files::source::{self, ResolveOptions};

/// A built-in model and its tokenizer.
pub struct Model {
    pub files: ModelFiles,
    pub tokenizer: Tokenizer,
}

fn open(name: &str, offline: bool) -> Option<Model> {
    let options = ResolveOptions { offline, ..ResolveOptions::from_env() };
    let path = match source::resolve(name, &options, &mut source::Silent) {
        Ok(path) => path,
        Err(error) if offline => {
            println!("skipped: {name} is not in the cache: {error}");
            return None;
        }
        Err(error) => panic!("{name}: {error}"),
    };
    let files = ModelFiles::open(&path).unwrap();
    let tokenizer = Tokenizer::load(&files).unwrap();
    Some(Model { files, tokenizer })
}

/// The default model, fetched at first use.
pub fn smollm2() -> &'static Model {
    static MODEL: OnceLock<Option<Model>> = OnceLock::new();
    MODEL.get_or_init(|| open("smollm2", false)).as_ref().unwrap()
}

/// The second built-in model, when it is in the cache.
pub fn gemma3() -> Option<&'static Model> {
    static MODEL: OnceLock<Option<Model>> = OnceLock::new();
    MODEL.get_or_init(|| open("gemma3-270m", true)).as_ref()
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

/// A folder of its own, gone at the end.
pub struct Folder(PathBuf);

impl Folder {
    /// `name` has to be the test's own.
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("meden-text-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
