//! Stored rows as the vector kernels see them: runs inside one page, walked in slot order.

use super::HeadView;
use super::dots::TILE;
use super::part::Part;
use super::simd::{Scale, grouped, scale_of};
use std::arch::x86_64::*;
use std::ops::Range;

/// `count` consecutive rows of one part (keys or values) of one page.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rows<'a> {
    /// The rows, back to back.
    pub data: &'a [u8],
    /// Their scales, back to back; empty for types without.
    pub scales: &'a [u8],
    pub row_bytes: usize,
    pub scale_bytes: usize,
    pub count: usize,
}

impl<'a> Rows<'a> {
    /// Row `i`: its values and its scales.
    #[inline(always)]
    pub fn row(&self, i: usize) -> (&'a [u8], &'a [u8]) {
        (&self.data[i * self.row_bytes..][..self.row_bytes], &self.scales[i * self.scale_bytes..][..self.scale_bytes])
    }

    /// The scale of a group of row `i`, in every lane; nothing is read for types without.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub fn scale<const B: usize>(&self, i: usize, group: usize) -> Scale {
        scale_of::<B>(if grouped(B) { &self.scales[i * self.scale_bytes..] } else { &[] }, group)
    }
}

/// `count` consecutive slots of one page, from slot `first` of the page on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Piece<'a> {
    page: &'a [u8],
    first: usize,
    pub count: usize,
}

impl<'a> Piece<'a> {
    /// Their rows of one part.
    pub fn rows(&self, part: &Part) -> Rows<'a> {
        let (row_bytes, scale_bytes) = (part.row_bytes(), part.scale_bytes());
        Rows {
            data: &self.page[part.rows + self.first * row_bytes..][..self.count * row_bytes],
            scales: &self.page[part.scales + self.first * scale_bytes..][..self.count * scale_bytes],
            row_bytes,
            scale_bytes,
            count: self.count,
        }
    }

    /// Where those rows begin, for [`ask`].
    pub fn address(&self, part: &Part) -> usize {
        self.page.as_ptr().addr() + part.rows + self.first * part.row_bytes()
    }
}

/// The pages that up to [`TILE`] slots lie in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pieces<'a> {
    all: [Piece<'a>; Pieces::MOST],
    count: usize,
    pub slots: usize,
}

impl<'a> Pieces<'a> {
    /// A page has at least sixteen slots.
    pub const MOST: usize = TILE / 16 + 1;

    pub fn iter(&self) -> std::slice::Iter<'_, Piece<'a>> {
        self.all[..self.count].iter()
    }

    pub fn get(&self, i: usize) -> Option<&Piece<'a>> {
        self.all[..self.count].get(i)
    }
}

/// Walks over a range of a head's slots, page by page.
pub(super) struct Walk<'a> {
    pages: &'a [&'a [u8]],
    tokens: usize,
    first: usize,
    left: usize,
}

impl<'a> Walk<'a> {
    pub fn new(head: &HeadView<'a>, slots: Range<usize>) -> Walk<'a> {
        let tokens = head.layout.tokens();
        Walk { pages: &head.pages[slots.start / tokens..], tokens, first: slots.start % tokens, left: slots.len() }
    }

    /// The next slots, at most `slots` and at most those of one page.
    fn piece(&mut self, slots: usize) -> Option<Piece<'a>> {
        let count = slots.min(self.left).min(self.tokens - self.first);
        let piece = Piece { page: self.pages.first().filter(|_| count > 0)?, first: self.first, count };
        self.left -= count;
        self.first += count;
        if self.first == self.tokens {
            (self.pages, self.first) = (&self.pages[1..], 0);
        }
        Some(piece)
    }

    /// The next `slots` slots, fewer at the end and never more than [`TILE`].
    pub fn tile(&mut self, slots: usize) -> Pieces<'a> {
        let mut taken = Pieces::default();
        while taken.count < Pieces::MOST
            && let Some(piece) = self.piece(slots.min(TILE) - taken.slots)
        {
            taken.all[taken.count] = piece;
            taken.count += 1;
            taken.slots += piece.count;
        }
        taken
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        self.piece(self.left)
    }
}

/// Asks for the cache lines of `bytes` from `address` on, ahead of their use. An address, not a slice: a prefetch
/// reads nothing, wherever it points.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn ask(address: usize, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address.wrapping_add(line)));
    }
}
