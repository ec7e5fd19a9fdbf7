//! The tile registers: their shapes, and one product.
//!
//! The compiler has no stable intrinsics for tiles, so the instructions are written out. It never uses tile
//! registers by itself, so what one block of instructions leaves in them stays until the next.

use std::arch::asm;
use std::arch::x86_64::*;

/// Most rows of a tile.
pub(super) const ROWS: usize = 16;

/// Registers 0 and 1 take products, 2 and 3 hold activations, 4 and 5 weights.
const PRODUCTS: [usize; 2] = [0, 1];
const ACTIVATIONS: [usize; 2] = [2, 3];
const WEIGHTS: [usize; 2] = [4, 5];

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
    /// For products of `rows` rows, 32 values at a time, or 16 with `halves`.
    pub(super) fn new(rows: usize, halves: bool) -> Config {
        let mut config = Config { palette: 1, start: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let values = if halves { 16 } else { 32 };
        let mut shape = |tiles: [usize; 2], rows: usize, bytes: u16| {
            for tile in tiles {
                (config.rows[tile], config.row_bytes[tile]) = (rows as u8, bytes);
            }
        };
        shape(PRODUCTS, rows, 64);
        shape(ACTIVATIONS, rows, values);
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

/// One of the two factors of a product: activations 32 bytes apart, weights in rows of 64 bytes.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    pub(super) x: *const i8,
    pub(super) w: *const [u8; 64],
}

macro_rules! two_products {
    ($multiply:literal, $first:ident, $second:ident, $out:ident) => {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tileloadd tmm2, [{x0} + {x_stride}]",
            "tileloadd tmm4, [{w0} + {stride}]",
            concat!($multiply, " tmm0, tmm2, tmm4"),
            "tileloadd tmm3, [{x1} + {x_stride}]",
            "tileloadd tmm5, [{w1} + {stride}]",
            concat!($multiply, " tmm1, tmm3, tmm5"),
            "tilestored [{out} + {stride}], tmm0",
            "tilestored [{out} + {stride} + 1024], tmm1",
            x0 = in(reg) $first.x,
            w0 = in(reg) $first.w,
            x1 = in(reg) $second.x,
            w1 = in(reg) $second.w,
            out = in(reg) $out,
            x_stride = in(reg) 32usize,
            stride = in(reg) 64usize,
            options(nostack, preserves_flags),
        )
    };
}

/// Two products of the shapes that were configured. Weights are unsigned unless `signed`. The results are not
/// there for another hundred cycles or two: do something else first.
///
/// # Safety
/// The tiles are configured, and memory behind the factors has their shapes.
#[inline(always)]
pub(super) unsafe fn multiply(first: Factors, second: Factors, out: &mut [Sums; 2], signed: bool) {
    let out = out.as_mut_ptr();
    // SAFETY: the caller vouches for what is read; at most twice sixteen rows of 64 bytes are written.
    unsafe {
        if signed { two_products!("tdpbssd", first, second, out) } else { two_products!("tdpbsud", first, second, out) }
    }
}
