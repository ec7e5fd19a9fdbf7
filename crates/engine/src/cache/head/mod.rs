//! The cache of one key-value head: its own pages, its own length.
//!
//! Slots hold keys (after RoPE, at their true positions) and values; beside them travel each slot's original
//! position, its key norm, and what presses and readers keep ([`beside`]). Pages are shared after a fork and copied when
//! written.

mod beside;
pub(crate) mod by_channel;
mod shrink;

use std::sync::Arc;

use meden_kernels::attention::{HeadView, KvType, PageLayout};
use meden_kernels::mem::{PageTable, Slab};

use super::rotation::KvRotation;
pub use beside::{Column, PageSide};
use by_channel::ByChannel;

/// Keys and values of one kv head of one layer.
#[derive(Clone)]
pub struct HeadCache {
    layout: PageLayout,
    rotation: Option<KvRotation>,
    /// A key and a value on their way into a page.
    turned: Vec<f32>,
    slab: Arc<Slab>,
    pages: PageTable,
    positions: Vec<u32>,
    norms: Vec<f32>,
    columns: Vec<Column>,
    sides: Vec<PageSide>,
    by_channel: ByChannel,
}

impl HeadCache {
    /// An empty head whose pages come from `slab`.
    pub fn new(layout: PageLayout, slab: Arc<Slab>) -> HeadCache {
        HeadCache {
            layout,
            rotation: None,
            turned: Vec::new(),
            slab,
            pages: PageTable::default(),
            positions: Vec::new(),
            norms: Vec::new(),
            columns: Vec::new(),
            sides: Vec::new(),
            by_channel: ByChannel::default(),
        }
    }

    /// The same, with keys and values turned before they are stored.
    pub fn with_rotation(mut self, rotation: Option<KvRotation>) -> HeadCache {
        self.rotation = rotation;
        self
    }

    /// How stored keys and values are turned. [`key`](Self::key) and [`value`](Self::value) turn them back; whoever
    /// reads pages through a [`view`](Self::view) turns its queries, and what comes of the values.
    pub fn rotation(&self) -> Option<KvRotation> {
        self.rotation
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Is the head empty?
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// How its pages are laid out.
    pub fn layout(&self) -> PageLayout {
        self.layout
    }

    /// Original positions of the slots, strictly increasing.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// L2 norm of each slot's key, in f32 from the f32 key at append.
    pub fn norms(&self) -> &[f32] {
        &self.norms
    }

    /// Pages in use.
    pub fn pages(&self) -> &[&[u8]] {
        self.pages.slices()
    }

    /// The head as the attention kernel reads it.
    pub fn view(&self) -> HeadView<'_> {
        debug_assert!(!self.by_channel.stale, "keys wait for their page");
        let starts = &self.by_channel.starts;
        HeadView { layout: self.layout, pages: self.pages.slices(), positions: &self.positions, starts }
    }

    /// Read the key of a slot back as f32, as it was appended (rounded to the cache's type). `out` is `key_dim` long.
    pub fn key(&self, slot: usize, out: &mut [f32]) {
        if !self.open_key(slot, out) {
            let (page, at) = self.place(slot);
            self.layout.read_key(self.pages()[page], at, out);
        }
        if let Some(rotation) = self.rotation {
            rotation.turn(out);
        }
    }

    /// Read the value of a slot back as f32. `out` is `value_dim` long.
    pub fn value(&self, slot: usize, out: &mut [f32]) {
        let (page, at) = self.place(slot);
        self.layout.read_value(self.pages()[page], at, out);
        if let Some(rotation) = self.rotation {
            rotation.turn(out);
        }
    }

    fn place(&self, slot: usize) -> (usize, usize) {
        let tokens = self.layout.tokens();
        if !self.is_by_channel() {
            return (slot / tokens, slot % tokens);
        }
        let starts = &self.by_channel.starts;
        let page = starts.partition_point(|&start| start as usize <= slot).saturating_sub(1);
        (page, slot - starts[page] as usize)
    }

    /// The slots of a page.
    pub fn slots_of(&self, page: usize) -> std::ops::Range<usize> {
        match self.by_channel.starts.get(page..page + 2) {
            Some(range) => range[0] as usize..range[1] as usize,
            None => page * self.layout.tokens()..self.len().min((page + 1) * self.layout.tokens()),
        }
    }

    /// All keys as f32, `(slots, key_dim)`.
    pub fn keys(&self) -> Vec<f32> {
        let dim = self.layout.key_dim();
        let mut keys = vec![0.0; self.len() * dim];
        for (slot, key) in keys.chunks_exact_mut(dim.max(1)).enumerate() {
            self.key(slot, key);
        }
        keys
    }

    /// All values as f32, `(slots, value_dim)`.
    pub fn values(&self) -> Vec<f32> {
        let dim = self.layout.value_dim();
        let mut values = vec![0.0; self.len() * dim];
        for (slot, value) in values.chunks_exact_mut(dim.max(1)).enumerate() {
            self.value(slot, value);
        }
        values
    }

    /// A head with some of the slots (ascending), on pages of its own. Keys by channel become f16 there.
    pub fn subset(&self, slots: &[u32]) -> HeadCache {
        if self.is_by_channel() {
            return self.subset_in_f16(slots);
        }
        let mut part = HeadCache::new(self.layout, self.slab.clone()).with_rotation(self.rotation);
        for (to, &from) in slots.iter().enumerate() {
            let (from_page, from_at) = self.place(from as usize);
            let (to_page, to_at) = part.place(to);
            if to_page == part.pages.len() {
                part.pages.push(part.slab.alloc());
            }
            let layout = self.layout;
            layout.copy_slot(self.pages()[from_page], from_at, part.page_mut(to_page), to_at);
        }
        part.take_beside(self, slots);
        part
    }

    fn subset_in_f16(&self, slots: &[u32]) -> HeadCache {
        let whole = self.layout;
        let layout = PageLayout::new(whole.key_dim(), whole.value_dim(), KvType::F16, whole.value_type());
        let slab =
            if layout.page_bytes() == whole.page_bytes() { self.slab.clone() } else { Slab::new(layout.page_bytes()) };
        let mut part = HeadCache::new(layout, slab).with_rotation(self.rotation);
        let (mut key, mut value) = (vec![0.0; layout.key_dim()], vec![0.0; layout.value_dim()]);
        for &slot in slots {
            self.key(slot as usize, &mut key);
            self.value(slot as usize, &mut value);
            part.push(self.positions[slot as usize], &key, &value);
        }
        part.take_beside(self, slots);
        part
    }

    /// Positions, norms and columns of some slots of another head.
    fn take_beside(&mut self, from: &HeadCache, slots: &[u32]) {
        let of = |values: &[f32]| slots.iter().map(|&slot| values[slot as usize]).collect();
        self.positions = slots.iter().map(|&slot| from.positions[slot as usize]).collect();
        self.norms = of(&from.norms);
        let column = |column: &Column| Column { name: column.name.clone(), values: of(&column.values) };
        self.columns = from.columns.iter().map(column).collect();
    }

    /// Give a slot another value.
    pub fn set_value(&mut self, slot: usize, value: &[f32]) {
        let (page, at) = self.place(slot);
        let layout = self.layout;
        match self.rotation {
            None => layout.write_value(self.page_mut(page), at, value),
            Some(rotation) => {
                let mut turned = value.to_vec();
                rotation.turn(&mut turned);
                layout.write_value(self.page_mut(page), at, &turned);
            }
        }
    }

    /// Number the slots anew, 0, 1, …; `turn` rotates each key from its old position to its new one.
    pub fn renumber(&mut self, mut turn: impl FnMut(&mut [f32], u32, u32)) {
        if self.is_by_channel() {
            let old = std::mem::take(&mut self.positions);
            self.positions = (0..old.len() as u32).collect();
            return self.rewrite_by_channel(|slot, key| {
                if old[slot] != slot as u32 {
                    turn(key, old[slot], slot as u32);
                }
            });
        }
        let mut key = vec![0.0; self.layout.key_dim()];
        for slot in 0..self.len() {
            let (old, new) = (self.positions[slot], slot as u32);
            if old == new {
                continue;
            }
            self.key(slot, &mut key);
            turn(&mut key, old, new);
            if let Some(rotation) = self.rotation {
                rotation.turn(&mut key);
            }
            let (page, at) = self.place(slot);
            let layout = self.layout;
            layout.write_key(self.page_mut(page), at, &key);
            self.positions[slot] = new;
        }
    }

    /// Append one token. `position` must lie beyond every position held.
    pub fn push(&mut self, position: u32, key: &[f32], value: &[f32]) {
        debug_assert!(self.positions.last().is_none_or(|&last| last < position));
        let mut turned = std::mem::take(&mut self.turned);
        let norm = meden_kernels::ops::l2_norm(key);
        let (key, value) = match self.rotation {
            None => (key, value),
            Some(rotation) => {
                turned.clear();
                turned.extend_from_slice(key);
                turned.extend_from_slice(value);
                let (key, value) = turned.split_at_mut(key.len());
                rotation.turn(key);
                rotation.turn(value);
                (&*key, &*value)
            }
        };
        if self.is_by_channel() {
            self.push_open(key, value);
        } else {
            let (page, at) = self.place(self.positions.len());
            if page == self.pages.len() {
                self.pages.push(self.slab.alloc());
                self.sides.iter_mut().for_each(|side| side.pages.push(None));
                self.reserve_page();
            }
            let layout = self.layout;
            layout.write(self.page_mut(page), at, key, value);
        }
        self.turned = turned;
        self.positions.push(position);
        self.norms.push(norm);
        for column in &mut self.columns {
            column.values.push(0.0);
        }
    }

    /// What grows slot by slot grows with the page, so that a token that needs no page allocates nothing.
    fn reserve_page(&mut self) {
        let tokens = self.layout.tokens();
        self.positions.reserve(tokens);
        self.norms.reserve(tokens);
        for column in &mut self.columns {
            column.values.reserve(tokens);
        }
    }

    /// The page for writing: a page shared with a fork is copied first.
    fn page_mut(&mut self, page: usize) -> &mut [u8] {
        for side in &mut self.sides {
            side.pages[page] = None;
        }
        self.pages.page_mut(page, &self.slab)
    }

    /// Bytes of the data pages.
    pub fn page_bytes(&self) -> usize {
        self.pages.len() * self.layout.page_bytes()
    }

    /// Bytes of what travels beside the slots: positions, norms, columns, page data, keys of an open page.
    pub fn metadata_bytes(&self) -> usize {
        let slots = self.positions.len() * (size_of::<u32>() + size_of::<f32>() * (1 + self.columns.len()));
        let sides: usize = self.sides.iter().flat_map(|s| &s.pages).flatten().map(|v| v.len() * size_of::<f32>()).sum();
        let extra = if self.is_by_channel() && !self.is_empty() {
            by_channel::extra_bytes(self.pages.len(), self.open_slots(), self.layout.key_dim())
        } else {
            0
        };
        slots + sides + extra
    }

    /// Pages that this head shares with a fork.
    pub fn shared_pages(&self) -> usize {
        self.pages.shared()
    }

    /// Rebuild a head from a saved session: raw pages and what travels beside them.
    pub(crate) fn load(&mut self, pages: &[u8], positions: Vec<u32>, norms: Vec<f32>, columns: Vec<Column>) {
        self.pages = PageTable::default();
        for bytes in pages.chunks_exact(self.layout.page_bytes()) {
            let mut page = self.slab.alloc();
            page.copy_from_slice(bytes);
            self.pages.push(page);
        }
        self.positions = positions;
        self.norms = norms;
        self.columns = columns;
        self.sides.clear();
        self.by_channel = ByChannel::default();
    }
}
