//! A weight in its one resident layout.
//!
//! Whatever was loaded is interleaved into panels in place, panel by panel, so that loading a matrix never
//! needs room for two. A mapped matrix stays as the file has it and each panel is interleaved into scratch
//! when it is used: no private memory, at the price of that work on every call.

use crate::isa::Isa;
use crate::mem::MappedFile;
use crate::weights::panel::{self, panel_rows};
use crate::{DType, KernelError, weights};
use std::ops::Range;
use std::sync::Arc;

/// A weight W: `rows` outputs of `cols` inputs each.
pub struct Matrix {
    dtype: DType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    isa: Isa,
    store: Store,
}

enum Store {
    /// Panels, as bytes.
    Bytes(Vec<u8>),
    /// Panels of f32 that came as floats: the same bytes, but the vector keeps its element type.
    Floats(Vec<f32>),
    /// Rows of the file's layout at a byte offset.
    Mapped(Arc<MappedFile>, usize),
}

impl Matrix {
    /// Takes `rows` rows in the file's layout and interleaves them in place.
    ///
    /// # Errors
    /// `cols` is no whole number of blocks, `bytes` is not what rows and columns imply, or the processor
    /// lacks `isa`.
    pub fn new(dtype: DType, rows: usize, cols: usize, mut bytes: Vec<u8>, isa: Isa) -> Result<Matrix, KernelError> {
        let (row_bytes, total) = sizes(dtype, rows, cols, isa)?;
        check_length("the weight", "bytes", total, bytes.len())?;
        // Exact: growing by the usual half or double would reserve room for nothing.
        let padded = padded_bytes(dtype, rows, row_bytes);
        bytes.reserve_exact(padded - total);
        bytes.resize(padded, 0);
        interleave_in_place(dtype, row_bytes, &mut bytes);
        Ok(Matrix { dtype, rows, cols, row_bytes, isa, store: Store::Bytes(bytes) })
    }

    /// Takes `rows` rows of `cols` floats.
    ///
    /// # Errors
    /// `data` does not hold `rows * cols` values, or the processor lacks `isa`.
    pub fn from_f32(rows: usize, cols: usize, mut data: Vec<f32>, isa: Isa) -> Result<Matrix, KernelError> {
        let dtype = DType::F32;
        let (row_bytes, total) = sizes(dtype, rows, cols, isa)?;
        check_length("the weight", "values", total / 4, data.len())?;
        let padded = padded_bytes(dtype, rows, row_bytes) / 4;
        data.reserve_exact(padded - total / 4);
        data.resize(padded, 0.0);
        interleave_in_place(dtype, row_bytes, bytemuck::cast_slice_mut(&mut data));
        Ok(Matrix { dtype, rows, cols, row_bytes, isa, store: Store::Floats(data) })
    }

    /// Uses `rows` rows straight from a mapped file, `offset` bytes into it.
    ///
    /// # Errors
    /// `cols` is no whole number of blocks, the rows reach beyond the file, or the processor lacks `isa`.
    pub fn from_mapped(
        dtype: DType,
        rows: usize,
        cols: usize,
        map: Arc<MappedFile>,
        offset: usize,
        isa: Isa,
    ) -> Result<Matrix, KernelError> {
        let (row_bytes, total) = sizes(dtype, rows, cols, isa)?;
        let file = map.as_slice().len();
        if offset.checked_add(total).is_none_or(|end| end > file) {
            return Err(KernelError::OutsideMap { offset, bytes: total, file });
        }
        Ok(Matrix { dtype, rows, cols, row_bytes, isa, store: Store::Mapped(map, offset) })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Outputs (n).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs (k).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The instruction set its products use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Heap bytes this weight keeps resident (0 if mapped).
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::Bytes(bytes) => bytes.capacity(),
            Store::Floats(data) => 4 * data.capacity(),
            Store::Mapped(..) => 0,
        }
    }

    /// Bytes of its values as stored, wherever they are.
    pub fn data_bytes(&self) -> usize {
        self.rows * self.row_bytes
    }

    /// Dequantises row `r` into `out`: an embedding lookup. Touches the one panel that holds the row.
    ///
    /// # Panics
    /// If `r` is no row or `out` is not `cols` long, as indexing a slice would.
    pub fn row(&self, r: usize, out: &mut [f32]) {
        assert!(r < self.rows, "row {r} of a matrix with {} rows", self.rows);
        assert_eq!(out.len(), self.cols, "a row of {} columns needs that many values", self.cols);
        if let Store::Mapped(map, offset) = &self.store {
            let bytes = &map.as_slice()[offset + r * self.row_bytes..][..self.row_bytes];
            let lengths_match = weights::dequantize(self.dtype, bytes, out);
            debug_assert!(lengths_match.is_ok());
            return;
        }
        let per = panel_rows(self.dtype);
        let mut unused = Vec::new();
        let panel = self.panels_in(r / per..r / per + 1, &mut unused);
        panel::row(self.dtype, panel, r % per, out);
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(panel_rows(self.dtype))
    }

    /// Bytes of a panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.row_bytes * panel_rows(self.dtype)
    }

    /// Some panels, one after another: resident, or made in `scratch` from the mapped file.
    pub(super) fn panels_in<'a>(&'a self, panels: Range<usize>, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let size = self.panel_bytes();
        let span = panels.start * size..panels.end * size;
        match &self.store {
            Store::Bytes(bytes) => &bytes[span],
            Store::Floats(data) => &bytemuck::cast_slice(data)[span],
            Store::Mapped(map, offset) => {
                let rows = &map.as_slice()[*offset..][..self.rows * self.row_bytes];
                scratch.resize(span.len(), 0);
                for (index, panel) in panels.zip(scratch.chunks_exact_mut(size.max(1))) {
                    let rows = &rows[index * size..rows.len().min((index + 1) * size)];
                    if rows.len() == size {
                        panel::pack(self.dtype, rows, panel);
                    } else {
                        let mut padded = rows.to_vec();
                        padded.resize(size, 0);
                        panel::pack(self.dtype, &padded, panel);
                    }
                }
                scratch
            }
        }
    }
}

/// Bytes of a row and of all rows, once everything that can be wrong with a shape has been ruled out.
fn sizes(dtype: DType, rows: usize, cols: usize, isa: Isa) -> Result<(usize, usize), KernelError> {
    if !isa.is_available() {
        return Err(KernelError::IsaUnavailable(isa));
    }
    let too_large = KernelError::TooLarge { dtype, rows, cols };
    if !cols.is_multiple_of(dtype.block_len()) {
        return Err(KernelError::Columns { dtype, block: dtype.block_len(), cols });
    }
    let row_bytes = dtype.row_bytes(cols).ok_or(too_large.clone())?;
    let total = row_bytes.checked_mul(rows).filter(|&total| total <= isize::MAX as usize / 2);
    Ok((row_bytes, total.ok_or(too_large)?))
}

fn check_length(what: &'static str, unit: &'static str, expected: usize, got: usize) -> Result<(), KernelError> {
    if got == expected { Ok(()) } else { Err(KernelError::Length { what, unit, expected, got }) }
}

fn padded_bytes(dtype: DType, rows: usize, row_bytes: usize) -> usize {
    rows.next_multiple_of(panel_rows(dtype)) * row_bytes
}

/// Rows (zero rows behind the last, up to whole panels) to panels, one panel of scratch at a time.
fn interleave_in_place(dtype: DType, row_bytes: usize, bytes: &mut [u8]) {
    let size = row_bytes * panel_rows(dtype);
    if size == 0 {
        return;
    }
    let mut rows = Vec::with_capacity(size);
    for panel in bytes.chunks_exact_mut(size) {
        rows.clear();
        rows.extend_from_slice(panel);
        panel::pack(dtype, &rows, panel);
    }
}
