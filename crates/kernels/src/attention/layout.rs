//! How keys and values lie inside one page of the cache.
//!
//! A page holds a whole number of tokens of ONE kv head, first the keys, then the values:
//!
//! ```text
//! | key rows | key scales (q8) | pad to 32 | value rows | value scales (q8) | unused |
//!   (tokens, key_dim)   (tokens, ceil(key_dim / 32))   (tokens, value_dim)   ...
//! ```
//!
//! Rows stay token-major, because evicting a token must be one short copy and because the decode kernel reads each
//! row once, in order. Scales live in the page they belong to, so a page can be moved, shared or given back alone,
//! and they sit behind the rows so that rows of any type start at the page's own (4096-byte) alignment.

use half::f16;
use half::slice::HalfFloatSliceExt;
use std::fmt;
use std::str::FromStr;

/// Values that share one scale in a [`KvType::Q8`] row; the last group of a row may be shorter.
pub const Q8_GROUP: usize = 32;

const OS_PAGE: usize = 4096;
const MIN_TOKENS: usize = 16;
const PART_ALIGN: usize = 32;
/// A page may leave this share (1 in 32, 3 %) unused before a bigger page is tried.
const WASTE_DIVISOR: usize = 32;

/// Element type of cached keys or values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum KvType {
    /// 4 bytes a value, lossless.
    F32,
    /// 2 bytes a value, IEEE half precision.
    F16,
    /// 1 byte a value and one f16 scale for each [`Q8_GROUP`] values: `value = scale * i8`.
    Q8,
}

impl KvType {
    /// Every type, in the order of falling size.
    pub const ALL: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8];

    /// The name used in flags, files and over HTTP: `f32`, `f16` or `q8`.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8 => "q8",
        }
    }

    fn value_bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8 => 1,
        }
    }

    fn scales(self, dim: usize) -> usize {
        match self {
            KvType::Q8 => dim.div_ceil(Q8_GROUP),
            KvType::F32 | KvType::F16 => 0,
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is not a [`KvType`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cache element type; the types are f32, f16 and q8")]
pub struct UnknownKvType(pub String);

impl FromStr for KvType {
    type Err = UnknownKvType;

    fn from_str(s: &str) -> Result<KvType, UnknownKvType> {
        KvType::ALL.into_iter().find(|t| t.name() == s).ok_or_else(|| UnknownKvType(s.to_string()))
    }
}

/// One half of a page: rows of one width and type with their scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Part {
    /// Element type of the rows.
    pub kind: KvType,
    /// Values a row.
    pub dim: usize,
    /// Byte offset of row 0 in the page.
    pub rows: usize,
    /// Byte offset of the scales of row 0 in the page.
    pub scales: usize,
}

impl Part {
    /// Bytes from one row to the next.
    pub fn row_bytes(&self) -> usize {
        self.dim * self.kind.value_bytes()
    }

    /// Bytes from one row's scales to the next row's.
    pub fn scale_bytes(&self) -> usize {
        self.kind.scales(self.dim) * 2
    }

    fn row(&self, slot: usize) -> std::ops::Range<usize> {
        let start = self.rows + slot * self.row_bytes();
        start..start + self.row_bytes()
    }

    fn scale_range(&self, slot: usize) -> std::ops::Range<usize> {
        let start = self.scales + slot * self.scale_bytes();
        start..start + self.scale_bytes()
    }

    fn write(&self, page: &mut [u8], slot: usize, values: &[f32]) {
        assert_eq!(values.len(), self.dim, "a cached row has {} values", self.dim);
        match self.kind {
            KvType::F32 => write_f32(&mut page[self.row(slot)], values),
            KvType::F16 => write_f16(&mut page[self.row(slot)], values),
            KvType::Q8 => {
                for (group, chunk) in values.chunks(Q8_GROUP).enumerate() {
                    let at = self.row(slot).start + group * Q8_GROUP;
                    let scale = write_q8(&mut page[at..at + chunk.len()], chunk);
                    let at = self.scale_range(slot).start + group * 2;
                    page[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
        }
    }

    fn read(&self, page: &[u8], slot: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.dim, "a cached row has {} values", self.dim);
        let row = &page[self.row(slot)];
        match self.kind {
            KvType::F32 => {
                for (o, b) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                    *o = f32::from_le_bytes(*b);
                }
            }
            KvType::F16 => read_f16(row, out),
            KvType::Q8 => {
                let scales = &page[self.scale_range(slot)];
                let groups = out.chunks_mut(Q8_GROUP).zip(row.chunks(Q8_GROUP));
                for ((out, row), scale) in groups.zip(scales.as_chunks::<2>().0) {
                    let scale = f16::from_le_bytes(*scale).to_f32();
                    for (o, b) in out.iter_mut().zip(row) {
                        *o = scale * f32::from(*b as i8);
                    }
                }
            }
        }
    }

    fn copy(&self, from: &[u8], from_slot: usize, to: &mut [u8], to_slot: usize) {
        to[self.row(to_slot)].copy_from_slice(&from[self.row(from_slot)]);
        to[self.scale_range(to_slot)].copy_from_slice(&from[self.scale_range(from_slot)]);
    }

    fn shift(&self, page: &mut [u8], from_slot: usize, to_slot: usize) {
        page.copy_within(self.row(from_slot), self.row(to_slot).start);
        page.copy_within(self.scale_range(from_slot), self.scale_range(to_slot).start);
    }
}

fn write_f32(row: &mut [u8], values: &[f32]) {
    for (b, v) in row.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *b = v.to_le_bytes();
    }
}

fn write_f16(row: &mut [u8], values: &[f32]) {
    // Pages are 4096-aligned, so the vectorised conversion nearly always applies.
    if cfg!(target_endian = "little")
        && let Ok(halves) = bytemuck::try_cast_slice_mut::<u8, f16>(row)
    {
        return halves.convert_from_f32_slice(values);
    }
    for (b, v) in row.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *b = f16::from_f32(*v).to_le_bytes();
    }
}

fn read_f16(row: &[u8], out: &mut [f32]) {
    if cfg!(target_endian = "little")
        && let Ok(halves) = bytemuck::try_cast_slice::<u8, f16>(row)
    {
        return halves.convert_to_f32_slice(out);
    }
    for (o, b) in out.iter_mut().zip(row.as_chunks::<2>().0) {
        *o = f16::from_le_bytes(*b).to_f32();
    }
}

/// Rounds one group to int8 and returns its scale. The scale is rounded to f16 FIRST and the integers are chosen for
/// the rounded one, so its rounding error is not added to theirs. A group with a value that is not finite gets the
/// scale NaN: the damage must show up on reading, not turn into a plausible zero.
fn write_q8(row: &mut [u8], values: &[f32]) -> f16 {
    // Without their signs, floats are ordered like their bits, and what is not finite comes last.
    let peak = values.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    let peak = f32::from_bits(peak);
    if !peak.is_finite() {
        row.fill(1);
        return f16::NAN;
    }
    let scale = f16::from_f32((peak / 127.0).min(f16::MAX.to_f32()));
    let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    // Adding 1.5 * 2^23 rounds to an integer (halves to even), whose two's complement is then the lowest byte.
    const ROUND: f32 = 12_582_912.0;
    for (b, v) in row.iter_mut().zip(values) {
        *b = ((v * inverse).clamp(-127.0, 127.0) + ROUND).to_bits() as u8;
    }
    scale
}

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
    pub fn new(key_dim: usize, value_dim: usize, key_type: KvType, value_type: KvType) -> PageLayout {
        let (key, value) = (part(key_type, key_dim), part(value_type, value_dim));
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
        let values_at = |tokens: usize| (tokens * (key.row_bytes() + key.scale_bytes())).next_multiple_of(PART_ALIGN);
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
        self.page_bytes - self.tokens * self.token_bytes()
    }

    /// Slots a page.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes a page, a multiple of 4096.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Bytes one token takes, scales included.
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

    /// Copies the stored bytes of one slot to a slot of another page: no conversion, so nothing is lost.
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

fn part(kind: KvType, dim: usize) -> Part {
    Part { kind, dim, rows: 0, scales: 0 }
}
