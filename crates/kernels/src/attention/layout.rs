//! How keys and values lie inside one page of the cache.
//!
//! A page holds a whole number of tokens of ONE kv head, first the keys, then the values:
//!
//! ```text
//! | key rows | key scales (q8, q4) | pad to 32 | value rows | value scales (q8, q4) | unused |
//!   (tokens, key_dim)   (tokens, ceil(key_dim / 32))   (tokens, value_dim)   ...
//! ```
//! Keys of q4c have one table of scales a page, (2, key_dim), where others have theirs by row.
//!
//! Rows stay token-major, because evicting a token must be one short copy and because the decode kernel reads each
//! row once, in order. Scales live in the page they belong to, so a page can be moved, shared or given back alone,
//! and they sit behind the rows so that rows of any type start at the page's own (4096-byte) alignment.

use super::kind::{KvType, MOST_BY_CHANNEL};
use super::part::Part;

const OS_PAGE: usize = 4096;
const MIN_TOKENS: usize = 16;
const PART_ALIGN: usize = 32;
/// A page may leave this share (1 in 32, 3 %) unused before a bigger page is tried.
const WASTE_DIVISOR: usize = 32;

/// Where the keys, values and scales of each slot are in a page, and how many slots a page has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PageLayout {
    key: Part,
    value: Part,
    tokens: usize,
    page_bytes: usize,
}

impl PageLayout {
    /// The layout for keys of `key_dim` values and values of `value_dim` values.
    ///
    /// Takes the smallest multiple of 4096 bytes that holds at least 16 tokens and leaves at most 3 % of the page
    /// unused; where no page up to four times the smallest does, the one that leaves least. (f16 with 64 + 64 values:
    /// 16 tokens fill 4096 bytes exactly.)
    ///
    /// # Panics
    /// If `value_type` is one by channel, which only keys have, or such keys are wider than [`MOST_BY_CHANNEL`].
    pub fn new(key_dim: usize, value_dim: usize, key_type: KvType, value_type: KvType) -> PageLayout {
        assert!(!value_type.is_by_channel(), "values of {value_type}: only keys are stored by channel");
        assert!(!key_type.is_by_channel() || key_dim <= MOST_BY_CHANNEL, "{key_dim} channels of {key_type}");
        let (key, value) = (Part::new(key_type, key_dim), Part::new(value_type, value_dim));
        let smallest =
            (1..).map(|n| Self::fill(key, value, n * OS_PAGE)).find(|l| l.tokens >= MIN_TOKENS || l.token_bytes() == 0);
        let smallest = smallest.unwrap_or_else(|| Self::fill(key, value, OS_PAGE)).page_bytes / OS_PAGE;
        let candidates = || (smallest..=4 * smallest).map(|n| Self::fill(key, value, n * OS_PAGE));
        let good = candidates().find(|l| l.unused() * WASTE_DIVISOR <= l.page_bytes);
        // Shares are compared by cross multiplication; `min_by` keeps the first (smallest) of equals.
        let least = || candidates().min_by(|a, b| (a.unused() * b.page_bytes).cmp(&(b.unused() * a.page_bytes)));
        good.or_else(least).unwrap_or_else(|| Self::fill(key, value, smallest * OS_PAGE))
    }

    /// As many tokens as fit in `page_bytes`.
    fn fill(mut key: Part, mut value: Part, page_bytes: usize) -> PageLayout {
        let token_bytes = key.row_bytes() + key.scale_bytes() + value.row_bytes() + value.scale_bytes();
        let mut tokens = page_bytes / token_bytes.max(1);
        let values_at = |tokens: usize| {
            (tokens * (key.row_bytes() + key.scale_bytes()) + key.table_bytes()).next_multiple_of(PART_ALIGN)
        };
        let used = |tokens: usize| values_at(tokens) + tokens * (value.row_bytes() + value.scale_bytes());
        while tokens > 0 && used(tokens) > page_bytes {
            tokens -= 1;
        }
        let (values, key_rows, value_rows) = (values_at(tokens), key.row_bytes(), value.row_bytes());
        key.scales = tokens * key_rows;
        value.rows = values;
        value.scales = values + tokens * value_rows;
        PageLayout { key, value, tokens, page_bytes }
    }

    fn unused(&self) -> usize {
        self.page_bytes - self.tokens * self.token_bytes() - self.key.table_bytes()
    }

    /// Slots a page.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes a page, a multiple of 4096.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Bytes one token takes, its scales included; tables by channel are the page's.
    pub fn token_bytes(&self) -> usize {
        self.key.row_bytes() + self.key.scale_bytes() + self.value.row_bytes() + self.value.scale_bytes()
    }

    /// Pages that `slots` slots take.
    pub fn pages_for(&self, slots: usize) -> usize {
        slots.div_ceil(self.tokens.max(1))
    }

    /// Values a key.
    pub fn key_dim(&self) -> usize {
        self.key.dim
    }

    /// Values a value.
    pub fn value_dim(&self) -> usize {
        self.value.dim
    }

    /// Element type of the keys.
    pub fn key_type(&self) -> KvType {
        self.key.kind
    }

    /// Element type of the values.
    pub fn value_type(&self) -> KvType {
        self.value.kind
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn key_part(&self) -> Part {
        self.key
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn value_part(&self) -> Part {
        self.value
    }

    /// Converts and stores one slot.
    ///
    /// # Panics
    /// If `page` is shorter than [`page_bytes`](Self::page_bytes), `slot` is not in it, or a row has the wrong width.
    pub fn write(&self, page: &mut [u8], slot: usize, key: &[f32], value: &[f32]) {
        self.check(slot);
        self.key.write(page, slot, key);
        self.value.write(page, slot, value);
    }

    /// Converts and stores the key of one slot. Panics like [`write`](Self::write).
    pub fn write_key(&self, page: &mut [u8], slot: usize, key: &[f32]) {
        self.check(slot);
        self.key.write(page, slot, key);
    }

    /// Converts and stores the keys of a page from its first slot on, `(slots, key_dim)`. The only way to write keys by
    /// channel: all that the page has, at once.
    ///
    /// # Panics
    /// If they do not fit the page, or are no whole number of keys.
    pub fn write_keys(&self, page: &mut [u8], keys: &[f32]) {
        assert!(keys.len() <= self.tokens * self.key.dim, "a page has {} tokens", self.tokens);
        self.key.write_rows(page, keys);
    }

    /// Copies the stored value of one slot to a slot of another page: no conversion, so nothing is lost.
    pub fn copy_value(&self, from: &[u8], from_slot: usize, to: &mut [u8], to_slot: usize) {
        self.check(from_slot);
        self.check(to_slot);
        self.value.copy(from, from_slot, to, to_slot);
    }

    /// [`copy_value`](Self::copy_value) inside one page.
    pub fn move_value(&self, page: &mut [u8], from_slot: usize, to_slot: usize) {
        self.check(from_slot);
        self.check(to_slot);
        self.value.shift(page, from_slot, to_slot);
    }

    /// Converts and stores the value of one slot. Panics like [`write`](Self::write).
    pub fn write_value(&self, page: &mut [u8], slot: usize, value: &[f32]) {
        self.check(slot);
        self.value.write(page, slot, value);
    }

    /// Reads one key back; `out` has `key_dim` values. Panics like [`write`](Self::write).
    pub fn read_key(&self, page: &[u8], slot: usize, out: &mut [f32]) {
        self.check(slot);
        self.key.read(page, slot, out);
    }

    /// Reads one value back; `out` has `value_dim` values. Panics like [`write`](Self::write).
    pub fn read_value(&self, page: &[u8], slot: usize, out: &mut [f32]) {
        self.check(slot);
        self.value.read(page, slot, out);
    }

    /// Copies the stored bytes of one slot to a slot of another page: no conversion, so nothing is lost. Keys by channel
    /// have no meaning beside another page's table: [`write_keys`](Self::write_keys) writes those.
    pub fn copy_slot(&self, from: &[u8], from_slot: usize, to: &mut [u8], to_slot: usize) {
        self.check(from_slot);
        self.check(to_slot);
        self.key.copy(from, from_slot, to, to_slot);
        self.value.copy(from, from_slot, to, to_slot);
    }

    /// [`copy_slot`](Self::copy_slot) inside one page.
    pub fn move_slot(&self, page: &mut [u8], from_slot: usize, to_slot: usize) {
        self.check(from_slot);
        self.check(to_slot);
        self.key.shift(page, from_slot, to_slot);
        self.value.shift(page, from_slot, to_slot);
    }

    /// A slot past the end would silently land in the neighbouring part of the page.
    fn check(&self, slot: usize) {
        assert!(slot < self.tokens, "slot {slot} is not in a page of {} tokens", self.tokens);
    }
}
