//! What a cache holds and costs, counted from its pages.

use serde::Serialize;

use crate::read::ReadStats;

/// One layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerStats {
    /// Slots kept by each kv head.
    pub kept: Vec<usize>,
    /// The press leaves this layer alone.
    pub skipped: bool,
    /// The layer attends within a sliding window only, and is never pressed.
    pub sliding: bool,
}

/// The whole cache.
#[derive(Clone, Debug, Serialize)]
pub struct CacheStats {
    /// Tokens seen so far; the next token's position.
    pub seen: usize,
    /// Each layer.
    pub layers: Vec<LayerStats>,
    /// Kept slots, averaged over layers and heads.
    pub kept_tokens_mean: f64,
    /// Bytes of pages and metadata in use.
    pub kv_bytes: u64,
    /// Bytes of the data pages.
    pub page_bytes: u64,
    /// Bytes of positions, norms and columns.
    pub metadata_bytes: u64,
    /// Bytes that the tokens seen would take without a press (sliding layers hold their window).
    pub dense_bytes: u64,
    /// Most bytes of pages in use at once so far (forks counted together, since they share a slab).
    pub peak_page_bytes: u64,
    /// `1 - kv_bytes / dense_bytes`: the share of bytes that is gone.
    pub effective_ratio: f64,
    /// Times a press acted on a layer.
    pub presses_run: u64,
    /// Slots evicted by presses.
    pub evicted: u64,
    /// What decoded tokens have read of the cache; absent without a read policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<ReadStats>,
    /// What a user should know: a press that did nothing, layers that grow without bound.
    pub notes: Vec<String>,
}
