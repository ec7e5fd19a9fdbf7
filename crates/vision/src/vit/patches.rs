//! Pixels to rows of patches, as a convolution whose stride is its size sees them.

/// Patches of one image: `pixels` (3, rows, columns) to `out` (patches, 3 x patch x patch), patches row by row. Pixels
/// beyond the last whole patch are left out.
pub fn unfold(pixels: &[f32], (rows, columns): (usize, usize), patch: usize, out: &mut [f32]) {
    let (down, across, area) = (rows / patch, columns / patch, patch * patch);
    for (index, out) in out.chunks_exact_mut(3 * area).take(down * across).enumerate() {
        let (y, x) = (index / across * patch, index % across * patch);
        for (c, out) in out.chunks_exact_mut(area).enumerate() {
            for (dy, out) in out.chunks_exact_mut(patch).enumerate() {
                let at = (c * rows + y + dy) * columns + x;
                out.copy_from_slice(&pixels[at..at + patch]);
            }
        }
    }
}
