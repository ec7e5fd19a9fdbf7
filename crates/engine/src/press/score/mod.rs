//! Presses that score: one number a slot, higher stays longer. One file each; the simplest is one line.

pub mod cap;
pub mod compactor;
pub mod cur;
pub mod dropkv;
pub mod expected_attention;
pub mod expected_attention_stats;
pub mod h2o;
pub mod keydiff;
pub mod knorm;
pub mod knorm_high;
pub mod kvzap;
pub mod lagkv;
pub mod leverage_score;
pub mod morphkv;
pub mod non_causal_attention;
pub mod observed_attention;
pub mod pyramidkv;
pub mod qfilter;
pub mod r_kv;
pub mod random;
pub mod snapkv;
pub mod streaming_llm;
pub mod tova;
pub mod triattention;
