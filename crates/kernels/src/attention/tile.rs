//! A tile of the cache in f32, laid out for the block kernels.

use super::block::TILE;
use super::channels::unfold;
use super::part::Part;
use super::rows::Walk;
use super::simd::*;
use super::{HeadView, KvType};
use std::arch::x86_64::*;
use std::ops::Range;

/// Sixteen columns, on a cache line of their own: a vector that lies across two lines is loaded twice.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Sixteen(pub [f32; 16]);

/// Up to [`TILE`] slots of one head, converted. Both halves are in panels of sixteen columns, which is what a kernel
/// keeps in two registers a row:
#[derive(Default, Debug)]
pub(super) struct Tile {
    /// (TILE / 16, key_dim, 16): channels down, slots across. Slots behind the last are zeros.
    pub keys: Vec<Sixteen>,
    /// (ceil(value_dim / 16), TILE, 16): slots down, channels across. Slots behind the last, and channels behind the
    /// width, are whatever was there; no visible result comes from them.
    pub values: Vec<Sixteen>,
    pub key_dim: usize,
    /// Whether products use AVX-512, which the processor must have.
    pub wide: bool,
}

/// The stored rows of a tile, wherever their pages are: (values, scales); empty behind the last slot.
type Stored<'a> = [(&'a [u8], &'a [u8]); TILE];

/// Converts the keys of `slots` of a head.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_keys(tile: &mut Tile, head: &HeadView, slots: Range<usize>) {
    let layout = &head.layout;
    let key_dim = layout.key_dim();
    tile.key_dim = key_dim;
    tile.keys.resize(TILE / 16 * key_dim, Sixteen::default());
    let part = layout.key_part();
    let keys = stored(head, &part, slots.clone());
    match layout.key_type() {
        KvType::Q4c => {
            transpose_keys::<Q4>(&keys, key_dim, &mut tile.keys);
            let mut first = 0;
            for piece in Walk::new(head, slots) {
                unfold(&mut tile.keys, key_dim, (first, piece.count), &piece, &part);
                first += piece.count;
            }
        }
        KvType::F32 => transpose_keys::<F32>(&keys, key_dim, &mut tile.keys),
        KvType::F16 => transpose_keys::<F16>(&keys, key_dim, &mut tile.keys),
        KvType::Q8 => transpose_keys::<Q8>(&keys, key_dim, &mut tile.keys),
        KvType::Q4 => transpose_keys::<Q4>(&keys, key_dim, &mut tile.keys),
    }
}

/// Converts the values of `slots` of a head.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load_values(tile: &mut Tile, head: &HeadView, slots: Range<usize>) {
    let layout = &head.layout;
    tile.values.resize(TILE * layout.value_dim().div_ceil(16), Sixteen::default());
    let values = stored(head, &layout.value_part(), slots);
    match layout.value_type() {
        KvType::F32 => convert_values::<F32>(&values, &mut tile.values),
        KvType::F16 => convert_values::<F16>(&values, &mut tile.values),
        KvType::Q8 => convert_values::<Q8>(&values, &mut tile.values),
        // values are never by channel: see `PageLayout::new`
        KvType::Q4 | KvType::Q4c => convert_values::<Q4>(&values, &mut tile.values),
    }
}

fn stored<'a>(head: &HeadView<'a>, part: &Part, slots: Range<usize>) -> Stored<'a> {
    let mut stored: Stored = [(&[], &[]); TILE];
    let mut to = stored.iter_mut();
    for piece in Walk::new(head, slots) {
        let rows = if part.kind.is_by_channel() { piece.codes(part) } else { piece.rows(part) };
        for (i, to) in (0..rows.count).zip(&mut to) {
            *to = rows.row(i);
        }
    }
    stored
}

/// Vector `i` of a stored row; zeros behind its end.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn vector<const B: usize>((row, scales): (&[u8], &[u8]), i: usize) -> __m256 {
    let (whole, tail) = row.as_chunks::<B>();
    match whole.get(i) {
        Some(x) => load_scaled(x, scale_of::<B>(scales, i / 4)),
        None if i == whole.len() && !tail.is_empty() => load_tail::<B>(tail, scale_of::<B>(scales, i / 4)),
        None => _mm256_setzero_ps(),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn transpose_keys<const B: usize>(stored: &Stored, key_dim: usize, keys: &mut [Sixteen]) {
    for (eight, rows) in stored.as_chunks::<8>().0.iter().enumerate() {
        let panel = &mut keys[eight / 2 * key_dim..][..key_dim];
        for (i, channels) in panel.chunks_mut(8).enumerate() {
            let mut block = [_mm256_setzero_ps(); 8];
            for (v, row) in block.iter_mut().zip(rows) {
                *v = vector::<B>(*row, i);
            }
            for (to, v) in channels.iter_mut().zip(transpose(&block)) {
                store(&mut to.0.as_chunks_mut::<8>().0[eight % 2], v);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn convert_values<const B: usize>(stored: &Stored, values: &mut [Sixteen]) {
    for (panel, slots) in values.chunks_exact_mut(TILE).enumerate() {
        for (to, row) in slots.iter_mut().zip(stored) {
            for (half, to) in to.0.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                store(to, vector::<B>(*row, 2 * panel + half));
            }
        }
    }
}
