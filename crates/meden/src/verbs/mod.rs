//! The verbs, one a file: flags, then what is done, then what is shown.

pub mod audit;
pub mod bench;
pub mod chat;
pub mod completions;
pub mod demo;
pub mod eval;
pub mod inspect;
pub mod kv;
pub mod lens;
pub mod man;
pub mod probe;
pub mod pull;
pub mod quantize;
pub mod run;
pub mod sae;
pub mod steer;
pub mod tokenize;
pub mod vision;
