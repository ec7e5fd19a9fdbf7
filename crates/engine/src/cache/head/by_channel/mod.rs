//! Keys by channel (KIVI, arXiv 2402.02750): steps are those of a page's channels, so a page is written as a whole.
//!
//! The newest page is open: its keys are kept beside it as they came and the page is written again from them, until it
//! is full. An eviction closes ranks inside each page and leaves it its steps, so that what stays is not rounded again;
//! pages are then not full. Neighbours that fit into one page are joined, which rounds their keys once more: as a page
//! has to lose half of its slots or more for that, a key that outlives 2^n times its neighbours is rounded n times, not
//! once at every eviction. Two neighbours always hold more than one page together, so less than half of the bytes is
//! lost to pages that are not full.

use half::f16;

use super::HeadCache;

/// What a head of keys by channel keeps beside its pages; empty for all others.
#[derive(Clone, Default)]
pub(super) struct ByChannel {
    /// First slot of each page, and the number of slots behind the last.
    pub starts: Vec<u32>,
    /// Keys of the open page as they are stored (turned, if the cache turns), `(slots, key_dim)`; of several pages while
    /// a piece is read. Empty where no page is open.
    pub open: Vec<f16>,
    /// Are there keys in `open` that their page does not hold yet?
    pub stale: bool,
}

/// Slots of each page, from its start to the next one's.
fn counts(starts: &[u32]) -> impl Iterator<Item = usize> + '_ {
    starts.windows(2).map(|w| (w[1] - w[0]) as usize)
}

/// Starts of pages with so many slots.
fn starts_of(counts: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut total = 0;
    let ends = counts.map(|count| {
        total += count as u32;
        total
    });
    std::iter::once(0).chain(ends).collect()
}

/// Pages that `slots` slots of a head take at most after evictions, one that is open included.
pub(crate) fn most_pages(slots: usize, tokens: usize) -> usize {
    slots.div_ceil(tokens).max(2 * slots / (tokens + 1) + 2).min(slots)
}

/// Bytes beside the pages of a head: where pages begin, and the keys of the open page.
pub(crate) fn extra_bytes(pages: usize, open: usize, key_dim: usize) -> usize {
    (pages + 1) * size_of::<u32>() + open * key_dim * size_of::<f16>()
}

impl HeadCache {
    pub(super) fn is_by_channel(&self) -> bool {
        self.layout.key_type().is_by_channel()
    }

    /// Slots that lie in the open page.
    pub(super) fn open_slots(&self) -> usize {
        self.by_channel.open.len() / self.layout.key_dim().max(1)
    }

    /// The key of a slot as it is stored, from the open page's keys if it lies there.
    pub(super) fn open_key(&self, slot: usize, out: &mut [f32]) -> bool {
        let (open, dim) = (self.open_slots(), out.len());
        let Some(at) = (slot + open).checked_sub(self.len()) else { return false };
        let key = &self.by_channel.open[at * dim..(at + 1) * dim];
        out.iter_mut().zip(key).for_each(|(o, k)| *o = k.to_f32());
        true
    }

    /// Append a key and a value that have been turned. The key waits in `open` until the piece is through.
    pub(super) fn push_open(&mut self, key: &[f32], value: &[f32]) {
        let slot = self.positions.len();
        if self.by_channel.starts.is_empty() {
            self.by_channel.starts.push(0);
        }
        if self.open_slots().is_multiple_of(self.layout.tokens()) {
            self.pages.push(self.slab.alloc());
            self.sides.iter_mut().for_each(|side| side.pages.push(None));
            self.by_channel.starts.push(slot as u32);
            self.reserve_page();
            self.by_channel.open.reserve(self.layout.tokens() * key.len());
        }
        let page = self.pages.len() - 1;
        let at = slot - self.by_channel.starts[page] as usize;
        let layout = self.layout;
        layout.write_value(self.page_mut(page), at, value);
        self.by_channel.open.extend(key.iter().map(|&k| f16::from_f32(k)));
        self.by_channel.stale = true;
        if let Some(total) = self.by_channel.starts.last_mut() {
            *total += 1;
        }
    }

    /// Write the keys that wait into their pages; a full page is closed. `buffer` is for their numbers.
    pub(crate) fn settle(&mut self, buffer: &mut Vec<f32>) {
        if !self.by_channel.stale {
            return;
        }
        let (layout, dim) = (self.layout, self.layout.key_dim());
        let width = layout.tokens() * dim;
        let open = std::mem::take(&mut self.by_channel.open);
        let first = self.pages.len() - open.len().div_ceil(width);
        for (number, keys) in open.chunks(width).enumerate() {
            buffer.clear();
            buffer.extend(keys.iter().map(|k| k.to_f32()));
            layout.write_keys(self.page_mut(first + number), buffer);
        }
        let left = open.len() % width;
        self.by_channel.open = open;
        let closed = self.by_channel.open.len() - left;
        self.by_channel.open.drain(..closed);
        self.by_channel.stale = false;
    }

    /// Keep the slots named in `keep` (ascending), in pages that keep their steps; then join neighbours that fit.
    pub(super) fn retain_by_channel(&mut self, keep: &[u32]) {
        self.settle(&mut Vec::new());
        let (layout, dim, open) = (self.layout, self.layout.key_dim(), self.open_slots());
        let starts = std::mem::take(&mut self.by_channel.starts);
        let mut kept = Vec::with_capacity(starts.len());
        let mut rest = keep;
        for (page, range) in starts.windows(2).enumerate() {
            let here = rest.partition_point(|&slot| slot < range[1]);
            let (mine, later) = rest.split_at(here);
            rest = later;
            for (to, &from) in mine.iter().enumerate() {
                let from = (from - range[0]) as usize;
                if from != to {
                    layout.move_slot(self.page_mut(page), from, to);
                }
            }
            kept.push(mine.len());
        }
        if open > 0 {
            let first = self.len() - open;
            let slots = keep.iter().filter(|&&slot| slot as usize >= first).map(|&slot| slot as usize - first);
            let keys = slots.flat_map(|at| self.by_channel.open[at * dim..(at + 1) * dim].to_vec()).collect();
            self.by_channel.open = keys;
            self.by_channel.stale = !self.by_channel.open.is_empty();
        }
        self.drop_pages(&kept);
        self.by_channel.starts = starts_of(kept.into_iter().filter(|&count| count > 0));
        self.settle(&mut Vec::new());
        self.join();
    }

    /// Pages without a slot go.
    fn drop_pages(&mut self, counts: &[usize]) {
        self.pages.retain(|page| counts[page] > 0);
        for side in &mut self.sides {
            let mut number = 0;
            side.pages.retain(|_| {
                number += 1;
                counts[number - 1] > 0
            });
        }
    }

    /// Closed neighbours that fit into one page become one, as many at a time as fit.
    fn join(&mut self) {
        let (layout, dim) = (self.layout, self.layout.key_dim());
        let mut held: Vec<usize> = counts(&self.by_channel.starts).collect();
        let closed = held.len() - usize::from(!self.by_channel.open.is_empty());
        let mut keys = Vec::new();
        let mut page = 0;
        while page < closed {
            let (mut next, mut total) = (page + 1, held[page]);
            while next < closed && total + held[next] <= layout.tokens() {
                total += held[next];
                next += 1;
            }
            if next > page + 1 {
                keys.clear();
                keys.resize(total * dim, 0.0);
                let mut rows = keys.chunks_exact_mut(dim.max(1));
                for (from, &count) in held.iter().enumerate().take(next).skip(page) {
                    for (slot, key) in (0..count).zip(&mut rows) {
                        layout.read_key(self.pages.slices()[from], slot, key);
                    }
                }
                let mut at = held[page];
                for (from, &count) in held.iter().enumerate().take(next).skip(page + 1) {
                    let source = self.pages.share(from);
                    for slot in 0..count {
                        layout.copy_value(&source, slot, self.page_mut(page), at);
                        at += 1;
                    }
                }
                layout.write_keys(self.page_mut(page), &keys);
                held[page] = total;
                held[page + 1..next].fill(0);
            }
            page = next;
        }
        if held.contains(&0) {
            self.drop_pages(&held);
            self.by_channel.starts = starts_of(held.into_iter().filter(|&count| count > 0));
        }
    }

    /// Pages and starts after slots from `len` on have gone. A closed page that lost some stays closed.
    pub(super) fn truncate_by_channel(&mut self, len: usize) {
        self.settle(&mut Vec::new());
        let open = self.open_slots();
        let before = *self.by_channel.starts.last().unwrap_or(&0) as usize;
        let left = open.saturating_sub(before - len);
        self.by_channel.open.truncate(left * self.layout.key_dim());
        self.by_channel.stale = left > 0;
        let whole = self.by_channel.starts.partition_point(|&start| (start as usize) < len);
        self.by_channel.starts.truncate(whole);
        self.by_channel.starts.push(len as u32);
        self.pages.truncate(whole);
        self.sides.iter_mut().for_each(|side| side.pages.truncate(whole));
        self.settle(&mut Vec::new());
    }

    /// The first `pages` pages have gone.
    pub(super) fn drop_front_by_channel(&mut self, pages: usize) {
        let gone = self.by_channel.starts[pages];
        self.by_channel.starts.drain(..pages);
        self.by_channel.starts.iter_mut().for_each(|start| *start -= gone);
        if self.by_channel.starts.len() < 2 {
            self.by_channel.open.clear();
        }
    }

    /// Give every key anew, page by page; `of` changes the key of a slot as it was appended.
    pub(super) fn rewrite_by_channel(&mut self, mut of: impl FnMut(usize, &mut [f32])) {
        self.settle(&mut Vec::new());
        let (layout, dim) = (self.layout, self.layout.key_dim());
        let starts = self.by_channel.starts.clone();
        for (page, range) in starts.windows(2).enumerate() {
            let mut keys = vec![0.0; (range[1] - range[0]) as usize * dim];
            for (slot, key) in (range[0] as usize..).zip(keys.chunks_exact_mut(dim)) {
                self.key(slot, key);
                of(slot, key);
                if let Some(rotation) = self.rotation {
                    rotation.turn(key);
                }
            }
            if page + 1 == self.pages.len() && self.open_slots() > 0 {
                self.by_channel.open = keys.iter().map(|&k| f16::from_f32(k)).collect();
            }
            layout.write_keys(self.page_mut(page), &keys);
        }
    }

    /// First slot of each page of keys by channel, for saving.
    pub(crate) fn starts(&self) -> &[u32] {
        &self.by_channel.starts
    }

    /// Keys of the open page, for saving.
    pub(crate) fn open_keys(&self) -> &[f16] {
        &self.by_channel.open
    }

    /// Put both back. They have been held against the layout.
    pub(crate) fn load_by_channel(&mut self, starts: Vec<u32>, open: Vec<f16>) {
        self.by_channel = ByChannel { starts, open, stale: false };
    }
}

#[cfg(test)]
mod tests;
