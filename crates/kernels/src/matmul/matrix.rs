//! A weight in its one resident layout.
//!
//! Whatever was loaded is interleaved into panels, panel by panel, into memory for weights, and then dropped. A mapped matrix stays as the file has it and each panel is interleaved into scratch
//! when it is used: no private memory, at the price of that work on every call.

use crate::isa::Isa;
use crate::mem::MappedFile;
use crate::mem::weights::Resident;
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
    /// Panels.
    Resident(Resident),
    /// Rows of the file's layout at a byte offset.
    Mapped(Arc<MappedFile>, usize),
}

impl Matrix {
    /// Takes `rows` rows in the file's layout and interleaves them.
    ///
    /// # Errors
    /// `cols` is no whole number of blocks, `bytes` is not what rows and columns imply, or the processor
    /// lacks `isa`.
    pub fn new(
        dtype: DType,
        rows: usize,
        cols: usize,
        bytes: impl AsRef<[u8]>,
        isa: Isa,
    ) -> Result<Matrix, KernelError> {
        let bytes = bytes.as_ref();
        let (row_bytes, total) = sizes(dtype, rows, cols, isa)?;
        check_length("the weight", "bytes", total, bytes.len())?;
        let padded = rows.next_multiple_of(panel_rows(dtype)) * row_bytes;
        let panels = Resident::new(padded, |panels| interleave(dtype, row_bytes, bytes, panels));
        Ok(Matrix { dtype, rows, cols, row_bytes, isa, store: Store::Resident(panels) })
    }

    /// Takes `rows` rows of `cols` floats.
    ///
    /// # Errors
    /// `data` does not hold `rows * cols` values, or the processor lacks `isa`.
    pub fn from_f32(rows: usize, cols: usize, data: impl AsRef<[f32]>, isa: Isa) -> Result<Matrix, KernelError> {
        let data = data.as_ref();
        let (_, total) = sizes(DType::F32, rows, cols, isa)?;
        check_length("the weight", "values", total / 4, data.len())?;
        Matrix::new(DType::F32, rows, cols, bytemuck::cast_slice(data), isa)
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
            Store::Resident(panels) => panels.len(),
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
            Store::Resident(panels) => &panels[span],
            Store::Mapped(map, offset) => {
                let rows = &map.as_slice()[*offset..][..self.rows * self.row_bytes];
                scratch.resize(span.len(), 0);
                interleave(self.dtype, self.row_bytes, &rows[span.start..rows.len().min(span.end)], scratch);
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

/// Rows to panels; rows missing from the last panel are zeros.
fn interleave(dtype: DType, row_bytes: usize, rows: &[u8], panels: &mut [u8]) {
    let size = row_bytes * panel_rows(dtype);
    if size == 0 {
        return;
    }
    for (rows, panel) in rows.chunks(size).zip(panels.chunks_exact_mut(size)) {
        if rows.len() == size {
            panel::pack(dtype, rows, panel);
        } else {
            let mut padded = rows.to_vec();
            padded.resize(size, 0);
            panel::pack(dtype, &padded, panel);
        }
    }
}
