//! The ragged key-value store: for each layer and kv head its own pages, positions and columns.
//!
//! Heads may keep different lengths. Evicting never renumbers: a key keeps the position it was rotated for, and a
//! query's position is the number of tokens seen, whatever was evicted.

pub mod head;
pub mod kinds;
pub mod narrow;
pub mod rotation;
pub mod stats;

use std::sync::{Arc, Mutex, PoisonError};

use meden_kernels::attention::{HeadView, PageLayout};
use meden_kernels::mem::Slab;

use crate::model::config::Config;
use head::HeadCache;
use kinds::KvTypes;
use narrow::Narrow;
use rotation::KvRotation;

/// Free pages that a slab keeps resident for reuse are its own business; the cache counts pages it holds.
#[derive(Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    slab: Arc<Slab>,
    slabs: Slabs,
    kv_type: KvTypes,
    rotation: Option<KvRotation>,
}

/// Slabs of one cache and its forks, one for each size of page.
#[derive(Clone)]
struct Slabs(Arc<Mutex<Vec<Arc<Slab>>>>);

impl Slabs {
    fn of(&self, page_bytes: usize) -> Arc<Slab> {
        let mut slabs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slab) = slabs.iter().find(|slab| slab.page_bytes() == page_bytes) {
            return slab.clone();
        }
        slabs.push(Slab::new(page_bytes));
        slabs[slabs.len() - 1].clone()
    }

    fn peak_bytes(&self) -> usize {
        let slabs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slabs.iter().map(|slab| slab.peak_pages() * slab.page_bytes()).sum()
    }
}

/// One layer's heads.
#[derive(Clone)]
pub struct LayerCache {
    heads: Vec<HeadCache>,
    window: Option<u32>,
    /// Older tokens, with fewer channels a key.
    narrow: Option<Narrow>,
    slabs: Slabs,
    /// Keys by channel on their way into a page.
    buffer: Vec<f32>,
}

impl KvCache {
    /// An empty cache for a model. With a rotation the heads' width has to be a power of two.
    pub fn new(config: &Config, kv_type: KvTypes, rotation: Option<KvRotation>) -> KvCache {
        let layout = PageLayout::new(config.head_dim, config.head_dim, kv_type.key, kv_type.value);
        let slabs = Slabs(Arc::default());
        let slab = slabs.of(layout.page_bytes());
        let layers = (0..config.layers)
            .map(|layer| LayerCache {
                heads: (0..config.kv_heads)
                    .map(|_| HeadCache::new(layout, slab.clone()).with_rotation(rotation))
                    .collect(),
                window: config.attention[layer].window,
                narrow: None,
                slabs: slabs.clone(),
                buffer: Vec::new(),
            })
            .collect();
        KvCache { layers, slab, slabs, kv_type, rotation }
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
        let lists = self.layers.iter().filter_map(|l| l.narrow.as_ref()).map(Narrow::list_bytes).sum();
        self.layers
            .iter()
            .flat_map(|l| l.heads.iter().chain(l.narrow_heads()))
            .fold((0, lists), |(pages, meta), h| (pages + h.page_bytes(), meta + h.metadata_bytes()))
    }

    /// Most bytes of pages in use at once so far, forks counted together; where there are pages of two sizes, the sum of
    /// the most of each.
    pub fn peak_page_bytes(&self) -> usize {
        self.slabs.peak_bytes()
    }

    /// Are there tokens whose keys lost channels?
    pub fn is_narrowed(&self) -> bool {
        self.layers.iter().any(|l| l.narrow.is_some())
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

    /// Older tokens whose keys lost channels, if a press has taken some.
    pub fn narrow(&self) -> Option<&Narrow> {
        self.narrow.as_ref()
    }

    fn narrow_heads(&self) -> &[HeadCache] {
        self.narrow.as_ref().map_or(&[], Narrow::heads)
    }

    /// Slots of each head, narrow ones included.
    pub fn lens(&self) -> Vec<usize> {
        let narrow = |number: usize| self.narrow_heads().get(number).map_or(0, HeadCache::len);
        self.heads.iter().enumerate().map(|(number, head)| head.len() + narrow(number)).collect()
    }

    /// Move all but the newest `whole` slots of each head to keys of these channels (those of an earlier call, where
    /// there was one). Returns the slots moved, or nothing if the earlier lists have another length.
    pub(crate) fn narrow_keys(&mut self, channels: Vec<Vec<u32>>, whole: usize) -> Option<usize> {
        let slabs = &self.slabs;
        let layout = self.heads.first()?.layout();
        let width = channels.first().map_or(0, Vec::len);
        let narrow = self.narrow.get_or_insert_with(|| Narrow::new(channels, layout, |bytes| slabs.of(bytes)));
        if narrow.key_dim() != width {
            return None;
        }
        let heads = self.heads.iter_mut().enumerate();
        Some(heads.map(|(number, head)| narrow.take(number, head, head.len().saturating_sub(whole))).sum())
    }

    /// An empty narrow part of a saved session, to be filled.
    pub(crate) fn open_narrow(&mut self, channels: Vec<Vec<u32>>) -> Option<&mut Narrow> {
        let slabs = &self.slabs;
        let layout = self.heads.first()?.layout();
        Some(self.narrow.insert(Narrow::new(channels, layout, |bytes| slabs.of(bytes))))
    }

    /// Drop every slot at or beyond a position.
    pub(crate) fn truncate(&mut self, position: usize) {
        let narrow = self.narrow.as_mut().map_or(&mut [][..], Narrow::heads_mut);
        for head in self.heads.iter_mut().chain(narrow) {
            let keep = head.positions().partition_point(|&p| (p as usize) < position);
            head.truncate(keep);
        }
    }

    /// Heads for writing.
    pub fn heads_mut(&mut self) -> &mut [HeadCache] {
        &mut self.heads
    }

    /// Width of the sliding window in tokens, if the layer has one.
    pub fn window(&self) -> Option<u32> {
        self.window
    }

    /// Longest head, narrow slots included.
    pub fn max_len(&self) -> usize {
        self.lens().into_iter().max().unwrap_or(0)
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
        for head in &mut self.heads {
            head.settle(&mut self.buffer);
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
