//! Stored rows as the vector kernels see them: runs inside one page, walked in slot order.

use super::dots::TILE;
use super::part::Part;
use super::simd::{Scale, grouped, scale_of};
use super::{HeadView, KV_GROUP, MOST_BY_CHANNEL};
use std::arch::x86_64::*;
use std::ops::Range;

/// `count` consecutive rows of one part (keys or values) of one page.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rows<'a> {
    /// The rows, back to back.
    pub data: &'a [u8],
    /// Their scales, back to back; empty for types without. Where they take no bytes a row, one row's for all.
    pub scales: &'a [u8],
    pub row_bytes: usize,
    pub scale_bytes: usize,
    pub count: usize,
}

impl<'a> Rows<'a> {
    /// Row `i`: its values and its scales; those of all rows, where they are the same.
    #[inline(always)]
    pub fn row(&self, i: usize) -> (&'a [u8], &'a [u8]) {
        let scales = match self.scale_bytes {
            0 => self.scales,
            bytes => &self.scales[i * bytes..][..bytes],
        };
        (&self.data[i * self.row_bytes..][..self.row_bytes], scales)
    }

    /// The scale of a group of row `i`, in every lane; nothing is read for types without.
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    pub fn scale<const B: usize>(&self, i: usize, group: usize) -> Scale {
        scale_of::<B>(if grouped(B) { &self.scales[i * self.scale_bytes..] } else { &[] }, group)
    }
}

/// Scales of q4 that change nothing, for groups of any row: a step of 1 and a least value of 0 each.
static UNIT: [u8; 4 * MOST_GROUPS] = {
    let one = half::f16::ONE.to_le_bytes();
    let mut all = [0; 4 * MOST_GROUPS];
    let mut group = 0;
    while group < MOST_GROUPS {
        all[4 * group] = one[0];
        all[4 * group + 1] = one[1];
        group += 1;
    }
    all
};

/// Groups of a row of keys by channel.
const MOST_GROUPS: usize = MOST_BY_CHANNEL / KV_GROUP;

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

    /// The rows of keys by channel, before the page's table is applied: as rows of q4 whose scales are all 1.
    pub fn codes(&self, part: &Part) -> Rows<'a> {
        Rows { scales: &UNIT, scale_bytes: 0, ..self.rows(part) }
    }

    /// The page's table of scales by channel: steps and least values.
    pub fn table(&self, part: &Part) -> (&'a [[u8; 2]], &'a [[u8; 2]]) {
        part.table(self.page)
    }

    /// Do both lie in one page?
    pub fn shares_page(&self, other: &Piece<'_>) -> bool {
        std::ptr::eq(self.page, other.page)
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
    /// A page has room for at least sixteen slots; where pages are not full, a tile may have fewer slots.
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
    /// Of those pages, where they are not full.
    starts: &'a [u32],
    tokens: usize,
    first: usize,
    left: usize,
}

impl<'a> Walk<'a> {
    pub fn new(head: &HeadView<'a>, slots: Range<usize>) -> Walk<'a> {
        let (page, first) = head.place(slots.start);
        let starts = head.starts.get(page..).unwrap_or(&[]);
        Walk { pages: &head.pages[page..], starts, tokens: head.layout.tokens(), first, left: slots.len() }
    }

    /// Slots of the page at hand.
    fn held(&self) -> usize {
        match self.starts {
            [first, next, ..] => (next - first) as usize,
            _ => self.tokens,
        }
    }

    /// The next slots, at most `slots` and at most those of one page.
    fn piece(&mut self, slots: usize) -> Option<Piece<'a>> {
        let held = self.held();
        let count = slots.min(self.left).min(held - self.first);
        let piece = Piece { page: self.pages.first().filter(|_| count > 0)?, first: self.first, count };
        self.left -= count;
        self.first += count;
        if self.first == held {
            (self.pages, self.first) = (&self.pages[1..], 0);
            self.starts = self.starts.get(1..).unwrap_or(&[]);
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
