//! What a session's cache holds and costs, and what a user should know about it.

use super::Session;
use crate::cache::stats::{CacheStats, LayerStats};
use crate::press::plan::At;
use crate::read::Reader;

impl Session {
    /// What the cache holds and costs.
    pub fn stats(&self) -> CacheStats {
        let layers: Vec<LayerStats> = self
            .cache
            .layers()
            .iter()
            .enumerate()
            .map(|(layer, cache)| LayerStats {
                kept: cache.lens(),
                skipped: self.plan.as_ref().is_some_and(|p| p.is_skipped(layer)),
                sliding: cache.window().is_some(),
            })
            .collect();
        let (pages, metadata) = self.cache.bytes();
        let heads: usize = layers.iter().map(|l| l.kept.len()).sum();
        let kept: usize = layers.iter().flat_map(|l| &l.kept).sum();
        let kv_bytes = (pages + metadata) as u64;
        let dense_bytes = self.dense_bytes();
        CacheStats {
            seen: self.seen(),
            kept_tokens_mean: kept as f64 / heads.max(1) as f64,
            kv_bytes,
            page_bytes: pages as u64,
            metadata_bytes: metadata as u64,
            dense_bytes,
            peak_page_bytes: self.cache.peak_page_bytes() as u64,
            effective_ratio: if dense_bytes == 0 { 0.0 } else { 1.0 - kv_bytes as f64 / dense_bytes as f64 },
            presses_run: self.plan.as_ref().map_or(0, |p| p.counters.runs),
            evicted: self.plan.as_ref().map_or(0, |p| p.counters.evicted),
            read: self.reader.as_ref().map(Reader::stats),
            notes: self.notes(),
            layers,
        }
    }

    /// Bytes that the tokens seen would take if nothing had been evicted.
    fn dense_bytes(&self) -> u64 {
        let mut bytes = 0;
        for layer in self.cache.layers() {
            for head in layer.heads() {
                let layout = head.layout();
                // a sliding layer holds its own slots with or without a press
                let slots = if layer.window().is_some() { head.len() } else { self.seen() };
                let metadata = slots * (size_of::<u32>() + size_of::<f32>());
                bytes += (slots.div_ceil(layout.tokens()) * layout.page_bytes() + metadata) as u64;
            }
        }
        bytes
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let config = self.model.config();
        if let Some(narrow) = self.cache.layers().iter().find_map(|layer| layer.narrow()) {
            notes.push(format!(
                "older keys keep {} of {} channels; tokens are as many as before",
                narrow.key_dim(),
                config.head_dim
            ));
        }
        if let (Some(plan), true) = (&self.plan, self.seen() > 0) {
            let name = plan.policy.press.name();
            if plan.counters.runs == 0 && plan.press().own_budget() {
                let asked =
                    if plan.counters.asked == 0 { "it was not its turn yet" } else { "its own rule kept everything" };
                notes.push(format!("press {name} evicted nothing of {} tokens: {asked}", self.seen()));
            } else if plan.counters.runs == 0 {
                notes.push(format!(
                    "press {name} evicted nothing: {} tokens seen, the budget is {} tokens a layer",
                    self.seen(),
                    plan.target(At::end_of_prefill(self.seen())).max(plan.target(At::decoding(self.seen())))
                ));
            }
            if self.watch.counts_more() {
                notes.push(format!(
                    "what was gathered for press {name} still counts tokens that were taken back: its sums cannot forget"
                ));
            }
            if plan.counters.replayed > 0 {
                notes.push(format!("press {name} read {} tokens again to judge the text", plan.counters.replayed));
            }
            if plan.unbounded() {
                notes.push("skipped layers grow with the text: this cache is not bounded".to_string());
            }
            if plan.counters.held_by_protection {
                notes.push(format!(
                    "{} sinks and {} recents were more than the budget of {} left at some point; they were kept",
                    plan.policy.sinks, plan.policy.recents, plan.policy.budget
                ));
            }
            let sliding = config.attention.iter().filter(|a| a.window.is_some()).count();
            if sliding > 0 {
                notes.push(format!(
                    "{sliding} of {} layers slide and are not pressed; the budget speaks of the others, the ratio of all bytes",
                    config.layers
                ));
            }
        }
        if let (Some(reader), Some(policy)) = (&self.reader, &self.options.read) {
            let stats = reader.stats();
            if stats.tokens == 0 && self.seen() > 0 {
                notes.push(format!(
                    "--read {policy} did nothing: tokens read together are read whole, and none was read alone"
                ));
            }
            if stats.tokens > 0 && stats.bytes >= stats.dense_bytes {
                notes.push(format!(
                    "--read {policy} left nothing out: the cache is within its budget of pages, or its layers are skipped or slide"
                ));
            }
        }
        notes.extend(self.interrupted.note(config.layers));
        if self.long_rope == Some(false)
            && let Some(original) = config.ropes.iter().find_map(|r| r.original())
            && self.seen() > original
        {
            notes.push(format!(
                "the text passed {original} tokens with the rotation of short texts; give long texts in one prefill"
            ));
        }
        notes
    }
}
