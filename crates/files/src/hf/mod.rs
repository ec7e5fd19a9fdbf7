//! The JSON files beside safetensors weights, as structs that mirror them field for field.
//!
//! Fields that Meden does not know stay in `extra`, so that nothing of a file is lost on the way through.

mod config;
mod generation;
mod rope;
mod tokenizer_config;

pub use config::Config;
pub use generation::GenerationConfig;
pub use rope::{Rope, RopeParameters};
pub use tokenizer_config::{AddedToken, ChatTemplates, NamedTemplate, SpecialToken, TokenizerConfig};

use serde::{Deserialize, Serialize};

/// Fields that no struct names, in the order of the file.
pub type Extra = serde_json::Map<String, serde_json::Value>;

/// A token id, or a list of them: `eos_token_id` comes as either. Files also write -1 for "none", which
/// becomes an empty list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, from = "RawIds")]
pub enum TokenIds {
    /// One id.
    One(u32),
    /// Several ids, any of which ends the text.
    Many(Vec<u32>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawIds {
    One(u32),
    Many(Vec<u32>),
    // Read for its type only: text or a fraction in this place stays an error.
    None(#[allow(dead_code)] i64),
}

impl From<RawIds> for TokenIds {
    fn from(raw: RawIds) -> TokenIds {
        match raw {
            RawIds::One(id) => TokenIds::One(id),
            RawIds::Many(ids) => TokenIds::Many(ids),
            RawIds::None(_) => TokenIds::Many(Vec::new()),
        }
    }
}

impl TokenIds {
    /// The ids as a slice.
    pub fn ids(&self) -> &[u32] {
        match self {
            TokenIds::One(id) => std::slice::from_ref(id),
            TokenIds::Many(ids) => ids,
        }
    }
}
