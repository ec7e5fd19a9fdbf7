//! Hostile heads that are too large to be committed: each fills a limit of its reader.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use std::time::{Duration, Instant};

use common::Folder;
use common::raw::{ARRAY, Raw, STRING, U8, safetensors};
use meden_files::gguf::Gguf;
use meden_files::safetensors_file::Safetensors;

/// Opens a file and gives the time it took and the error, if any.
fn timed(folder: &Folder, name: &str, bytes: &[u8]) -> (Duration, Option<String>) {
    let path = folder.put(name, bytes);
    let start = Instant::now();
    let error = match name.ends_with(".gguf") {
        true => Gguf::open(&path).err().map(|e| e.to_string()),
        false => Safetensors::open(&path).err().map(|e| e.to_string()),
    };
    (start.elapsed(), error)
}

/// A GGUF whose only value is an array of `count` elements with these bytes.
fn array(kind: u32, count: u64, element: &[u8]) -> Vec<u8> {
    Raw::gguf(3, 0, 1).key("a", ARRAY).array(kind, count).raw(&element.repeat(count as usize)).bytes
}

/// Each file, and the words it is refused with; "" for one that just fits.
fn files() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let one_letter = [&1u64.to_le_bytes()[..], b"x"].concat();
    let empty_array = [&U8.to_le_bytes()[..], &0u64.to_le_bytes()].concat();
    let many = |n: usize, entry: &str, wrap: (&str, &str)| {
        let entries: Vec<String> = (0..n).map(|i| format!(r#""{i}":{entry}"#)).collect();
        format!("{}{}{}", wrap.0, entries.join(","), wrap.1)
    };
    let entry = r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    let long = format!(r#"{{"a":{{"dtype":"F32","shape":[{}1]}}}}"#, "1,".repeat(40_000_000));
    vec![
        ("strings-that-fit.gguf", array(STRING, 1 << 22, &one_letter), ""),
        ("strings.gguf", array(STRING, (1 << 22) + 1, &one_letter), "more than the 4194304"),
        ("arrays.gguf", array(ARRAY, (1 << 22) + 1, &empty_array), "more than the 4194304"),
        (
            "head.gguf",
            Raw::gguf(3, 0, 1).key("a", STRING).string(&"x".repeat(134_217_700)).bytes,
            "the head of the file",
        ),
        ("tensors.safetensors", safetensors(&many((1 << 18) + 1, entry, ("{", "}")), 0), "at most 262144 tensors"),
        (
            "texts.safetensors",
            safetensors(&many((1 << 16) + 1, "\"\"", (r#"{"__metadata__":{"#, "}}")), 0),
            "at most 65536",
        ),
        ("dims.safetensors", safetensors(&long, 0), "at most 8 dimensions"),
        ("x.index.json", many((1 << 18) + 1, "\"f\"", (r#"{"weight_map":{"#, "}}")).into_bytes(), "at most 262144"),
        ("y.index.json", vec![b' '; (32 << 20) + 1], "the length of the file is 33554433"),
    ]
}

#[test]
#[ignore = "run by heads_at_their_limits_stay_small"]
fn in_little_memory() {
    let folder = Folder::in_memory();
    for (name, bytes, says) in files() {
        let (took, error) = timed(&folder, name, &bytes);
        println!("{name}: {took:?}");
        // A second on a quiet machine, with room for a busy one.
        assert!(took < Duration::from_secs(4), "{name}: {took:?}");
        assert_eq!(error.is_none(), says.is_empty(), "{name}: {error:?}");
        assert!(error.unwrap_or_default().contains(says), "{name} does not say {says}");
        std::fs::remove_file(folder.file(name)).unwrap();
    }
}

/// The files themselves take 600 MB of the child's memory.
#[cfg(unix)]
#[test]
fn heads_at_their_limits_stay_small() {
    assert!(common::passes_within(1536, "in_little_memory"), "see above; 1.5 GB of address space are allowed");
}
