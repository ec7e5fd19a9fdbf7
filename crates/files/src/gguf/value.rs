//! GGUF metadata values: thirteen types, arrays of them, and arrays of arrays.

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array: one element type, stored flat so that a vocabulary of 262,144 scores is one allocation.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

macro_rules! both {
    ($($id:literal $variant:ident $name:literal),*) => {
        impl Value {
            /// The format's name of the type: `u32`, `string`, `array`.
            pub fn type_name(&self) -> &'static str {
                match self { $(Value::$variant(_) => $name),* }
            }
            /// The format's number of the type.
            pub fn type_id(&self) -> u32 {
                match self { $(Value::$variant(_) => $id),* }
            }
        }
        impl Array {
            /// The format's name of the element type.
            pub fn type_name(&self) -> &'static str {
                match self { $(Array::$variant(_) => $name),* }
            }
            /// The format's number of the element type.
            pub fn type_id(&self) -> u32 {
                match self { $(Array::$variant(_) => $id),* }
            }
            /// Number of elements.
            pub fn len(&self) -> usize {
                match self { $(Array::$variant(v) => v.len()),* }
            }
        }
    };
}
both!(0 U8 "u8", 1 I8 "i8", 2 U16 "u16", 3 I16 "i16", 4 U32 "u32", 5 I32 "i32", 6 F32 "f32", 7 Bool "bool",
      8 String "string", 9 Array "array", 10 U64 "u64", 11 I64 "i64", 12 F64 "f64");

impl Array {
    /// True when there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Value {
    /// The value as an integer, whatever its width (writers do not agree on widths).
    pub fn as_i128(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }
}

macro_rules! from {
    ($($variant:ident $t:ty),*) => { $(
        impl From<$t> for Value { fn from(v: $t) -> Value { Value::$variant(v) } }
        impl From<Vec<$t>> for Value { fn from(v: Vec<$t>) -> Value { Value::Array(Array::$variant(v)) } }
    )* };
}
from!(U8 u8, I8 i8, U16 u16, I16 i16, U32 u32, I32 i32, F32 f32, Bool bool, String String, U64 u64, I64 i64, F64 f64);

impl From<&str> for Value {
    fn from(v: &str) -> Value {
        Value::String(v.to_owned())
    }
}

impl From<Array> for Value {
    fn from(v: Array) -> Value {
        Value::Array(v)
    }
}
