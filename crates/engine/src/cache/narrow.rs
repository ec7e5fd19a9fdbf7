//! Old tokens of a layer whose keys keep only some of their channels, and really take fewer bytes.
//!
//! Each head has its own list of channels, all of one length, so that the narrow keys have one page layout and the
//! attention kernel reads them like any others, with queries whose channels are gathered in the same way.

use std::sync::Arc;

use meden_kernels::attention::PageLayout;
use meden_kernels::mem::Slab;

use super::head::HeadCache;

/// The narrow part of a layer. Its tokens are older than every token of the layer's whole heads.
#[derive(Clone)]
pub struct Narrow {
    heads: Vec<HeadCache>,
    channels: Vec<Vec<u32>>,
}

impl Narrow {
    /// An empty part. `channels` names what stays of the keys of `whole`: ascending, one list a head, all of one length.
    pub(crate) fn new(channels: Vec<Vec<u32>>, whole: PageLayout, slab: impl FnOnce(usize) -> Arc<Slab>) -> Narrow {
        let layout = narrow_layout(whole, channels.first().map_or(0, Vec::len));
        let slab = slab(layout.page_bytes());
        Narrow { heads: channels.iter().map(|_| HeadCache::new(layout, slab.clone())).collect(), channels }
    }

    /// The heads: keys of `channels()[head].len()` numbers, values whole.
    pub fn heads(&self) -> &[HeadCache] {
        &self.heads
    }

    pub(crate) fn heads_mut(&mut self) -> &mut [HeadCache] {
        &mut self.heads
    }

    /// Channels that the keys of each head keep, ascending.
    pub fn channels(&self) -> &[Vec<u32>] {
        &self.channels
    }

    /// Numbers a narrow key.
    pub fn key_dim(&self) -> usize {
        self.channels.first().map_or(0, Vec::len)
    }

    /// Bytes of the channel lists.
    pub fn list_bytes(&self) -> usize {
        self.channels.iter().map(|list| list.len() * size_of::<u32>()).sum()
    }

    /// Move the first `count` slots of a whole head here. Returns how many moved.
    pub(crate) fn take(&mut self, number: usize, head: &mut HeadCache, count: usize) -> usize {
        let count = count.min(head.len());
        let (mut key, mut value) = (vec![0.0; head.layout().key_dim()], vec![0.0; head.layout().value_dim()]);
        let mut few = vec![0.0; self.key_dim()];
        for slot in 0..count {
            head.key(slot, &mut key);
            head.value(slot, &mut value);
            few.iter_mut().zip(&self.channels[number]).for_each(|(k, &channel)| *k = key[channel as usize]);
            self.heads[number].push(head.positions()[slot], &few, &value);
        }
        if count > 0 {
            let rest: Vec<u32> = (count as u32..head.len() as u32).collect();
            head.retain(&rest);
        }
        count
    }

    /// Queries `(tokens, q_heads, head_dim)` with the channels of their kv head, `(tokens, q_heads, key_dim)`.
    pub fn gather(&self, q: &[f32], q_heads: usize, out: &mut Vec<f32>) {
        let dim = self.whole_dim(q, q_heads);
        let group = (q_heads / self.heads.len().max(1)).max(1);
        out.clear();
        for (row, query) in q.chunks_exact(dim).enumerate() {
            out.extend(self.channels[row % q_heads / group].iter().map(|&channel| query[channel as usize]));
        }
    }

    fn whole_dim(&self, q: &[f32], q_heads: usize) -> usize {
        let values = self.heads.first().map_or(0, |head| head.layout().value_dim());
        debug_assert!(q.len().is_multiple_of(q_heads * values.max(1)));
        values.max(1)
    }
}

/// The layout of narrow keys beside whole values.
pub(crate) fn narrow_layout(whole: PageLayout, key_dim: usize) -> PageLayout {
    PageLayout::new(key_dim, whole.value_dim(), whole.key_type(), whole.value_type())
}
