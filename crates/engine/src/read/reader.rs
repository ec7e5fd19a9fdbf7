//! Carries a read policy out, one layer of one decoded token at a time, and counts.

use meden_kernels::attention::HeadView;
use meden_kernels::isa::Isa;

use super::quest::{self, Quest};
use super::{ReadPolicy, ReadStats};
use crate::cache::LayerCache;

/// A session's read policy, its buffers and its counts.
pub(crate) struct Reader {
    policy: ReadPolicy,
    stats: ReadStats,
    /// Pages chosen for each head, with their bounds.
    chosen: Vec<Vec<(f32, usize)>>,
    /// Positions of their slots.
    positions: Vec<Vec<u32>>,
}

impl Reader {
    pub fn new(policy: ReadPolicy) -> Reader {
        Reader { policy, stats: ReadStats::default(), chosen: Vec::new(), positions: Vec::new() }
    }

    pub fn stats(&self) -> ReadStats {
        let share = (self.stats.dense_bytes > 0).then(|| self.stats.bytes as f64 / self.stats.dense_bytes as f64);
        ReadStats { share, ..self.stats }
    }

    /// Takes counts of a saved session over.
    pub fn set_stats(&mut self, stats: ReadStats) {
        self.stats = stats;
    }

    /// A token begins.
    pub fn begin(&mut self) {
        self.stats.tokens += 1;
    }

    /// A layer that something else needs whole: it is counted only.
    pub fn dense(&mut self, cache: &LayerCache) {
        for head in cache.heads() {
            self.count(head.layout().token_bytes() * head.len(), head.layout().token_bytes() * head.len());
        }
    }

    fn count(&mut self, bytes: usize, dense: usize) {
        self.stats.bytes += bytes as u64;
        self.stats.dense_bytes += dense as u64;
    }

    /// Hands `f` the views of what one token reads in a layer; `queries` are its (q_heads, key_dim), as they meet the
    /// stored keys.
    pub fn with_views<R>(
        &mut self,
        layer: usize,
        cache: &mut LayerCache,
        (isa, queries): (Isa, &[f32]),
        f: impl FnOnce(&[HeadView<'_>]) -> R,
    ) -> R {
        let ReadPolicy::Quest(quest) = &self.policy;
        // A window is small already, and its first slots hide behind it in the middle of a page.
        if quest.skip_layers.contains(&layer) || cache.window().is_some() {
            self.dense(cache);
            return cache.with_views(f);
        }
        let quest = quest.clone();
        self.choose(&quest, cache, (isa, queries));
        let mut pages: Vec<(Vec<&[u8]>, Vec<u32>)> = Vec::with_capacity(cache.heads().len());
        for (head, chosen) in cache.heads().iter().zip(&self.chosen) {
            let mut starts = Vec::new();
            if !head.starts().is_empty() {
                starts.push(0);
                for &(_, page) in chosen {
                    starts.push(starts[starts.len() - 1] + head.slots_of(page).len() as u32);
                }
            }
            pages.push((chosen.iter().map(|&(_, page)| head.pages()[page]).collect(), starts));
        }
        let heads = cache.heads().iter().zip(&pages).zip(&self.positions);
        let views: Vec<HeadView<'_>> = heads
            .map(|((head, (pages, starts)), positions)| HeadView { layout: head.layout(), pages, positions, starts })
            .collect();
        f(&views)
    }

    fn choose(&mut self, quest: &Quest, cache: &mut LayerCache, (isa, queries): (Isa, &[f32])) {
        let heads = cache.heads().len();
        self.chosen.resize_with(heads, Vec::new);
        self.positions.resize_with(heads, Vec::new);
        let width = queries.len() / heads.max(1);
        for (number, head) in cache.heads_mut().iter_mut().enumerate() {
            let (tokens, token_bytes) = (head.layout().tokens(), head.layout().token_bytes());
            let count = quest.pages(tokens);
            let positions = &mut self.positions[number];
            let mut bounds = 0;
            if count < head.pages().len() {
                quest::refresh(head);
                bounds = (head.pages().len() - 1) * quest::bound_bytes(head.layout().key_dim());
            }
            let queries = &queries[number * width..][..width];
            quest::choose(head, isa, queries, count, &mut self.chosen[number]);
            positions.clear();
            for &(_, page) in &self.chosen[number] {
                positions.extend_from_slice(&head.positions()[head.slots_of(page)]);
            }
            self.stats.bytes += (positions.len() * token_bytes + bounds) as u64;
            self.stats.dense_bytes += (head.len() * token_bytes) as u64;
        }
    }
}
