//! Tokenizers, chat templates and decoding against real models and independent references.
#![allow(clippy::unwrap_used)]

#[path = "text/common.rs"]
mod common;
#[path = "text/cross_check.rs"]
mod cross_check;
#[path = "text/gguf.rs"]
mod gguf;
#[path = "text/oracle.rs"]
mod oracle;
#[path = "text/properties.rs"]
mod properties;
