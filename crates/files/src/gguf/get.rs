//! Typed access to metadata: a key of the wrong type is an error, never a default.

use super::{Array, Gguf, Value};
use crate::error::FileError;

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident $opt:ident -> $t:ty, $expected:literal, $convert:expr;)*) => {
        impl Gguf { $(
            $(#[$doc])*
            pub fn $name(&self, key: &str) -> Result<$t, FileError> {
                self.$opt(key)?.ok_or_else(|| self.missing(key))
            }
            /// The same, `None` when the key is not there (of another type is still an error).
            pub fn $opt(&self, key: &str) -> Result<Option<$t>, FileError> {
                let Some(value) = self.metadata().get(key) else { return Ok(None) };
                let convert: fn(&Value) -> Option<$t> = $convert;
                convert(value).map(Some).ok_or_else(|| self.wrong_type(key, $expected, value))
            }
        )* }
    };
}

getters! {
    /// A string.
    str opt_str -> &str, "a string", |v| match v { Value::String(s) => Some(s), _ => None };
    /// A non-negative integer of any width that fits 32 bits.
    u32 opt_u32 -> u32, "an integer of 0 to 4294967295", |v| v.as_i128()?.try_into().ok();
    /// A non-negative integer of any width.
    u64 opt_u64 -> u64, "an integer of 0 or more", |v| v.as_i128()?.try_into().ok();
    /// A signed integer of any width that fits 32 bits.
    i32 opt_i32 -> i32, "a 32-bit integer", |v| v.as_i128()?.try_into().ok();
    /// A float of either width.
    f32 opt_f32 -> f32, "a float", |v| match *v { Value::F32(f) => Some(f), Value::F64(f) => Some(f as f32), _ => None };
    /// A truth value.
    bool opt_bool -> bool, "true or false", |v| match *v { Value::Bool(b) => Some(b), _ => None };
    /// An array of strings.
    str_array opt_str_array -> &[String], "an array of strings", |v| match v { Value::Array(Array::String(a)) => Some(a), _ => None };
    /// An array of f32.
    f32_array opt_f32_array -> &[f32], "an array of f32", |v| match v { Value::Array(Array::F32(a)) => Some(a), _ => None };
    /// An array of i32.
    i32_array opt_i32_array -> &[i32], "an array of i32", |v| match v { Value::Array(Array::I32(a)) => Some(a), _ => None };
    /// An array of u32.
    u32_array opt_u32_array -> &[u32], "an array of u32", |v| match v { Value::Array(Array::U32(a)) => Some(a), _ => None };
    /// An array of truth values.
    bool_array opt_bool_array -> &[bool], "an array of booleans", |v| match v { Value::Array(Array::Bool(a)) => Some(a), _ => None };
}

impl Gguf {
    fn missing(&self, key: &str) -> FileError {
        FileError::MissingKey { path: self.path().to_owned(), key: key.to_owned() }
    }

    fn wrong_type(&self, key: &str, expected: &'static str, value: &Value) -> FileError {
        let found = match value {
            Value::Array(a) => format!("an array of {} {}", a.len(), a.type_name()),
            Value::String(_) => "a string".to_owned(),
            other => format!("{other:?}"),
        };
        FileError::KeyType { path: self.path().to_owned(), key: key.to_owned(), expected, found }
    }
}
