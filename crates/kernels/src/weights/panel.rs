//! Panels: rows interleaved so that one vector meets several outputs at once.
//!
//! * Quantised: eight rows. A panel block is one block of each row, field after field, the fields' units
//!   dealt round the rows. Nothing is added or widened, so a panel takes exactly its rows' bytes, a matrix
//!   can be repacked in place, and the original bytes of a row can be gathered again.
//! * Plain floats: sixteen rows, `(cols, 16)`.
//!
//! Rows missing from the last panel are zero bytes, which every format reads as zero values.

use super::{DType, Field, Format, MAX_BLOCK, Unit, dequantize_block, float, with_format};

/// Rows of a quantised panel: the 32-bit lanes of a 256-bit vector.
pub(crate) const QUANT_ROWS: usize = 8;
/// Rows of a panel of plain floats: two 256-bit vectors, enough chains to hide a fused multiply-add.
pub(crate) const FLOAT_ROWS: usize = 16;

/// Rows of a panel of that type.
pub(crate) const fn panel_rows(dtype: DType) -> usize {
    if dtype.is_float() { FLOAT_ROWS } else { QUANT_ROWS }
}

/// Packs [`panel_rows`] whole rows of the file's layout, one after another, into `panel` of the same size.
pub(crate) fn pack(dtype: DType, rows: &[u8], panel: &mut [u8]) {
    with_format!(dtype, F => pack_blocks::<F>(rows, panel), float => match dtype.block_bytes() {
        2 => interleave::<2, FLOAT_ROWS>(split(rows), panel),
        _ => interleave::<4, FLOAT_ROWS>(split(rows), panel),
    });
}

/// `R` rows of equal length.
fn split<const R: usize>(rows: &[u8]) -> [&[u8]; R] {
    let len = rows.len() / R;
    std::array::from_fn(|r| &rows[r * len..][..len])
}

/// Deals units of `U` bytes of `R` rows round the rows.
#[inline]
fn interleave<const U: usize, const R: usize>(rows: [&[u8]; R], out: &mut [u8]) {
    let rows = rows.map(|row| row.as_chunks::<U>().0);
    for (e, group) in out.as_chunks_mut::<U>().0.as_chunks_mut::<R>().0.iter_mut().enumerate() {
        *group = rows.map(|row| row[e]);
    }
}

fn pack_blocks<F: Format>(rows: &[u8], panel: &mut [u8]) {
    let bytes = F::DTYPE.block_bytes();
    let rows: [&[u8]; QUANT_ROWS] = split(rows);
    for (b, out) in panel.chunks_exact_mut(bytes * QUANT_ROWS).enumerate() {
        let mut at = 0;
        for &Field { len, unit } in F::FIELDS {
            let source = rows.map(|row| &row[b * bytes + at..][..len]);
            let out = &mut out[at * QUANT_ROWS..][..len * QUANT_ROWS];
            match unit {
                Unit::Byte => interleave::<1, QUANT_ROWS>(source, out),
                Unit::Half => interleave::<2, QUANT_ROWS>(source, out),
                Unit::Word => interleave::<4, QUANT_ROWS>(source, out),
                Unit::Bits => {
                    interleave::<4, QUANT_ROWS>(source, out);
                    out.as_chunks_mut::<4>().0.iter_mut().for_each(|word| *word = deal_bits(*word));
                }
            }
            at += len;
        }
    }
}

/// Bit `4 g + b` to bit `g` of byte `b` (a 8 x 4 to 4 x 8 transpose).
fn deal_bits(word: [u8; 4]) -> [u8; 4] {
    let word = u32::from_le_bytes(word);
    std::array::from_fn(|b| {
        // Every fourth bit, then squeezed together: pairs, then quads, then all eight.
        let x = word >> b & 0x1111_1111;
        let x = (x | x >> 3) & 0x0303_0303;
        let x = (x | x >> 6) & 0x000f_000f;
        (x | x >> 12) as u8
    })
}

/// The reverse of [`deal_bits`].
fn collect_bits(word: [u8; 4]) -> [u8; 4] {
    let mut out = 0u32;
    for (b, byte) in word.into_iter().enumerate() {
        for g in 0..8 {
            out |= u32::from(byte >> g & 1) << (4 * g + b);
        }
    }
    out.to_le_bytes()
}

/// The file's bytes of row `r` of a panel block.
pub(crate) fn gather_block<F: Format>(panel_block: &[u8], r: usize, block: &mut [u8; MAX_BLOCK]) {
    let mut at = 0;
    for &Field { len, unit } in F::FIELDS {
        let field = &panel_block[at * QUANT_ROWS..][..len * QUANT_ROWS];
        let out = &mut block[at..at + len];
        match unit {
            Unit::Byte => gather::<1>(field, r, out),
            Unit::Half => gather::<2>(field, r, out),
            Unit::Word => gather::<4>(field, r, out),
            Unit::Bits => {
                gather::<4>(field, r, out);
                out.as_chunks_mut::<4>().0.iter_mut().for_each(|word| *word = collect_bits(*word));
            }
        }
        at += len;
    }
}

fn gather<const U: usize>(field: &[u8], r: usize, out: &mut [u8]) {
    let units = field.as_chunks::<U>().0.iter().skip(r).step_by(QUANT_ROWS);
    for (out, unit) in out.as_chunks_mut::<U>().0.iter_mut().zip(units) {
        *out = *unit;
    }
}

/// Dequantises row `r` of a panel.
pub(crate) fn row(dtype: DType, panel: &[u8], r: usize, out: &mut [f32]) {
    with_format!(dtype, F => row_of_blocks::<F>(panel, r, out), float => {
        let unit = dtype.block_bytes();
        for (value, lanes) in out.iter_mut().zip(panel.chunks_exact(unit * FLOAT_ROWS)) {
            float::widen(dtype, &lanes[r * unit..][..unit], std::slice::from_mut(value));
        }
    });
}

fn row_of_blocks<F: Format>(panel: &[u8], r: usize, out: &mut [f32]) {
    let mut block = [0; MAX_BLOCK];
    let panel_blocks = panel.chunks_exact(F::DTYPE.block_bytes() * QUANT_ROWS);
    for (panel_block, out) in panel_blocks.zip(out.chunks_exact_mut(F::DTYPE.block_len())) {
        gather_block::<F>(panel_block, r, &mut block);
        dequantize_block::<F>(&block, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without structure, so that any two places differ.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn every_quantised_row_can_be_gathered_again_from_its_panel() {
        fn check<F: Format>() {
            let bytes = F::DTYPE.block_bytes();
            let total: usize = F::FIELDS.iter().map(|f| f.len).sum();
            assert_eq!(total, bytes, "{}: the fields do not make up the block", F::DTYPE);
            let rows = noise(2 * bytes * QUANT_ROWS);
            let mut panel = vec![1; rows.len()];
            pack(F::DTYPE, &rows, &mut panel);
            for (b, panel_block) in panel.chunks_exact(bytes * QUANT_ROWS).enumerate() {
                for r in 0..QUANT_ROWS {
                    let mut block = [0; MAX_BLOCK];
                    gather_block::<F>(panel_block, r, &mut block);
                    let expected = &rows[(2 * r + b) * bytes..][..bytes];
                    assert_eq!(&block[..bytes], expected, "{} row {r} block {b}", F::DTYPE);
                }
            }
        }
        for dtype in DType::ALL {
            with_format!(dtype, F => check::<F>(), float => ());
        }
    }

    #[test]
    fn dealing_bits_is_undone_by_collecting_them() {
        for bytes in noise(400).as_chunks::<4>().0 {
            assert_eq!(collect_bits(deal_bits(*bytes)), *bytes);
        }
        // Bit 4 g + b alone must land in byte b, bit g.
        assert_eq!(deal_bits((1u32 << 9).to_le_bytes()), [0, 1 << 2, 0, 0]);
    }
}
