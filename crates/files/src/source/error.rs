//! What can go wrong while a model is found or fetched. No variant names a package registry's host.

use std::path::PathBuf;

use crate::error::FileError;

/// Error of [`super::resolve`].
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Neither a path nor a name.
    #[error("{name}: there is no such file or folder, and no built-in model of this name (there are: {known}){hint}")]
    UnknownName {
        /// As given.
        name: String,
        /// Built-in names.
        known: String,
        /// A better spelling, when one can be guessed.
        hint: String,
    },
    /// `hf:` with something that is no model's name.
    #[error("hf:{name}: {problem}; write hf:owner/name or hf:owner/name:file.gguf")]
    BadHubName {
        /// What follows `hf:`.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Not here, and fetching is switched off.
    #[error("{name} is not on this machine and HF_HUB_OFFLINE is set: {advice}")]
    Offline {
        /// As given.
        name: String,
        /// What to do.
        advice: String,
    },
    /// Every way to a built-in model has failed.
    #[error("{name} could not be fetched: {}; {advice}", tried.join("; "))]
    NoWay {
        /// Built-in name.
        name: String,
        /// Each way with its failure.
        tried: Vec<String>,
        /// What to do.
        advice: String,
    },
    /// The Python package route has failed.
    #[error("Python package {package}: {problem}")]
    Package {
        /// Package and version.
        package: String,
        /// What happened.
        problem: String,
    },
    /// What was fetched is not what it should be; it was deleted.
    #[error(
        "{what}: its {kind} is {found}, not {expected}; what was fetched has been deleted: try again, and if it stays so, do not use this source"
    )]
    WrongHash {
        /// File.
        what: String,
        /// "SHA-256", "git hash" or "length in bytes".
        kind: &'static str,
        /// Wanted.
        expected: String,
        /// Computed.
        found: String,
    },
    /// 401 or 403.
    #[error(
        "hf:{repo}: access denied (status {status}); if the name is right, accept the model's licence on its page of the Hugging Face hub and set HF_TOKEN to a token of that account"
    )]
    Denied {
        /// owner/name.
        repo: String,
        /// HTTP status.
        status: u16,
    },
    /// 404.
    #[error("hf:{repo}: the Hugging Face hub has no {what}; check the spelling")]
    NotFound {
        /// owner/name.
        repo: String,
        /// "such model" or the file.
        what: String,
    },
    /// Any other refusal.
    #[error("hf:{repo}: the Hugging Face hub answered with status {status} for {what}; try again later")]
    Status {
        /// owner/name.
        repo: String,
        /// File or list.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// No connection, or one that broke.
    #[error(
        "hf:{repo}: cannot reach the Hugging Face hub ({problem}); check the network, or set HF_ENDPOINT to a mirror"
    )]
    Connection {
        /// owner/name.
        repo: String,
        /// Cause.
        problem: String,
    },
    /// The body ended early, again and again.
    #[error("hf:{repo}: {file} broke off at {got} of {want} bytes ({problem}); run it again to go on from there")]
    Truncated {
        /// owner/name.
        repo: String,
        /// File.
        file: String,
        /// Bytes here.
        got: u64,
        /// Bytes it has.
        want: u64,
        /// What ended it.
        problem: String,
    },
    /// An answer that makes no sense.
    #[error("hf:{repo}: the answer for {what} is not what the Hugging Face hub sends: {problem}; check HF_ENDPOINT")]
    BadAnswer {
        /// owner/name.
        repo: String,
        /// File or list.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// The repository does not say by itself which file is meant.
    #[error("hf:{repo}: {problem}{}", list(files, repo))]
    Choose {
        /// owner/name.
        repo: String,
        /// Why none was chosen.
        problem: String,
        /// Candidates.
        files: Vec<String>,
    },
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Verb phrase.
        action: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file that was fetched cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The candidates as names that can be pasted.
fn list(files: &[String], repo: &str) -> String {
    files.iter().map(|f| format!("\n  hf:{repo}:{f}")).collect()
}

impl SourceError {
    pub(crate) fn io(path: &std::path::Path, action: &'static str, source: std::io::Error) -> Self {
        SourceError::Io { path: path.to_owned(), action, source }
    }
}
