//! Hostile safetensors files and indices.

use super::Attack;
use crate::common::raw::safetensors;

pub(super) fn attacks() -> Vec<Attack> {
    [lengths(), json(), offsets(), shapes(), indices()].into_iter().flatten().collect()
}

fn lengths() -> Vec<Attack> {
    let claim = |n: u64| [&n.to_le_bytes()[..], b"{}"].concat();
    vec![
        Attack::new("empty.safetensors", "a file without a byte", "the file is cut short", Vec::new()),
        Attack::new(
            "seven-bytes.safetensors",
            "ends inside the header's length",
            "the header length needs 8 bytes",
            vec![0; 7],
        ),
        Attack::new(
            "header-max.safetensors",
            "a header of 2^64 - 1 bytes",
            "the header length is 18446744073709551615",
            claim(u64::MAX),
        ),
        Attack::new(
            "header-100-mb.safetensors",
            "a header longer than the format allows",
            "the header length is 100000001",
            claim(100_000_001),
        ),
        Attack::new(
            "header-90-mb.safetensors",
            "a believable header that is not there",
            "the header needs 90000000 bytes",
            claim(90_000_000),
        ),
        Attack::new(
            "header-past-end.safetensors",
            "a header that ends one byte behind the file",
            "the header needs 3 bytes",
            claim(3),
        ),
        Attack::new("header-0.safetensors", "no header at all", "it is not a JSON object", claim(0)),
    ]
}

fn json() -> Vec<Attack> {
    let file = |head: &str| safetensors(head, 4);
    let entry = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let deep = format!(
        r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":{}{}}}}}"#,
        "[".repeat(2000),
        "]".repeat(2000)
    );
    let bad_utf8 = [&safetensors("", 0)[8..], b"\x06\0\0\0\0\0\0\0{\"\xff\":1"].concat();
    vec![
        Attack::new(
            "not-json.safetensors",
            "a header that is no JSON",
            "not the JSON that was expected",
            file("{\"a\": nothing}"),
        ),
        Attack::new(
            "cut-json.safetensors",
            "a header that ends inside a tensor",
            "not the JSON that was expected",
            file(r#"{"a":{"dtype":"F32","#),
        ),
        Attack::new("list.safetensors", "a list for an object", "it is not a JSON object", file("[1,2]")),
        Attack::new(
            "byte-order-mark.safetensors",
            "a byte order mark before the object",
            "it is not a JSON object",
            file("\u{feff}{}"),
        ),
        Attack::new("not-utf8.safetensors", "a tensor's name that is no text", "not UTF-8 at byte 10", bad_utf8),
        Attack::new(
            "lone-surrogate.safetensors",
            "half a character, escaped",
            "not the JSON that was expected",
            file(&format!(r#"{{"\ud800":{entry}}}"#)),
        ),
        Attack::new(
            "deep.safetensors",
            "lists in lists, 2000 deep, against the stack",
            "unknown field `x`",
            file(&deep),
        ),
        Attack::new(
            "name-twice.safetensors",
            "two tensors of one name",
            "stands in the header twice",
            file(&format!(r#"{{"a":{entry},"a":{entry}}}"#)),
        ),
        Attack::new(
            "metadata-twice.safetensors",
            "metadata that comes twice",
            "stands in the header twice",
            file(r#"{"__metadata__":{},"__metadata__":{}}"#),
        ),
        Attack::new(
            "metadata-number.safetensors",
            "metadata that is no text",
            "invalid type: integer",
            file(r#"{"__metadata__":{"a":1}}"#),
        ),
        Attack::new("tensor-number.safetensors", "a number for a tensor", "invalid type: integer", file(r#"{"a":7}"#)),
        Attack::new(
            "no-dtype.safetensors",
            "a tensor without a type",
            "missing field `dtype`",
            file(r#"{"a":{"shape":[1],"data_offsets":[0,4]}}"#),
        ),
        Attack::new(
            "no-offsets.safetensors",
            "a tensor without a place",
            "missing field `data_offsets`",
            file(r#"{"a":{"dtype":"F32","shape":[1]}}"#),
        ),
        Attack::new(
            "shape-twice.safetensors",
            "a tensor with two shapes",
            "duplicate field `shape`",
            file(r#"{"a":{"dtype":"F32","shape":[1],"shape":[9],"data_offsets":[0,4]}}"#),
        ),
    ]
}

fn offsets() -> Vec<Attack> {
    let one = |offsets: &str, n| {
        safetensors(&format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}"#), n)
    };
    let two = |first: &str, second: &str, n| {
        let entry = |offsets| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
        safetensors(&format!(r#"{{"a":{},"b":{}}}"#, entry(first), entry(second)), n)
    };
    vec![
        Attack::new(
            "offsets-descend.safetensors",
            "an end before the start",
            "its data_offsets are [8, 0]",
            one("[8,0]", 8),
        ),
        Attack::new(
            "start-not-0.safetensors",
            "hidden bytes before the first tensor",
            "its data_offsets are [8, 16]",
            one("[8,16]", 16),
        ),
        Attack::new(
            "hole.safetensors",
            "hidden bytes between two tensors",
            "its data_offsets are [12, 20]",
            two("[0,8]", "[12,20]", 20),
        ),
        Attack::new(
            "overlap.safetensors",
            "two tensors that share bytes",
            "its data_offsets are [4, 12]",
            two("[0,8]", "[4,12]", 12),
        ),
        Attack::new(
            "same-place.safetensors",
            "two tensors on the same bytes",
            "its data_offsets are [0, 8]",
            two("[0,8]", "[0,8]", 8),
        ),
        Attack::new(
            "past-end.safetensors",
            "a tensor that ends one byte behind the file",
            "tensor a needs 8 bytes",
            one("[0,8]", 7),
        ),
        Attack::new(
            "end-max.safetensors",
            "an end of 2^64 - 1",
            "tensor a needs 18446744073709551615 bytes",
            one("[0,18446744073709551615]", 8),
        ),
        Attack::new(
            "end-overflow.safetensors",
            "an end beyond 64 bits",
            "invalid type: floating point",
            one("[0,18446744073709551616]", 8),
        ),
        Attack::new("end-negative.safetensors", "a negative end", "invalid value: integer `-8`", one("[0,-8]", 8)),
        Attack::new("three-offsets.safetensors", "three offsets", "trailing characters", one("[0,8,16]", 8)),
        Attack::new(
            "more-data.safetensors",
            "hidden bytes behind the last tensor",
            "the tensors end at byte",
            one("[0,8]", 9),
        ),
    ]
}

fn shapes() -> Vec<Attack> {
    let file = |dtype: &str, shape: &str, size: usize| {
        let head = format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{size}]}}}}"#);
        safetensors(&head, size)
    };
    let dims = format!("[{}]", vec!["1"; 3000].join(","));
    vec![
        Attack::new(
            "size-too-small.safetensors",
            "fewer bytes than type and shape need",
            "takes 16 bytes",
            file("F32", "[4]", 8),
        ),
        Attack::new(
            "size-too-large.safetensors",
            "more bytes than type and shape need",
            "takes 4 bytes",
            file("F16", "[2]", 8),
        ),
        Attack::new("scalar.safetensors", "eight bytes for one number", "takes 4 bytes", file("F32", "[]", 8)),
        Attack::new(
            "shape-wraps.safetensors",
            "dimensions whose product wraps around to 0",
            "overflows",
            file("F32", "[4294967296,4294967296]", 0),
        ),
        Attack::new(
            "shape-wraps-i64.safetensors",
            "the same in a type that is only listed",
            "overflows",
            file("I64", "[4294967296,4294967296]", 0),
        ),
        Attack::new(
            "size-i64.safetensors",
            "a wrong size in a type that is only listed",
            "takes 16 bytes",
            file("I64", "[2]", 8),
        ),
        Attack::new(
            "dim-negative.safetensors",
            "a negative dimension",
            "invalid value: integer `-2`",
            file("F32", "[-2]", 8),
        ),
        Attack::new(
            "dim-fraction.safetensors",
            "half a dimension",
            "invalid type: floating point",
            file("F32", "[2.5]", 8),
        ),
        Attack::new(
            "dim-max.safetensors",
            "a dimension of 2^64 - 1",
            "a dimension does not fit this machine",
            file("F32", "[18446744073709551615]", 8),
        ),
        Attack::new(
            "dims-3000.safetensors",
            "a tensor of 3000 dimensions",
            "at most 8 dimensions",
            file("F32", &dims, 4),
        ),
    ]
}

fn indices() -> Vec<Attack> {
    let map = |file: &str| format!(r#"{{"metadata":{{}},"weight_map":{{"a":"{file}"}}}}"#);
    let many: Vec<String> = (0..600).map(|i| format!(r#""{i}":"{i}""#)).collect();
    vec![
        Attack::new(
            "escape.safetensors.index.json",
            "a shard in the folder above",
            "is no plain file name",
            map("../gguf/empty.gguf"),
        ),
        Attack::new(
            "escape-absolute.safetensors.index.json",
            "a shard at an absolute path",
            "is no plain file name",
            map("/etc/passwd"),
        ),
        Attack::new(
            "escape-windows.safetensors.index.json",
            "a shard at a path of another system",
            "is no plain file name",
            map(r"..\\..\\secret"),
        ),
        Attack::new(
            "escape-drive.safetensors.index.json",
            "a shard on another drive",
            "is no plain file name",
            map("C:secret"),
        ),
        Attack::new(
            "escape-dots.safetensors.index.json",
            "the folder itself for a shard",
            "is no plain file name",
            map(".."),
        ),
        Attack::new(
            "missing-shard.safetensors.index.json",
            "a shard that is not there",
            "cannot open",
            map("none.safetensors"),
        ),
        Attack::new(
            "shard-is-index.safetensors.index.json",
            "the index itself for a shard",
            "the header length is",
            map("shard-is-index.safetensors.index.json"),
        ),
        Attack::new(
            "no-shards.safetensors.index.json",
            "an index that names nothing",
            "it names no tensor",
            r#"{"weight_map":{}}"#,
        ),
        Attack::new(
            "no-map.safetensors.index.json",
            "an index without its map",
            "missing field `weight_map`",
            r#"{"metadata":{}}"#,
        ),
        Attack::new(
            "map-list.safetensors.index.json",
            "a list for the map",
            "invalid type: sequence",
            r#"{"weight_map":["a"]}"#,
        ),
        Attack::new(
            "600-shards.safetensors.index.json",
            "600 files to hold open",
            "the number of files in weight_map is 600",
            format!(r#"{{"weight_map":{{{}}}}}"#, many.join(",")),
        ),
        Attack::new(
            "deep.safetensors.index.json",
            "lists in lists, 2000 deep, in a field that nobody reads",
            "it names no tensor",
            format!(r#"{{"metadata":{}1{},"weight_map":{{}}}}"#, "[".repeat(2000), "]".repeat(2000)),
        ),
    ]
}
