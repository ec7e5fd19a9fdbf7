//! `tokenizer_config.json`: special tokens, what is added around a text, the chat template.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Extra;

/// Mirrors the file; every field may be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenizerConfig {
    /// Class of the tokenizer in the transformers library.
    pub tokenizer_class: Option<String>,
    /// First token of a text.
    pub bos_token: Option<SpecialToken>,
    /// Token that ends a text.
    pub eos_token: Option<SpecialToken>,
    /// Padding.
    pub pad_token: Option<SpecialToken>,
    /// What stands for unknown text.
    pub unk_token: Option<SpecialToken>,
    /// Whether a text begins with `bos_token`.
    pub add_bos_token: Option<bool>,
    /// Whether a text ends with `eos_token`.
    pub add_eos_token: Option<bool>,
    /// Added tokens by id (as a string, as JSON has it).
    pub added_tokens_decoder: BTreeMap<String, AddedToken>,
    /// Jinja source, or several by name.
    pub chat_template: Option<ChatTemplates>,
    /// Context length in tokens; files write 1e30 for "none".
    pub model_max_length: Option<f64>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl TokenizerConfig {
    /// The chat template: the only one, or the one named "default".
    pub fn default_chat_template(&self) -> Option<&str> {
        match self.chat_template.as_ref()? {
            ChatTemplates::One(text) => Some(text),
            ChatTemplates::Named(list) => list.iter().find(|t| t.name == "default").map(|t| t.template.as_str()),
        }
    }
}

/// A special token: its text, or an object with flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SpecialToken {
    /// Text alone.
    Text(String),
    /// With flags.
    Token(AddedToken),
}

impl SpecialToken {
    /// The token's text.
    pub fn text(&self) -> &str {
        match self {
            SpecialToken::Text(t) => t,
            SpecialToken::Token(t) => &t.content,
        }
    }
}

/// A token that was added to the vocabulary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddedToken {
    /// Its text.
    pub content: String,
    /// Eats white space to its left.
    #[serde(default)]
    pub lstrip: bool,
    /// Eats white space to its right.
    #[serde(default)]
    pub rstrip: bool,
    /// Only matches whole words.
    #[serde(default)]
    pub single_word: bool,
    /// Matches in normalised text.
    #[serde(default)]
    pub normalized: bool,
    /// Left out when a text is decoded for people.
    #[serde(default)]
    pub special: bool,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

/// `chat_template`: one text, or a list of named ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ChatTemplates {
    /// One.
    One(String),
    /// Several: "default", "tool_use", …
    Named(Vec<NamedTemplate>),
}

/// A chat template with its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedTemplate {
    /// Name.
    pub name: String,
    /// Jinja source.
    pub template: String,
}
