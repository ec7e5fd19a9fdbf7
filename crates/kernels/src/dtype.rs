//! The element types a weight may have on disk, with the sizes of their blocks.
//!
//! Names and numbers are those of the GGUF specification (its `ggml_type`), because every file that stores
//! a quantised tensor uses them; the plain floats serve safetensors as well.

use std::fmt;

/// Element type of a weight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // each variant is the format of that name; `weights` documents the layouts
pub enum DType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    IQ4NL,
    IQ4XS,
}

impl DType {
    /// Every type this crate can read.
    pub const ALL: [DType; 15] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::IQ4NL,
        DType::IQ4XS,
    ];

    /// GGUF id, name, values a block, bytes a block: the one table behind every method.
    const fn facts(self) -> (u32, &'static str, usize, usize) {
        match self {
            DType::F32 => (0, "F32", 1, 4),
            DType::F16 => (1, "F16", 1, 2),
            DType::BF16 => (30, "BF16", 1, 2),
            DType::Q4_0 => (2, "Q4_0", 32, 18),
            DType::Q4_1 => (3, "Q4_1", 32, 20),
            DType::Q5_0 => (6, "Q5_0", 32, 22),
            DType::Q5_1 => (7, "Q5_1", 32, 24),
            DType::Q8_0 => (8, "Q8_0", 32, 34),
            DType::Q2K => (10, "Q2_K", 256, 84),
            DType::Q3K => (11, "Q3_K", 256, 110),
            DType::Q4K => (12, "Q4_K", 256, 144),
            DType::Q5K => (13, "Q5_K", 256, 176),
            DType::Q6K => (14, "Q6_K", 256, 210),
            DType::IQ4NL => (20, "IQ4_NL", 32, 18),
            DType::IQ4XS => (23, "IQ4_XS", 256, 136),
        }
    }

    /// Values that share one block (1 for the plain floats).
    pub const fn block_len(self) -> usize {
        self.facts().2
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        self.facts().3
    }

    /// Bytes of a row of `cols` values; `None` if that is no whole number of blocks, or overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The name in GGUF tools: `"Q4_1"`, `"IQ4_NL"`.
    pub const fn name(self) -> &'static str {
        self.facts().1
    }

    /// The type of that GGUF name, upper or lower case.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name().eq_ignore_ascii_case(name))
    }

    /// The type of a GGUF id; `None` for one this crate cannot read.
    pub fn from_gguf_id(id: u32) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.gguf_id() == id)
    }

    /// The id in a GGUF header.
    pub const fn gguf_id(self) -> u32 {
        self.facts().0
    }

    /// Whether values are stored as plain floats.
    pub const fn is_float(self) -> bool {
        self.block_len() == 1
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_unique_and_find_their_type_again() {
        for d in DType::ALL {
            assert_eq!(DType::from_gguf_id(d.gguf_id()), Some(d));
            assert_eq!(DType::from_name(d.name()), Some(d));
            assert_eq!(DType::from_name(&d.name().to_lowercase()), Some(d));
        }
        assert_eq!(DType::from_gguf_id(4), None); // Q4_2, long removed from the specification
        assert_eq!(DType::from_name("Q9_Z"), None);
    }

    #[test]
    fn a_row_is_whole_blocks_or_nothing() {
        assert_eq!(DType::Q4_1.row_bytes(576), Some(18 * 20));
        assert_eq!(DType::Q4_1.row_bytes(577), None);
        assert_eq!(DType::Q6K.row_bytes(512), Some(420));
        assert_eq!(DType::F32.row_bytes(7), Some(28));
        assert_eq!(DType::F32.row_bytes(usize::MAX), None);
    }
}
