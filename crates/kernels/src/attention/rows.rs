//! A run of stored rows inside one page, as the vector kernels see it.

use super::HeadView;
use super::layout::Part;
use std::ops::Range;

/// `count` consecutive rows of one part (keys or values) of one page.
#[derive(Clone, Copy, Debug)]
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
    fn new(page: &'a [u8], part: &Part, slots: Range<usize>) -> Rows<'a> {
        let (row_bytes, scale_bytes, count) = (part.row_bytes(), part.scale_bytes(), slots.len());
        Rows {
            data: &page[part.rows + slots.start * row_bytes..][..count * row_bytes],
            scales: &page[part.scales + slots.start * scale_bytes..][..count * scale_bytes],
            row_bytes,
            scale_bytes,
            count,
        }
    }

    /// Row `i`: its values and its scales.
    #[inline(always)]
    pub fn row(&self, i: usize) -> (&'a [u8], &'a [u8]) {
        (&self.data[i * self.row_bytes..][..self.row_bytes], &self.scales[i * self.scale_bytes..][..self.scale_bytes])
    }

    /// The bytes of eight rows from row `i` on, fewer at the end: what one step of a kernel reads.
    #[inline(always)]
    pub fn eight(&self, i: usize) -> &'a [u8] {
        let end = self.data.len();
        &self.data[(i * self.row_bytes).min(end)..((i + 8) * self.row_bytes).min(end)]
    }
}

/// Which half of a page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Half {
    Keys,
    Values,
}

/// The rows of slots `span` of a head, page by page: `(slots into the span, rows)`.
pub(super) fn segments<'a>(
    head: &HeadView<'a>,
    half: Half,
    span: Range<usize>,
) -> impl Iterator<Item = (usize, Rows<'a>)> {
    let part = match half {
        Half::Keys => head.layout.key_part(),
        Half::Values => head.layout.value_part(),
    };
    let (pages, tokens) = (head.pages, head.layout.tokens());
    let mut slot = span.start;
    std::iter::from_fn(move || {
        if slot >= span.end {
            return None;
        }
        let (page, first) = (slot / tokens, slot % tokens);
        let count = (tokens - first).min(span.end - slot);
        let at = slot - span.start;
        slot += count;
        Some((at, Rows::new(pages[page], &part, first..first + count)))
    })
}
