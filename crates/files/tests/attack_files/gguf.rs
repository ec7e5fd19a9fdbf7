//! Hostile GGUF files.

use super::Attack;
use crate::common::raw::{ARRAY, BOOL, F32, F64, Raw, STRING, U8, U32, U64};

const PETA: u64 = 1_000_000_000_000_000;

pub(super) fn attacks() -> Vec<Attack> {
    [head(), strings(), arrays(), alignment(), shapes(), places()].into_iter().flatten().collect()
}

fn head() -> Vec<Attack> {
    let key_twice = Raw::llama(0, 2).key("a", U8).raw(&[1]).key("a", U8).raw(&[2]);
    vec![
        Attack::new("empty.gguf", "a file without a byte", "the file is cut short", Vec::new()),
        Attack::new("three-bytes.gguf", "ends inside the magic", "the file is cut short", *b"GGU"),
        Attack::new("other-magic.gguf", "an older format under this name", "not a GGUF file", *b"tjgg\x03\0\0\0"),
        Attack::new("version-0.gguf", "version 0", "GGUF version 0", Raw::gguf(0, 0, 0)),
        Attack::new("version-1.gguf", "version 1, whose counts are 32 bits wide", "GGUF version 1", Raw::gguf(1, 0, 0)),
        Attack::new("version-4.gguf", "a version that does not exist yet", "GGUF version 4", Raw::gguf(4, 0, 0)),
        Attack::new(
            "version-max.gguf",
            "the largest version number",
            "GGUF version 4294967295",
            Raw::gguf(u32::MAX, 0, 0),
        ),
        Attack::new(
            "big-endian.gguf",
            "version 3 written for a big-endian machine",
            "big-endian GGUF",
            Raw::default().raw(b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ),
        Attack::new(
            "tensors-1e15.gguf",
            "43 bytes that claim 10^15 tensors",
            "tensor_count is 1000000000000000",
            Raw::gguf(3, PETA, 0).raw(&[0; 19]),
        ),
        Attack::new("tensors-max.gguf", "2^64 - 1 tensors", "tensor_count is", Raw::gguf(3, u64::MAX, 0)),
        Attack::new(
            "tensors-200000.gguf",
            "a believable count of tensors in a file that cannot hold them",
            "tensor_count needs 4800000 bytes",
            Raw::llama(200_000, 0).data(100),
        ),
        Attack::new("pairs-max.gguf", "2^64 - 1 metadata pairs", "metadata_kv_count is", Raw::gguf(3, 0, u64::MAX)),
        Attack::new(
            "pairs-60000.gguf",
            "a believable count of pairs in a file that cannot hold them",
            "metadata_kv_count needs 780000 bytes",
            Raw::gguf(3, 0, 60_000).raw(&[0; 100]),
        ),
        Attack::new(
            "pairs-hide-tensors.gguf",
            "room for the tensors only until the metadata is read",
            "the file is cut short",
            Raw::llama(2, 1).key("pad", STRING).string(&"x".repeat(60)),
        ),
        Attack::new("counts-only.gguf", "ends behind the version", "tensor_count needs 8 bytes", *b"GGUF\x03\0\0\0"),
        Attack::new("no-architecture.gguf", "an empty model", "general.architecture is missing", Raw::gguf(3, 0, 0)),
        Attack::new(
            "architecture-number.gguf",
            "an architecture that is a number",
            "general.architecture is U32(7)",
            Raw::gguf(3, 0, 1).key("general.architecture", U32).u32(7),
        ),
        Attack::new(
            "key-twice.gguf",
            "a key with two values",
            "a: this metadata key stands in the file twice",
            key_twice,
        ),
    ]
}

fn strings() -> Vec<Attack> {
    let key = |len: u64| Raw::gguf(3, 0, 1).u64(len).raw(b"general.architecture\0\0\0\0");
    let value = |len: u64| Raw::gguf(3, 0, 1).key("general.architecture", STRING).u64(len).raw(b"llama");
    vec![
        Attack::new("key-length-max.gguf", "a key of 2^64 - 1 bytes", "the length of metadata key 0 is", key(u64::MAX)),
        Attack::new(
            "key-length-70000.gguf",
            "a key longer than the format allows",
            "the length of metadata key 0 is 70000",
            key(70_000),
        ),
        Attack::new(
            "key-past-end.gguf",
            "a key that ends one byte behind the file",
            "metadata key 0 needs 25 bytes",
            key(25),
        ),
        Attack::new(
            "key-not-utf8.gguf",
            "a key that is no text",
            "not UTF-8 at byte 33",
            Raw::gguf(3, 0, 1).u64(2).raw(b"a\xff").u32(U8).raw(&[1]),
        ),
        Attack::new(
            "string-max.gguf",
            "a string of 2^64 - 1 bytes",
            "the length of general.architecture is",
            value(u64::MAX),
        ),
        Attack::new(
            "string-negative.gguf",
            "a length with only the top bit",
            "the length of general.architecture is",
            value(1 << 63),
        ),
        Attack::new(
            "string-100-mb.gguf",
            "a believable string that is not there",
            "needs 100000000 bytes",
            value(100_000_000),
        ),
        Attack::new("string-past-end.gguf", "a string that ends one byte behind the file", "needs 6 bytes", value(6)),
        Attack::new(
            "string-not-utf8.gguf",
            "half a character at the end of a string",
            "general.architecture: not UTF-8",
            Raw::gguf(3, 0, 1).key("general.architecture", STRING).u64(2).raw(b"l\xc3"),
        ),
        Attack::new(
            "tensor-name-long.gguf",
            "a tensor's name of 10^15 bytes",
            "the length of the name of tensor 0 is",
            Raw::llama(1, 0).u64(PETA).raw(&[0; 64]),
        ),
        Attack::new(
            "tensor-name-not-utf8.gguf",
            "a tensor's name that is no text",
            "the name of tensor 0: not UTF-8",
            Raw::llama(1, 0).u64(3).raw(b"\xed\xa0\x80").raw(&[0; 64]),
        ),
    ]
}

fn arrays() -> Vec<Attack> {
    let array = |kind, len| Raw::llama(0, 1).key("a", ARRAY).array(kind, len).raw(&[0; 64]);
    let nested = (0..200).fold(Raw::llama(0, 1).key("a", ARRAY), |raw, _| raw.array(ARRAY, 1)).array(U8, 1).raw(&[1]);
    let wide = (0..6).fold(Raw::llama(0, 1).key("a", ARRAY), |raw, _| raw.array(ARRAY, 1)).array(F64, PETA);
    vec![
        Attack::new("array-u8-1e15.gguf", "10^15 bytes in an array", "the length of array a is", array(U8, PETA)),
        Attack::new(
            "array-f64-wraps.gguf",
            "a length whose bytes wrap around to 0",
            "the length of array a is",
            array(F64, 1 << 61),
        ),
        Attack::new(
            "array-f32-100e6.gguf",
            "a believable array that is not there",
            "the length of array a needs 400000000 bytes",
            array(F32, 100_000_000),
        ),
        Attack::new(
            "array-u64-past-end.gguf",
            "an array that ends eight bytes behind the file",
            "needs 72 bytes",
            array(U64, 9),
        ),
        Attack::new("array-strings-1e15.gguf", "10^15 strings", "the length of array a is", array(STRING, PETA)),
        Attack::new(
            "array-strings-1e7.gguf",
            "ten million empty strings in 64 bytes",
            "the length of array a is 10000000",
            array(STRING, 10_000_000),
        ),
        Attack::new(
            "array-arrays-1e7.gguf",
            "ten million empty arrays in 64 bytes",
            "the length of array a is 10000000",
            array(ARRAY, 10_000_000),
        ),
        Attack::new(
            "array-nested-200.gguf",
            "arrays in arrays, 200 deep, against the stack",
            "nested more than 8 deep",
            nested,
        ),
        Attack::new(
            "array-nested-claim.gguf",
            "10^15 numbers at the bottom of nested arrays",
            "the length of array a is",
            wide,
        ),
        Attack::new("array-type-13.gguf", "elements of a type that does not exist", "value type 13", array(13, 1)),
        Attack::new(
            "value-type-max.gguf",
            "a value of a type that does not exist",
            "value type 4294967295",
            Raw::llama(0, 1).key("a", u32::MAX).raw(&[0; 8]),
        ),
        Attack::new(
            "bool-2.gguf",
            "a bool that is neither true nor false",
            "a bool is 0 or 1, not 2",
            Raw::llama(0, 1).key("a", BOOL).raw(&[2]),
        ),
        Attack::new(
            "bool-array-2.gguf",
            "the same inside an array",
            "a bool is 0 or 1, not 7",
            Raw::llama(0, 1).key("a", ARRAY).array(BOOL, 2).raw(&[1, 7]),
        ),
    ]
}

fn alignment() -> Vec<Attack> {
    let with = |n: u32| Raw::llama(1, 1).key("general.alignment", U32).u32(n).tensor("t", &[4], 0, 0).data(16);
    vec![
        Attack::new("alignment-0.gguf", "alignment 0, a division by zero", "0 is not a power of two", with(0)),
        Attack::new("alignment-3.gguf", "alignment 3", "3 is not a power of two", with(3)),
        Attack::new(
            "alignment-max.gguf",
            "the largest alignment, an overflow",
            "4294967295 is not a power of two",
            with(u32::MAX),
        ),
        Attack::new(
            "alignment-2-gb.gguf",
            "an alignment that moves the data out of the file",
            "tensor t needs 16 bytes at offset 2147483648",
            with(1 << 31),
        ),
        Attack::new(
            "alignment-u64.gguf",
            "an alignment of another type",
            "general.alignment is u64",
            Raw::llama(0, 1).key("general.alignment", U64).u64(32),
        ),
        Attack::new(
            "alignment-string.gguf",
            "an alignment that is text",
            "general.alignment is string",
            Raw::llama(0, 1).key("general.alignment", STRING).string("32"),
        ),
    ]
}

fn shapes() -> Vec<Attack> {
    let with = |dims: &[u64], kind| Raw::llama(1, 0).tensor("t", dims, kind, 0).data(64);
    vec![
        Attack::new("dims-5.gguf", "a tensor of five dimensions", "it has 5 dimensions", with(&[1; 5], 0)),
        Attack::new(
            "dims-max.gguf",
            "a tensor of 2^32 - 1 dimensions",
            "it has 4294967295 dimensions",
            Raw::llama(1, 0).string("t").u32(u32::MAX).data(64),
        ),
        Attack::new("dim-0.gguf", "a dimension of 0", "a dimension is 0", with(&[4, 0], 0)),
        Attack::new(
            "dim-negative.gguf",
            "a dimension of 2^63",
            "a dimension is 9223372036854775808",
            with(&[1 << 63], 0),
        ),
        Attack::new(
            "dims-wrap-to-0.gguf",
            "2^32 x 2^32 elements, which wrap around to 0",
            "tensor t",
            with(&[1 << 32, 1 << 32], 0),
        ),
        Attack::new(
            "dims-wrap-to-16.gguf",
            "dimensions whose bytes wrap around to those in the file",
            "tensor t",
            with(&[4, (1 << 60) + 1], 0),
        ),
        Attack::new(
            "dims-wrap-in-rows.gguf",
            "rows whose product wraps around",
            "the product of its dimensions",
            with(&[1, 1 << 40, 1 << 40, 1], 0),
        ),
        Attack::new(
            "half-block.gguf",
            "a row of 48 elements in blocks of 32",
            "rows of 48 elements do not divide into Q4_1 blocks of 32",
            with(&[48], 3),
        ),
        Attack::new(
            "tensor-1e15.gguf",
            "a tensor of 10^15 elements",
            "tensor t needs 4000000000000000 bytes",
            with(&[PETA], 0),
        ),
    ]
}

fn places() -> Vec<Attack> {
    let at = |offset| Raw::llama(1, 0).tensor("t", &[4], 0, offset).data(64);
    let two = |a: &str, b: &str, at| Raw::llama(2, 0).tensor(a, &[16], 0, 0).tensor(b, &[4], 0, at).data(128);
    let mut cut = Raw::llama(2, 0).tensor("a", &[16], 0, 0).tensor("b", &[16], 0, 64).bytes;
    cut.truncate(cut.len() - 3);
    vec![
        Attack::new(
            "offset-unaligned.gguf",
            "an offset between two places",
            "its offset 4 is no multiple of the alignment 32",
            at(4),
        ),
        Attack::new(
            "offset-past-end.gguf",
            "a tensor that ends one place behind the file",
            "tensor t needs 16 bytes",
            at(64),
        ),
        Attack::new("offset-far.gguf", "an offset of 10^15", "tensor t needs 16 bytes", at(PETA / 32 * 32)),
        Attack::new(
            "offset-wraps.gguf",
            "an offset that wraps around to the head",
            "its offset 18446744073709551584 overflows",
            at(u64::MAX - 31),
        ),
        Attack::new("overlap.gguf", "a tensor inside another one", "tensor b: it begins at byte", two("a", "b", 32)),
        Attack::new("same-place.gguf", "two tensors on the same bytes", "inside tensor", two("a", "b", 0)),
        Attack::new(
            "name-twice.gguf",
            "two tensors of one name",
            "tensor a: this name stands in the file twice",
            two("a", "a", 64),
        ),
        Attack::new(
            "meaning-twice.gguf",
            "two names that mean the same tensor",
            "two tensors of the file mean this one",
            two("output.weight", "lm_head.weight", 64),
        ),
        Attack::new(
            "unknown-type-far.gguf",
            "a tensor of an unknown type outside the file",
            "tensor t",
            Raw::llama(1, 0).tensor("t", &[4], 99, 1 << 40).data(64),
        ),
        Attack::new("cut-in-record.gguf", "ends inside the second tensor's record", "the file is cut short", cut),
        Attack::new(
            "cut-in-data.gguf",
            "ends three bytes before the tensor does",
            "tensor t needs 64 bytes",
            Raw::llama(1, 0).tensor("t", &[16], 0, 0).data(61),
        ),
        Attack::new(
            "no-data.gguf",
            "ends where the data begins",
            "tensor t needs 64 bytes",
            Raw::llama(1, 0).tensor("t", &[16], 0, 0),
        ),
        Attack::new(
            "split.gguf",
            "the first of three parts, for the whole",
            "one of 3 parts",
            Raw::llama(0, 1).key("split.count", 2).raw(&3u16.to_le_bytes()),
        ),
    ]
}
