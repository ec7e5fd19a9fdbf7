//! Tokenizers, chat templates and decoding against real models and independent references.
#![allow(clippy::unwrap_used)]

#[path = "text/common.rs"]
mod common;
#[path = "text/oracle.rs"]
mod oracle;
