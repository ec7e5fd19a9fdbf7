//! Presses that score: one number a slot, higher stays longer. One file each; the simplest is one line.

pub mod compactor;
pub mod cur;
pub mod expected_attention;
pub mod h2o;
pub mod keydiff;
pub mod knorm;
pub mod knorm_high;
pub mod lagkv;
pub mod leverage_score;
pub mod non_causal_attention;
pub mod observed_attention;
pub mod pyramidkv;
pub mod random;
pub mod snapkv;
pub mod streaming_llm;
pub mod tova;
