//! What a budget in bytes means in tokens.

use crate::cache::KvCache;

/// What a press costs beside the slots themselves.
pub(super) struct Extra {
    /// Columns that travel with the slots.
    pub columns: usize,
    /// Heads may keep different numbers, so each may have a page that is not full.
    pub ragged: bool,
}

/// Most bytes the cache takes when every full-attention head holds `tokens` slots and every sliding layer its window.
pub(super) fn bytes_of_tokens(tokens: usize, cache: &KvCache, extra: &Extra) -> u64 {
    let mut bytes = 0u64;
    for layer in cache.layers() {
        for head in layer.heads() {
            let layout = head.layout();
            // a window's pages go back whole, so up to one page more than the window is held
            let slots = layer.window().map_or(tokens, |w| w as usize + layout.tokens());
            let pages = slots.div_ceil(layout.tokens()) + usize::from(extra.ragged && layer.window().is_none());
            let a_slot = size_of::<u32>() + size_of::<f32>() * (1 + extra.columns);
            bytes += (pages * layout.page_bytes() + slots * a_slot) as u64;
        }
    }
    bytes
}

/// Most tokens a full-attention head may hold so that the whole cache stays within `bytes`.
pub(super) fn tokens_of_bytes(bytes: u64, cache: &KvCache, extra: &Extra) -> usize {
    let (mut low, mut high) = (0usize, 1usize);
    while bytes_of_tokens(high, cache, extra) <= bytes {
        low = high;
        high *= 2;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if bytes_of_tokens(middle, cache, extra) <= bytes { low = middle } else { high = middle }
    }
    low
}
