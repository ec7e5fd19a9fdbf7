//! Rows of keys or values in a page: how each element type is written, read and moved.

use super::kind::{KV_GROUP, KvType};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// One half of a page: rows of one width and type with their scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Part {
    /// Element type of the rows.
    pub kind: KvType,
    /// Values a row.
    pub dim: usize,
    /// Byte offset of row 0 in the page.
    pub rows: usize,
    /// Byte offset of the scales of row 0 in the page; by channel, of the table of scales.
    pub scales: usize,
}

impl Part {
    /// A part at no place yet.
    pub fn new(kind: KvType, dim: usize) -> Part {
        Part { kind, dim, rows: 0, scales: 0 }
    }

    /// Bytes from one row to the next.
    pub fn row_bytes(&self) -> usize {
        self.kind.row_bytes(self.dim)
    }

    /// Bytes from one row's scales to the next row's.
    pub fn scale_bytes(&self) -> usize {
        self.dim.div_ceil(KV_GROUP) * self.kind.group_bytes()
    }

    /// Bytes of a table of scales by channel: a step, then a least value for each, filled up to whole vectors.
    pub fn table_bytes(&self) -> usize {
        if self.kind.is_by_channel() { self.dim.next_multiple_of(8) * 4 } else { 0 }
    }

    /// The table: steps, then least values, f16 as bytes.
    pub fn table<'a>(&self, page: &'a [u8]) -> (&'a [[u8; 2]], &'a [[u8; 2]]) {
        let all = page[self.scales..self.scales + self.table_bytes()].as_chunks::<2>().0;
        all.split_at(all.len() / 2)
    }

    fn row(&self, slot: usize) -> std::ops::Range<usize> {
        let start = self.rows + slot * self.row_bytes();
        start..start + self.row_bytes()
    }

    fn scale_range(&self, slot: usize) -> std::ops::Range<usize> {
        let start = self.scales + slot * self.scale_bytes();
        start..start + self.scale_bytes()
    }

    /// Converts and stores a row.
    pub fn write(&self, page: &mut [u8], slot: usize, values: &[f32]) {
        // one row alone has no say about the channels of a page
        assert!(!self.kind.is_by_channel(), "rows of {} are written a page at a time", self.kind);
        assert_eq!(values.len(), self.dim, "a cached row has {} values", self.dim);
        match self.kind {
            KvType::F32 => write_f32(&mut page[self.row(slot)], values),
            KvType::F16 => write_f16(&mut page[self.row(slot)], values),
            KvType::Q8 => {
                for (group, chunk) in values.chunks(KV_GROUP).enumerate() {
                    let at = self.row(slot).start + group * KV_GROUP;
                    let scale = write_q8(&mut page[at..at + chunk.len()], chunk);
                    let at = self.scale_range(slot).start + group * 2;
                    page[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
            KvType::Q4 | KvType::Q4c => {
                for (group, chunk) in values.chunks(KV_GROUP).enumerate() {
                    let at = self.row(slot).start + group * KV_GROUP / 2;
                    let end = self.row(slot).end.min(at + KV_GROUP / 2);
                    let [scale, least] = write_q4(&mut page[at..end], chunk);
                    let at = self.scale_range(slot).start + group * 4;
                    page[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                    page[at + 2..at + 4].copy_from_slice(&least.to_le_bytes());
                }
            }
        }
    }

    /// Converts and stores rows from slot 0 on, `(rows, dim)`; by channel, all rows that the page has.
    pub fn write_rows(&self, page: &mut [u8], values: &[f32]) {
        if self.kind.is_by_channel() {
            return self.write_channels(page, values);
        }
        for (slot, row) in values.chunks_exact(self.dim.max(1)).enumerate() {
            self.write(page, slot, row);
        }
    }

    /// Sixteen steps for each channel, from its least to its largest value; rounded and damaged as in [`write_q4`].
    fn write_channels(&self, page: &mut [u8], values: &[f32]) {
        let dim = self.dim;
        assert!(values.len().is_multiple_of(dim.max(1)), "cached rows have {dim} values");
        let (width, limit) = (dim.next_multiple_of(8), f16::MAX.to_f32());
        let table = self.scales..self.scales + self.table_bytes();
        let (steps, leasts) = (table.start, table.start + 2 * width);
        page[table].fill(0);
        for first in (0..dim).step_by(CHANNELS) {
            let channels = first..(first + CHANNELS).min(dim);
            let (mut least, mut most) = ([f32::INFINITY; CHANNELS], [f32::NEG_INFINITY; CHANNELS]);
            let mut sum = [0.0f32; CHANNELS];
            for row in values.chunks_exact(dim) {
                for (((x, least), most), sum) in
                    row[channels.clone()].iter().zip(&mut least).zip(&mut most).zip(&mut sum)
                {
                    (*least, *most, *sum) = (least.min(*x), most.max(*x), *sum + x * 0.0);
                }
            }
            let mut inverse = [0.0f32; CHANNELS];
            for (i, channel) in channels.clone().enumerate() {
                // a sum of zeros is not zero where a value is not finite
                let whole = sum[i] == 0.0;
                let low = if whole { f16::from_f32(least[i].clamp(-limit, limit)) } else { f16::NAN };
                let step = f16::from_f32(((most[i] - low.to_f32()) / 15.0).clamp(0.0, limit));
                let step = if whole { step } else { f16::NAN };
                page[steps + 2 * channel..][..2].copy_from_slice(&step.to_le_bytes());
                page[leasts + 2 * channel..][..2].copy_from_slice(&low.to_le_bytes());
                inverse[i] = if step == f16::ZERO || !whole { 0.0 } else { 1.0 / step.to_f32() };
                least[i] = if whole { low.to_f32() } else { 0.0 };
            }
            for (slot, row) in values.chunks_exact(dim).enumerate() {
                let at = self.row(slot).start + first / 2;
                let code = |i: usize| {
                    let x = if i < channels.len() { row[first + i] } else { 0.0 };
                    ((((x - least[i]) * inverse[i]).clamp(0.0, 15.0) + ROUND).to_bits() & 15) as u8
                };
                let bytes = self.row(slot).end.min(at + CHANNELS / 2) - at;
                for (i, to) in page[at..at + bytes].iter_mut().enumerate() {
                    *to = code(2 * i) | code(2 * i + 1) << 4;
                }
            }
        }
    }

    /// Reads a row back.
    pub fn read(&self, page: &[u8], slot: usize, out: &mut [f32]) {
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
                let groups = out.chunks_mut(KV_GROUP).zip(row.chunks(KV_GROUP));
                for ((out, row), scale) in groups.zip(scales.as_chunks::<2>().0) {
                    let scale = f16::from_le_bytes(*scale).to_f32();
                    for (o, b) in out.iter_mut().zip(row) {
                        *o = scale * f32::from(*b as i8);
                    }
                }
            }
            KvType::Q4c => {
                let (steps, leasts) = self.table(page);
                for (i, ((o, step), least)) in out.iter_mut().zip(steps).zip(leasts).enumerate() {
                    let [step, least] = [step, least].map(|bytes| f16::from_le_bytes(*bytes).to_f32());
                    *o = step * f32::from(row[i / 2] >> (4 * (i % 2)) & 15) + least;
                }
            }
            KvType::Q4 => {
                let scales = &page[self.scale_range(slot)];
                let groups = out.chunks_mut(KV_GROUP).zip(row.chunks(KV_GROUP / 2));
                for ((out, row), scales) in groups.zip(scales.as_chunks::<4>().0) {
                    let [scale, least] = [[scales[0], scales[1]], [scales[2], scales[3]]]
                        .map(|bytes| f16::from_le_bytes(bytes).to_f32());
                    for (i, o) in out.iter_mut().enumerate() {
                        *o = scale * f32::from(row[i / 2] >> (4 * (i % 2)) & 15) + least;
                    }
                }
            }
        }
    }

    /// Copies the stored bytes of a row to another page.
    pub fn copy(&self, from: &[u8], from_slot: usize, to: &mut [u8], to_slot: usize) {
        to[self.row(to_slot)].copy_from_slice(&from[self.row(from_slot)]);
        to[self.scale_range(to_slot)].copy_from_slice(&from[self.scale_range(from_slot)]);
    }

    /// Copies the stored bytes of a row within a page.
    pub fn shift(&self, page: &mut [u8], from_slot: usize, to_slot: usize) {
        page.copy_within(self.row(from_slot), self.row(to_slot).start);
        page.copy_within(self.scale_range(from_slot), self.scale_range(to_slot).start);
    }
}

/// Channels that are looked at together.
const CHANNELS: usize = 32;

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

/// 1.5 * 2^23: adding it rounds to an integer (halves to even), whose two's complement is then the lowest byte.
const ROUND: f32 = 12_582_912.0;

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
    for (b, v) in row.iter_mut().zip(values) {
        *b = ((v * inverse).clamp(-127.0, 127.0) + ROUND).to_bits() as u8;
    }
    scale
}

/// Rounds one group to sixteen steps from its least to its largest value, two values a byte, the first in the low half;
/// returns the step and the least value. Both are rounded to f16 FIRST, as in [`write_q8`], and a value that is not
/// finite makes the group NaN.
fn write_q4(row: &mut [u8], values: &[f32]) -> [f16; 2] {
    row.fill(0);
    if values.iter().any(|v| !v.is_finite()) {
        return [f16::NAN; 2];
    }
    let (least, most) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
    let limit = f16::MAX.to_f32();
    let least = f16::from_f32(least.clamp(-limit, limit));
    let scale = f16::from_f32(((most - least.to_f32()) / 15.0).clamp(0.0, limit));
    let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    for (i, v) in values.iter().enumerate() {
        let step = ((v - least.to_f32()) * inverse).clamp(0.0, 15.0) + ROUND;
        row[i / 2] |= (step.to_bits() as u8 & 15) << (4 * (i % 2));
    }
    [scale, least]
}
