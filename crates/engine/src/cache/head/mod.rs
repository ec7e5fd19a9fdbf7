//! The cache of one key-value head: its own pages, its own length.
//!
//! Slots hold keys (after RoPE, at their true positions) and values; beside them travel each slot's original
//! position, its key norm, and what presses and readers keep ([`beside`]). Pages are shared after a fork and copied when
//! written.

mod beside;

use std::sync::Arc;

use meden_kernels::attention::{HeadView, PageLayout};
use meden_kernels::mem::{PageTable, Slab};

use super::rotation::KvRotation;
pub use beside::{Column, PageSide};

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
        HeadView { layout: self.layout, pages: self.pages.slices(), positions: &self.positions }
    }

    /// Read the key of a slot back as f32, as it was appended (rounded to the cache's type). `out` is `key_dim` long.
    pub fn key(&self, slot: usize, out: &mut [f32]) {
        let (page, at) = self.place(slot);
        self.layout.read_key(self.pages()[page], at, out);
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
        (slot / self.layout.tokens(), slot % self.layout.tokens())
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

    /// A head with some of the slots (ascending), on pages of its own.
    pub fn subset(&self, slots: &[u32]) -> HeadCache {
        let mut part = HeadCache::new(self.layout, self.slab.clone()).with_rotation(self.rotation);
        for column in &self.columns {
            part.columns.push(Column { name: column.name.clone(), values: Vec::with_capacity(slots.len()) });
        }
        for (to, &from) in slots.iter().enumerate() {
            let from = from as usize;
            let (from_page, from_at) = self.place(from);
            let (to_page, to_at) = part.place(to);
            if to_page == part.pages.len() {
                part.pages.push(part.slab.alloc());
            }
            let layout = self.layout;
            layout.copy_slot(self.pages()[from_page], from_at, part.page_mut(to_page), to_at);
            part.positions.push(self.positions[from]);
            part.norms.push(self.norms[from]);
            for (column, mine) in part.columns.iter_mut().zip(&self.columns) {
                column.values.push(mine.values[from]);
            }
        }
        part
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
        let (page, at) = self.place(self.positions.len());
        if page == self.pages.len() {
            self.pages.push(self.slab.alloc());
            for side in &mut self.sides {
                side.pages.push(None);
            }
            // what grows slot by slot grows with the page, so that a token that needs no page allocates nothing
            let tokens = self.layout.tokens();
            self.positions.reserve(tokens);
            self.norms.reserve(tokens);
            for column in &mut self.columns {
                column.values.reserve(tokens);
            }
        }
        let layout = self.layout;
        match self.rotation {
            None => layout.write(self.page_mut(page), at, key, value),
            Some(rotation) => {
                let mut turned = std::mem::take(&mut self.turned);
                turned.clear();
                turned.extend_from_slice(key);
                turned.extend_from_slice(value);
                let (key, value) = turned.split_at_mut(key.len());
                rotation.turn(key);
                rotation.turn(value);
                layout.write(self.page_mut(page), at, key, value);
                self.turned = turned;
            }
        }
        self.positions.push(position);
        self.norms.push(meden_kernels::ops::l2_norm(key));
        for column in &mut self.columns {
            column.values.push(0.0);
        }
    }

    /// The page for writing: a page shared with a fork is copied first.
    fn page_mut(&mut self, page: usize) -> &mut [u8] {
        for side in &mut self.sides {
            side.pages[page] = None;
        }
        self.pages.page_mut(page, &self.slab)
    }

    /// Keep the slots named in `keep` (ascending), drop the others; kept slots move down inside the head in place
    /// and the pages that end up empty go back to the slab.
    pub fn retain(&mut self, keep: &[u32]) {
        debug_assert!(keep.windows(2).all(|w| w[0] < w[1]));
        for (to, &from) in keep.iter().enumerate() {
            let from = from as usize;
            if to != from {
                self.move_slot(from, to);
            }
        }
        retain_in_place(&mut self.positions, keep);
        retain_in_place(&mut self.norms, keep);
        for column in &mut self.columns {
            retain_in_place(&mut column.values, keep);
        }
        self.drop_tail_pages();
    }

    fn move_slot(&mut self, from: usize, to: usize) {
        let layout = self.layout;
        let (from_page, from_at) = self.place(from);
        let (to_page, to_at) = self.place(to);
        if from_page == to_page {
            layout.move_slot(self.page_mut(to_page), from_at, to_at);
        } else {
            let source = self.pages.share(from_page); // a second owner of the source page only, never of the target
            layout.copy_slot(&source, from_at, self.page_mut(to_page), to_at);
        }
    }

    /// Drop every slot from `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.positions.len() {
            return;
        }
        self.positions.truncate(len);
        self.norms.truncate(len);
        for column in &mut self.columns {
            column.values.truncate(len);
        }
        self.drop_tail_pages();
    }

    fn drop_tail_pages(&mut self) {
        let used = self.positions.len().div_ceil(self.layout.tokens());
        self.pages.truncate(used);
        for side in &mut self.sides {
            side.pages.truncate(used);
        }
        // A large eviction should not leave large metadata behind either.
        if self.positions.capacity() > 2 * self.positions.len() + 1024 {
            self.positions.shrink_to_fit();
            self.norms.shrink_to_fit();
            self.pages.shrink_to_fit();
            for column in &mut self.columns {
                column.values.shrink_to_fit();
            }
        }
    }

    /// Free whole pages at the front whose positions all lie below `first`; used by sliding-window layers.
    /// Returns the slots dropped.
    pub fn drop_front_pages(&mut self, first: u32) -> usize {
        let tokens = self.layout.tokens();
        let old = self.positions.partition_point(|&p| p < first);
        let whole = old / tokens;
        if whole == 0 {
            return 0;
        }
        self.pages.drop_front(whole);
        self.positions.drain(..whole * tokens);
        self.norms.drain(..whole * tokens);
        for column in &mut self.columns {
            column.values.drain(..whole * tokens);
        }
        for side in &mut self.sides {
            side.pages.drain(..whole);
        }
        whole * tokens
    }

    /// Bytes of the data pages.
    pub fn page_bytes(&self) -> usize {
        self.pages.len() * self.layout.page_bytes()
    }

    /// Bytes of what travels beside the slots: positions, norms, columns, page data.
    pub fn metadata_bytes(&self) -> usize {
        let slots = self.positions.len() * (size_of::<u32>() + size_of::<f32>() * (1 + self.columns.len()));
        let sides: usize = self.sides.iter().flat_map(|s| &s.pages).flatten().map(|v| v.len() * size_of::<f32>()).sum();
        slots + sides
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
    }
}

fn retain_in_place<T: Copy>(values: &mut Vec<T>, keep: &[u32]) {
    for (to, &from) in keep.iter().enumerate() {
        values[to] = values[from as usize];
    }
    values.truncate(keep.len());
}
