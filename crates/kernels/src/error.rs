//! The one error type of this crate: each variant carries the numbers that disagree and says what to do.

use crate::dtype::DType;
use crate::isa::Isa;

/// What a kernel refuses to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A row cannot be cut into whole blocks of its format.
    #[error(
        "{dtype} stores {block} values a block, but a row has {cols} columns: use a format whose block divides them"
    )]
    Columns {
        /// Format asked for.
        dtype: DType,
        /// Values in one block of that format.
        block: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// A buffer has not the length that its shape implies.
    #[error("{what} holds {got} {unit}, expected {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// `"bytes"` or `"values"`.
        unit: &'static str,
        /// Length that the shape implies.
        expected: usize,
        /// Length found.
        got: usize,
    },
    /// A shape whose size in bytes does not fit the address space.
    #[error("a {dtype} matrix of {rows} x {cols} is larger than this machine can address")]
    TooLarge {
        /// Format asked for.
        dtype: DType,
        /// Output rows.
        rows: usize,
        /// Input columns.
        cols: usize,
    },
    /// A weight that no format can hold.
    #[error("value {index} is {value}: weights have to be finite numbers")]
    NotFinite {
        /// Which value, counted from 0.
        index: usize,
        /// "NaN", "inf" or "-inf".
        value: String,
    },
    /// Two operands disagree on their shared dimension.
    #[error("{what}: {left} against {right}")]
    Mismatch {
        /// Which dimension of which operands.
        what: &'static str,
        /// Size on the first operand.
        left: usize,
        /// Size on the second operand.
        right: usize,
    },
    /// A tensor lies (partly) outside the mapped file.
    #[error(
        "tensor of {bytes} bytes at offset {offset} ends beyond the mapped file of {file} bytes: the file is truncated or its header is wrong"
    )]
    OutsideMap {
        /// First byte of the tensor.
        offset: usize,
        /// Bytes of the tensor.
        bytes: usize,
        /// Bytes of the file.
        file: usize,
    },
    /// The processor lacks an instruction set that was asked for by name.
    #[error("this processor has no {0}: choose one of `Isa::available()` or leave the choice to `Isa::best()`")]
    IsaUnavailable(Isa),
    /// The activations carry no copy in the precision that a weight needs.
    #[error(
        "activations were set without the copy that a {0} matrix needs: pass this matrix to `Needs::of`, or use `Activations::set`"
    )]
    ActivationsLack(DType),
    /// The operating system refused memory for the pages of a slab.
    #[error("the system refused {bytes} bytes for cache pages: use a smaller cache budget or a smaller element type")]
    OutOfMemory {
        /// Bytes of the chunk that was asked for.
        bytes: usize,
    },
}
