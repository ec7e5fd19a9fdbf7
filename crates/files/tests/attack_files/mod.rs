//! The corpus of hostile files: what each tries, and the words it has to be refused with.

mod gguf;
mod safetensors;

/// One hostile file.
pub struct Attack {
    pub file: &'static str,
    /// One line: what it tries.
    pub tries: &'static str,
    /// Words of the error, so that it is refused for the right reason.
    pub says: &'static str,
    pub bytes: Vec<u8>,
}

impl Attack {
    pub fn new(file: &'static str, tries: &'static str, says: &'static str, bytes: impl Into<Vec<u8>>) -> Attack {
        Attack { file, tries, says, bytes: bytes.into() }
    }
}

impl From<crate::common::raw::Raw> for Vec<u8> {
    fn from(raw: crate::common::raw::Raw) -> Vec<u8> {
        raw.bytes
    }
}

/// Folder name and files.
pub fn corpus() -> [(&'static str, Vec<Attack>); 2] {
    [("gguf", gguf::attacks()), ("safetensors", safetensors::attacks())]
}

/// The folder's README.md.
pub fn readme(folder: &str, attacks: &[Attack]) -> String {
    let mut text = format!(
        "# Hostile {folder} files\n\nEach has to be refused in under a second and without much memory, by an error that names \
         the file, the place and the remedy. `crates/files/tests/attacks.rs` writes and runs them.\n\n\
         | file | tries |\n| --- | --- |\n"
    );
    for a in attacks {
        text.push_str(&format!("| {} | {} |\n", a.file, a.tries));
    }
    text
}
