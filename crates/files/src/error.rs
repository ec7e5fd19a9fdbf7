//! What can go wrong while a model file is opened or read.
//!
//! Every variant names the file, the place in it and what to do about it, and carries the numbers that
//! decided: a file from the internet is a stranger, and "invalid file" helps nobody.

use std::path::{Path, PathBuf};

/// Error of every reader and writer in this crate.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried, as a verb phrase: "open", "read tensor x".
        action: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A NumPy array that cannot be used.
    #[error("{}: {why}", path.display())]
    Npy {
        /// File.
        path: PathBuf,
        /// What is wrong, and what would do.
        why: String,
    },
    /// The file does not begin with the letters GGUF.
    #[error("{}: not a GGUF file (it begins with {magic:02x?}, not \"GGUF\"); give the path of a .gguf file, or of a folder with config.json", path.display())]
    NotGguf {
        /// File.
        path: PathBuf,
        /// Its first four bytes.
        magic: [u8; 4],
    },
    /// A GGUF file written for big-endian machines.
    #[error("{}: a big-endian GGUF file (version field 0x{version:08x}); only little-endian files are read: fetch or convert the little-endian one", path.display())]
    BigEndian {
        /// File.
        path: PathBuf,
        /// The version field as read.
        version: u32,
    },
    /// A GGUF version that is not read.
    #[error("{}: GGUF version {version}; versions 2 and 3 are read: convert the model again with a current converter", path.display())]
    Version {
        /// File.
        path: PathBuf,
        /// Version claimed.
        version: u32,
    },
    /// A field needs more bytes than the file has.
    #[error("{}: {field} needs {need} bytes at offset {offset}, but the file has {len} bytes; the file is cut short or damaged: fetch it again", path.display())]
    Truncated {
        /// File.
        path: PathBuf,
        /// Field or tensor.
        field: String,
        /// Where it starts.
        offset: u64,
        /// Bytes it needs.
        need: u64,
        /// Bytes the file has.
        len: u64,
    },
    /// The file was longer when it was opened.
    #[error("{}: {field} needs {need} bytes at offset {offset}, but the file has shrunk from {opened} to {now} bytes since it was opened: let the other program finish, then open it again", path.display())]
    Shrunk {
        /// File.
        path: PathBuf,
        /// Tensor or field.
        field: String,
        /// Where it starts.
        offset: u64,
        /// Bytes it needs.
        need: u64,
        /// Length when opened.
        opened: u64,
        /// Length now.
        now: u64,
    },
    /// A count or length is larger than this reader accepts, whatever the file's size.
    #[error("{}: {field} is {value}, more than the {limit} that are accepted; the file is damaged or hostile: fetch it again", path.display())]
    TooLarge {
        /// File.
        path: PathBuf,
        /// Field.
        field: String,
        /// Value claimed.
        value: u64,
        /// Largest value accepted.
        limit: u64,
    },
    /// A field breaks a rule of the format.
    #[error("{}: {field}: {problem}; {FETCH}", path.display())]
    Malformed {
        /// File.
        path: PathBuf,
        /// Field or tensor.
        field: String,
        /// The rule that is broken, with its numbers.
        problem: String,
    },
    /// JSON that does not parse, or does not have the fields.
    #[error("{}: not the JSON that was expected: {source}; {FETCH}", path.display())]
    Json {
        /// File.
        path: PathBuf,
        /// Parser's message with line, column and field.
        source: serde_json::Error,
    },
    /// A metadata key that has to be there is not.
    #[error("{}: metadata key {key} is missing; convert the model again with a current converter", path.display())]
    MissingKey {
        /// File.
        path: PathBuf,
        /// Key.
        key: String,
    },
    /// A metadata key has another type, or a value out of that type's range.
    #[error("{}: metadata key {key} is {found}, but {expected} was expected; convert the model again with a current converter", path.display())]
    KeyType {
        /// File.
        path: PathBuf,
        /// Key.
        key: String,
        /// Type wanted.
        expected: &'static str,
        /// Type found, or the value that does not fit.
        found: String,
    },
    /// A tensor in an element type that cannot be computed with.
    #[error("{}: tensor {tensor} has type {type_name}, which is not read; use a file in one of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS", path.display())]
    UnsupportedType {
        /// File.
        path: PathBuf,
        /// Tensor's name.
        tensor: String,
        /// Its type as the format names it.
        type_name: String,
    },
    /// No such tensor.
    #[error("{}: tensor {tensor} is missing ({count} tensors are there{}); the file is incomplete or of another architecture", path.display(), hint(near))]
    MissingTensor {
        /// File or folder.
        path: PathBuf,
        /// Name wanted.
        tensor: String,
        /// How many tensors there are.
        count: usize,
        /// A name that looks alike.
        near: Option<String>,
    },
    /// A request that does not fit the tensor: rows out of range, a tensor of another file.
    #[error("{}: tensor {tensor}: {problem}", path.display())]
    BadRead {
        /// File.
        path: PathBuf,
        /// Tensor's name.
        tensor: String,
        /// What does not fit.
        problem: String,
    },
    /// The path is no model that can be opened; says what is missing.
    #[error("{}: {problem}; {fix}", path.display())]
    NotAModel {
        /// Path given.
        path: PathBuf,
        /// What was found or missing.
        problem: String,
        /// What to do.
        fix: String,
    },
}

/// What helps against a damaged file.
const FETCH: &str = "the file is damaged or was not made by a standard converter: fetch or convert it again";

fn hint(near: &Option<String>) -> String {
    near.as_ref().map_or(String::new(), |n| format!(", the nearest is {n}"))
}

impl FileError {
    /// What the operating system answered to `action` ("open", "write").
    pub fn io(path: &Path, action: impl Into<String>, source: std::io::Error) -> Self {
        FileError::Io { path: path.to_owned(), action: action.into(), source }
    }

    pub(crate) fn malformed(path: &Path, field: impl Into<String>, problem: impl Into<String>) -> Self {
        FileError::Malformed { path: path.to_owned(), field: field.into(), problem: problem.into() }
    }

    /// The file or folder that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            FileError::Io { path, .. }
            | FileError::Npy { path, .. }
            | FileError::NotGguf { path, .. }
            | FileError::BigEndian { path, .. }
            | FileError::Version { path, .. }
            | FileError::Truncated { path, .. }
            | FileError::Shrunk { path, .. }
            | FileError::TooLarge { path, .. }
            | FileError::Malformed { path, .. }
            | FileError::Json { path, .. }
            | FileError::MissingKey { path, .. }
            | FileError::KeyType { path, .. }
            | FileError::UnsupportedType { path, .. }
            | FileError::MissingTensor { path, .. }
            | FileError::BadRead { path, .. }
            | FileError::NotAModel { path, .. } => path,
        }
    }
}
