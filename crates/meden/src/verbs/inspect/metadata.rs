//! Metadata as JSON. Arrays that are vocabularies are told by their length, not written out.

use meden_files::ModelFiles;
use meden_files::gguf::{Array, Metadata, Value as Gguf};
use serde_json::{Map, Value, json};

/// Longest array that is written out.
const LONGEST: usize = 32;

/// All keys of a GGUF file, in its order.
pub fn of_gguf(metadata: &Metadata) -> Map<String, Value> {
    metadata.iter().map(|(key, value)| (key.to_owned(), of_value(value))).collect()
}

/// config.json as it was understood; empty where it cannot be written again.
pub fn of_config(files: &ModelFiles) -> Map<String, Value> {
    match files.config().map(serde_json::to_value) {
        Some(Ok(Value::Object(map))) => map.into_iter().filter(|(_, v)| !v.is_null()).collect(),
        _ => Map::new(),
    }
}

fn of_value(value: &Gguf) -> Value {
    match value {
        Gguf::U8(v) => json!(v),
        Gguf::I8(v) => json!(v),
        Gguf::U16(v) => json!(v),
        Gguf::I16(v) => json!(v),
        Gguf::U32(v) => json!(v),
        Gguf::I32(v) => json!(v),
        Gguf::U64(v) => json!(v),
        Gguf::I64(v) => json!(v),
        Gguf::F32(v) => json!(v),
        Gguf::F64(v) => json!(v),
        Gguf::Bool(v) => json!(v),
        Gguf::String(v) => json!(v),
        Gguf::Array(v) => of_array(v),
    }
}

fn of_array(array: &Array) -> Value {
    if array.len() > LONGEST {
        return json!(format!("{} values of type {}", array.len(), array.type_name()));
    }
    match array {
        Array::U8(v) => json!(v),
        Array::I8(v) => json!(v),
        Array::U16(v) => json!(v),
        Array::I16(v) => json!(v),
        Array::U32(v) => json!(v),
        Array::I32(v) => json!(v),
        Array::U64(v) => json!(v),
        Array::I64(v) => json!(v),
        Array::F32(v) => json!(v),
        Array::F64(v) => json!(v),
        Array::Bool(v) => json!(v),
        Array::String(v) => json!(v),
        Array::Array(v) => v.iter().map(of_array).collect(),
    }
}
