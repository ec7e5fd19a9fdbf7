//! The ragged key-value store: for each layer and kv head its own pages, positions and columns.
//!
//! Heads may keep different lengths. Evicting never renumbers: a key keeps the position it was rotated for, and a
//! query's position is the number of tokens seen, whatever was evicted.

pub mod head;
pub mod kinds;
pub mod rotation;
pub mod stats;

use std::sync::Arc;

use meden_kernels::attention::{HeadView, PageLayout};
use meden_kernels::mem::Slab;

use crate::model::config::Config;
use head::HeadCache;
use kinds::KvTypes;
use rotation::KvRotation;

/// Free pages that a slab keeps resident for reuse are its own business; the cache counts pages it holds.
#[derive(Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    slab: Arc<Slab>,
    kv_type: KvTypes,
    rotation: Option<KvRotation>,
}

/// One layer's heads.
#[derive(Clone)]
pub struct LayerCache {
    heads: Vec<HeadCache>,
    window: Option<u32>,
}

impl KvCache {
    /// An empty cache for a model. With a rotation the heads' width has to be a power of two.
    pub fn new(config: &Config, kv_type: KvTypes, rotation: Option<KvRotation>) -> KvCache {
        let layout = PageLayout::new(config.head_dim, config.head_dim, kv_type.key, kv_type.value);
        let slab = Slab::new(layout.page_bytes());
        let layers = (0..config.layers)
            .map(|layer| LayerCache {
                heads: (0..config.kv_heads)
                    .map(|_| HeadCache::new(layout, slab.clone()).with_rotation(rotation))
                    .collect(),
                window: config.attention[layer].window,
            })
            .collect();
        KvCache { layers, slab, kv_type, rotation }
    }

    /// Layers, in order.
    pub fn layers(&self) -> &[LayerCache] {
        &self.layers
    }

    /// One layer for writing.
    pub fn layer_mut(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }

    /// Element types of keys and values.
    pub fn kv_type(&self) -> KvTypes {
        self.kv_type
    }

    /// How stored keys and values are turned.
    pub fn rotation(&self) -> Option<KvRotation> {
        self.rotation
    }

    /// The slab the pages come from (shared by forks).
    pub fn slab(&self) -> &Arc<Slab> {
        &self.slab
    }

    /// Bytes of all data pages and of what travels beside them.
    pub fn bytes(&self) -> (usize, usize) {
        self.layers
            .iter()
            .flat_map(|l| &l.heads)
            .fold((0, 0), |(pages, meta), h| (pages + h.page_bytes(), meta + h.metadata_bytes()))
    }

    /// A cache with the same contents whose pages are shared until one side writes.
    pub fn fork(&self) -> KvCache {
        self.clone()
    }
}

impl LayerCache {
    /// Heads, in order.
    pub fn heads(&self) -> &[HeadCache] {
        &self.heads
    }

    /// Heads for writing.
    pub fn heads_mut(&mut self) -> &mut [HeadCache] {
        &mut self.heads
    }

    /// Width of the sliding window in tokens, if the layer has one.
    pub fn window(&self) -> Option<u32> {
        self.window
    }

    /// Longest head.
    pub fn max_len(&self) -> usize {
        self.heads.iter().map(HeadCache::len).max().unwrap_or(0)
    }

    /// Append the keys and values of some tokens. `keys` and `values` are `(tokens, kv_heads, head_dim)`.
    pub fn append(&mut self, positions: &[u32], keys: &[f32], values: &[f32]) {
        let heads = self.heads.len();
        let width = keys.len() / (positions.len() * heads).max(1);
        for (token, &position) in positions.iter().enumerate() {
            for (number, head) in self.heads.iter_mut().enumerate() {
                let at = (token * heads + number) * width;
                head.push(position, &keys[at..at + width], &values[at..at + width]);
            }
        }
    }

    /// Free what no query at or after `next` can see any more. Only sliding-window layers forget by themselves.
    /// Returns the slots dropped.
    pub fn slide(&mut self, next: u32) -> usize {
        let Some(window) = self.window else { return 0 };
        // a key at position p is visible to a query at q iff q - p < window
        let first = (next + 1).saturating_sub(window);
        self.heads.iter_mut().map(|h| h.drop_front_pages(first)).sum()
    }

    /// Hand the heads to the attention kernel.
    pub fn with_views<R>(&self, f: impl FnOnce(&[HeadView<'_>]) -> R) -> R {
        let views: Vec<HeadView<'_>> = self.views().collect();
        f(&views)
    }

    /// The heads as the attention kernel reads them.
    pub fn views(&self) -> impl Iterator<Item = HeadView<'_>> {
        self.heads.iter().map(HeadCache::view)
    }
}
