//! The tile registers: their shapes, and one product.
//!
//! The compiler has no stable intrinsics for tiles, so the instructions are written out. It never uses tile
//! registers by itself, so what one block of instructions leaves in them stays until the next.

use std::arch::asm;
use std::arch::x86_64::*;

/// Most rows of a tile.
pub(super) const ROWS: usize = 16;

/// Registers 0 and 1 take products, 2 the activations, 3 the weights; 4, 5 and 6 are 0, 1 and 2 for the rows
/// left when sixteen do not divide them.
const PRODUCTS: [usize; 2] = [0, 1];
const ACTIVATIONS: usize = 2;
const WEIGHTS: usize = 3;
const REST: usize = 4;

/// Sixteen rows of sixteen integers.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Sums([[i32; 16]; ROWS]);

impl Sums {
    pub(super) const EMPTY: Sums = Sums([[0; 16]; ROWS]);

    /// Row `i` as floats.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn row(&self, i: usize) -> __m512 {
        // SAFETY: a row has one vector, aligned.
        _mm512_cvtepi32_ps(unsafe { _mm512_load_si512(self.0[i].as_ptr().cast()) })
    }
}

/// The shapes of all tile registers, as the instruction takes them.
#[repr(C, align(64))]
pub(super) struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// For sixteen rows at a time and `rest` at last, 32 values at a time, or 16 with `halves`.
    pub(super) fn new(rest: usize, halves: bool) -> Config {
        let mut config = Config { palette: 1, start: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let values = if halves { 16 } else { 32 };
        let mut shape = |tile: usize, rows: usize, bytes: u16| {
            // A register without rows has no bytes either.
            (config.rows[tile], config.row_bytes[tile]) = (rows as u8, if rows == 0 { 0 } else { bytes });
        };
        for (first, rows) in [(0, ROWS), (REST, rest)] {
            PRODUCTS.iter().for_each(|tile| shape(first + tile, rows, 64));
            shape(first + ACTIVATIONS, rows, values);
        }
        shape(WEIGHTS, usize::from(values) / 4, 64);
        config
    }
}

/// Gives this thread's tile registers their shapes.
///
/// # Safety
/// AMX is there and granted to this process.
pub(super) unsafe fn configure(config: &Config) {
    // SAFETY: 64 bytes of a valid configuration are read; no memory is written.
    unsafe { asm!("ldtilecfg [{0}]", in(reg) config, options(nostack, preserves_flags, readonly)) }
}

/// Gives the tile registers up, so that the system has less to save when threads change.
///
/// # Safety
/// AMX is there and granted to this process.
pub(super) unsafe fn release() {
    // SAFETY: only tile registers change, and nobody has anything in them.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
}

macro_rules! product {
    ($multiply:literal, $product:literal, $activations:literal, $x:ident, $w:ident, $out:ident) => {
        asm!(
            concat!("tilezero ", $product),
            concat!("tileloadd ", $activations, ", [{x} + {x_stride}]"),
            "tileloadd tmm3, [{w} + {stride}]",
            concat!($multiply, " ", $product, ", ", $activations, ", tmm3"),
            concat!("tilestored [{out} + {stride}], ", $product),
            x = in(reg) $x,
            w = in(reg) $w,
            out = in(reg) $out,
            x_stride = in(reg) 32usize,
            stride = in(reg) 64usize,
            options(nostack, preserves_flags),
        )
    };
}

/// Rows of activations at `x`, 32 bytes apart, times the weights at `w`, rows of 64 bytes, in the shapes that were
/// configured. `SECOND` chooses the register, `REST` the shape for the rows left; weights are unsigned unless
/// `signed`.
///
/// # Safety
/// The tiles are configured, and memory behind `x` and `w` has their shapes.
#[inline(always)]
pub(super) unsafe fn multiply<const SECOND: bool, const REST: bool>(
    x: *const i8,
    w: *const [u8; 64],
    out: &mut Sums,
    signed: bool,
) {
    let out = out as *mut Sums;
    // SAFETY: the caller vouches for what is read; at most sixteen rows of 64 bytes are written.
    unsafe {
        match (SECOND, REST, signed) {
            (false, false, false) => product!("tdpbsud", "tmm0", "tmm2", x, w, out),
            (true, false, false) => product!("tdpbsud", "tmm1", "tmm2", x, w, out),
            (false, true, false) => product!("tdpbsud", "tmm4", "tmm6", x, w, out),
            (true, true, false) => product!("tdpbsud", "tmm5", "tmm6", x, w, out),
            (false, false, true) => product!("tdpbssd", "tmm0", "tmm2", x, w, out),
            (true, false, true) => product!("tdpbssd", "tmm1", "tmm2", x, w, out),
            (false, true, true) => product!("tdpbssd", "tmm4", "tmm6", x, w, out),
            (true, true, true) => product!("tdpbssd", "tmm5", "tmm6", x, w, out),
        }
    }
}
