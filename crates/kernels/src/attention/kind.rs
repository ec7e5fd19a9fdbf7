//! What a cached number is stored as.

use std::fmt;
use std::str::FromStr;

/// Values that share one scale in a [`KvType::Q8`] or [`KvType::Q4`] row; the last group of a row may be shorter.
pub const KV_GROUP: usize = 32;

/// Widest keys of a type by channel.
pub const MOST_BY_CHANNEL: usize = 512;

/// Element type of cached keys or values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum KvType {
    /// 4 bytes a value, lossless.
    F32,
    /// 2 bytes a value, IEEE half precision.
    F16,
    /// 1 byte a value and one f16 scale for each [`KV_GROUP`] values: `value = scale * i8`.
    Q8,
    /// Half a byte a value and two f16 for each [`KV_GROUP`] values: `value = scale * u4 + least`. With the least value
    /// stored the sixteen steps span what the group holds and not twice its largest magnitude, which matters for keys,
    /// whose channels often keep to one side of zero: on SmolLM2-135M the divergence of the next token's distribution
    /// is less than half of that of sixteen steps around zero (docs/BENCHMARKS.md).
    Q4,
    /// Keys only: half a byte a value as in q4, but two f16 for each CHANNEL of a page: `value = scale * u4 + least`
    /// (Liu et al., KIVI, arXiv 2402.02750). Channels of keys keep to ranges of their own, which a group of channels
    /// mixes: the divergence is a quarter of that of q4 (docs/BENCHMARKS.md). A page is written as a whole.
    Q4c,
}

impl KvType {
    /// Every type of a row, in the order of falling size.
    pub const ALL: [KvType; 4] = [KvType::F32, KvType::F16, KvType::Q8, KvType::Q4];
    /// Every type of keys: those, and the one by channel.
    pub const KEYS: [KvType; 5] = [KvType::F32, KvType::F16, KvType::Q8, KvType::Q4, KvType::Q4c];

    /// Are its scales those of the channels of a page? Then rows cannot be written or moved to other pages alone.
    pub fn is_by_channel(self) -> bool {
        self == KvType::Q4c
    }

    /// The name used in flags, files and over HTTP: `f32`, `f16`, `q8`, `q4` or `q4c`.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8 => "q8",
            KvType::Q4 => "q4",
            KvType::Q4c => "q4c",
        }
    }

    /// Bytes of a row of `dim` values without its scales. Rows of q4 are filled up to eight values, which is what the
    /// kernels load at once.
    pub(crate) fn row_bytes(self, dim: usize) -> usize {
        match self {
            KvType::F32 => 4 * dim,
            KvType::F16 => 2 * dim,
            KvType::Q8 => dim,
            KvType::Q4 | KvType::Q4c => dim.next_multiple_of(8) / 2,
        }
    }

    /// Bytes of the scales of one group.
    pub(crate) fn group_bytes(self) -> usize {
        match self {
            KvType::F32 | KvType::F16 | KvType::Q4c => 0,
            KvType::Q8 => 2,
            KvType::Q4 => 4,
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is not a [`KvType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cache element type; the types are f32, f16, q8, q4 and, for keys, q4c")]
pub struct UnknownKvType(pub String);

impl FromStr for KvType {
    type Err = UnknownKvType;

    fn from_str(s: &str) -> Result<KvType, UnknownKvType> {
        KvType::KEYS.into_iter().find(|t| t.name() == s).ok_or_else(|| UnknownKvType(s.to_string()))
    }
}
