//! Keys by channel: a page's table of steps and least values goes into the queries (few of them) or onto the converted
//! tile (many), so that the kernels meet plain codes.

use super::MOST_BY_CHANNEL;
use super::part::Part;
use super::rows::Piece;
use super::simd::*;
use super::tile::Sixteen;
use std::arch::x86_64::*;

/// Queries of a block of rows, times the steps of one page: `q · (step * code + least) = (q * step) · code + q · least`.
pub(super) struct Folded<const R: usize> {
    queries: [[[f32; 8]; R]; MOST_BY_CHANNEL / 8],
    /// `q · least`, which is the same for every key of the page.
    offsets: [f32; R],
}

impl<const R: usize> Folded<R> {
    pub fn new() -> Folded<R> {
        Folded { queries: [[[0.0; 8]; R]; MOST_BY_CHANNEL / 8], offsets: [0.0; R] }
    }

    /// The same vectors as `queries`, for the codes of the piece's page.
    pub fn queries(&self, vectors: usize) -> &[[[f32; 8]; R]] {
        &self.queries[..vectors]
    }

    /// What is added to the products of each row.
    pub fn offsets(&self) -> &[f32; R] {
        &self.offsets
    }

    /// Take over the table of a page.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn fold(&mut self, queries: &[[[f32; 8]; R]], piece: &Piece, part: &Part) {
        let (steps, leasts) = piece.table(part);
        let (steps, leasts) = (steps.as_chunks::<8>().0, leasts.as_chunks::<8>().0);
        let mut sums = [_mm256_setzero_ps(); R];
        for (((to, q), step), least) in self.queries.iter_mut().zip(queries).zip(steps).zip(leasts) {
            let (step, least) = (load_raw::<F16>(bytemuck::cast_ref(step)), load_raw::<F16>(bytemuck::cast_ref(least)));
            for ((to, q), sum) in to.iter_mut().zip(q).zip(&mut sums) {
                let q = load(q);
                store(to, _mm256_mul_ps(q, step));
                *sum = _mm256_fmadd_ps(q, least, *sum);
            }
        }
        for (offset, sum) in self.offsets.iter_mut().zip(sums) {
            let mut lanes = [0.0; 8];
            store(&mut lanes, sum);
            *offset = lanes.iter().sum();
        }
    }
}

/// Codes of a tile of keys, `(columns / 16, key_dim, 16)`, as the keys that they stand for: those of `count` columns from
/// `first` on, which lie in one page.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unfold(keys: &mut [Sixteen], key_dim: usize, (first, count): (usize, usize), piece: &Piece, part: &Part) {
    let (steps, leasts) = piece.table(part);
    let value = |bytes: &[u8; 2]| half::f16::from_le_bytes(*bytes).to_f32();
    let mut at = first;
    while at < first + count {
        let (panel, lanes) = (at / 16, at % 16..16.min(at % 16 + first + count - at));
        at += lanes.len();
        let panel = &mut keys[panel * key_dim..][..key_dim];
        for ((row, step), least) in panel.iter_mut().zip(steps).zip(leasts) {
            let (step, least) = (value(step), value(least));
            row.0[lanes.clone()].iter_mut().for_each(|x| *x = *x * step + least);
        }
    }
}
