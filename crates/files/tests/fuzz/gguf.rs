//! Mutated GGUF files.

use super::Random;
use crate::common::raw::{ARRAY, BOOL, F32, Raw, STRING, U8, U32, U64};

/// A good file with every kind of field in it.
fn good() -> Raw {
    Raw::llama(4, 8)
        .key("general.alignment", U32)
        .u32(32)
        .key("llama.block_count", U64)
        .u64(1)
        .key("tokenizer.ggml.tokens", ARRAY)
        .array(STRING, 3)
        .string("a")
        .string("bc")
        .string("")
        .key("tokenizer.ggml.scores", ARRAY)
        .array(F32, 3)
        .raw(&[0; 12])
        .key("flags", ARRAY)
        .array(BOOL, 2)
        .raw(&[0, 1])
        .key("nested", ARRAY)
        .array(ARRAY, 2)
        .array(U8, 2)
        .raw(&[1, 2])
        .array(U64, 1)
        .u64(9)
        .key("yes", BOOL)
        .raw(&[1])
        .key("split.count", U32)
        .u32(1)
        .tensor("token_embd.weight", &[32, 3], 3, 0)
        .tensor("output_norm.weight", &[32], 0, 64)
        .tensor("blk.0.attn_q.weight", &[32, 2], 1, 192)
        .tensor("blk.0.x", &[16], 26, 320)
        .data(384)
}

/// One mutated file.
pub fn gguf(random: &mut Random) -> Vec<u8> {
    let Raw { mut bytes, fields } = good();
    if random.below(8) > 0 {
        for _ in 0..=random.below(3) {
            let (at, width) = random.pick(&fields);
            let mut old = [0; 8];
            old[..width].copy_from_slice(&bytes[at..at + width]);
            let new = random.number(u64::from_le_bytes(old)).to_le_bytes();
            bytes[at..at + width].copy_from_slice(&new[..width]);
        }
    }
    if random.below(3) == 0 {
        random.bytes(&mut bytes);
    }
    bytes
}
