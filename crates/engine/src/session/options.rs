//! How a session keeps its cache.

use serde::{Deserialize, Serialize};

use crate::cache::kinds::KvTypes;
use crate::cache::rotation::KvRotation;
use crate::press::PressSpec;
use crate::press::policy::Policy;
use crate::read::ReadPolicy;

/// How a session keeps its cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionOptions {
    /// Element types of cached keys and values.
    pub kv_type: KvTypes,
    /// How keys and values are turned before they are stored; not at all by default.
    #[serde(default)]
    pub kv_rotate: Option<KvRotation>,
    /// Compression, none by default.
    pub policy: Option<Policy>,
    /// Most tokens read in one go.
    pub prefill_chunk: usize,
    /// What a decoded token reads of its cache; everything by default.
    #[serde(default)]
    pub read: Option<ReadPolicy>,
    /// Presses that may be applied later with [`Session::compress`](crate::Session::compress): what they need is gathered while the text is read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watch: Vec<PressSpec>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            kv_type: KvTypes::F16,
            kv_rotate: None,
            policy: None,
            prefill_chunk: 512,
            watch: Vec::new(),
            read: None,
        }
    }
}
