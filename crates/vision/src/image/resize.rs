//! Antialiased resizing of bytes, to the bit as PIL does it, because models were trained on its pixels.
//!
//! Two passes, columns first (Pillow 13 takes rows first for some shapes); a filter widened by the factor of reduction; weights as integers of 22 bits; and a
//! rounding to bytes between the passes. (Pillow, `Image.resize`; the cubic is Keys', 1981, with a = -0.5.)

use std::ops::Range;

use super::decode::Rgb;

/// Bits behind the point of a weight: 32 less 8 for a byte and 2 for sums beyond one.
const BITS: u32 = 32 - 8 - 2;

/// The interpolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filter {
    /// A triangle, two pixels wide.
    Bilinear,
    /// Keys' cubic, four pixels wide.
    Bicubic,
}

impl Filter {
    /// How far it reaches, in pixels of the smaller image.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic => cubic(x, -0.5),
        }
    }
}

/// Keys' cubic at `x >= 0` with slope `a` at one.
pub(crate) fn cubic(x: f64, a: f64) -> f64 {
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

/// The weights of one output: the first input it reads and a factor for each from there on.
pub(crate) struct Tap {
    pub(crate) first: usize,
    pub(crate) weights: Vec<f64>,
}

/// The taps of outputs `range` of a resize from `from` to `to` values, widened where it makes smaller.
pub(crate) fn taps(from: usize, to: usize, range: Range<usize>, filter: Filter) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let widened = scale.max(1.0);
    let support = filter.support() * widened;
    let tap = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let at = |j: usize| filter.at((j as f64 - centre + 0.5) / widened);
        let mut weights: Vec<f64> = (first..end).map(at).collect();
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= total);
        Tap { first, weights }
    };
    range.map(tap).collect()
}

/// The image at `width` x `height` pixels. A size of zero gives an image without pixels.
pub fn resize(image: &Rgb, width: usize, height: usize, filter: Filter) -> Rgb {
    resize_window(image, (width, height), (0..width, 0..height), filter)
}

/// Columns and rows `window` of the image at `size` (width, height), without making the rest of it.
pub(crate) fn resize_window(
    image: &Rgb,
    (width, height): (usize, usize),
    (columns, rows): (Range<usize>, Range<usize>),
    filter: Filter,
) -> Rgb {
    let mut out = Rgb { width: columns.len(), height: rows.len(), data: Vec::new() };
    if image.data.is_empty() || out.width == 0 || out.height == 0 {
        return out;
    }
    // A pass that changes nothing is left out, as PIL does; a filter would change nothing then either.
    let mut down_taps = whole(&taps(image.height, height, rows, filter));
    let first = down_taps.iter().map(|t| t.first).min().unwrap_or(0);
    let end = down_taps.iter().map(|t| t.first + t.weights.len()).max().unwrap_or(0);
    down_taps.iter_mut().for_each(|t| t.first -= first);
    let used = &image.data[first * image.width * 3..end * image.width * 3];
    let narrow = across(used, image.width, &whole(&taps(image.width, width, columns, filter)));
    out.data = down(&narrow, out.width * 3, &down_taps);
    out
}

/// Weights as integers.
struct WholeTap {
    first: usize,
    weights: Vec<i32>,
}

fn whole(taps: &[Tap]) -> Vec<WholeTap> {
    let one = f64::from(1u32 << BITS);
    // Rounded half away from zero.
    let fixed = |w: &f64| (w * one + if *w < 0.0 { -0.5 } else { 0.5 }) as i32;
    taps.iter().map(|t| WholeTap { first: t.first, weights: t.weights.iter().map(fixed).collect() }).collect()
}

fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

fn across(data: &[u8], width: usize, taps: &[WholeTap]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() / width.max(1) * taps.len());
    for row in data.chunks_exact(width * 3) {
        for tap in taps {
            let mut sums = [1i32 << (BITS - 1); 3];
            let pixels = row[tap.first * 3..].as_chunks::<3>().0;
            for (w, pixel) in tap.weights.iter().zip(pixels) {
                sums.iter_mut().zip(pixel).for_each(|(s, &p)| *s += w * i32::from(p));
            }
            out.extend(sums.map(byte));
        }
    }
    out
}

fn down(data: &[u8], row: usize, taps: &[WholeTap]) -> Vec<u8> {
    let mut out = Vec::with_capacity(row * taps.len());
    let mut sums = vec![0i32; row];
    for tap in taps {
        sums.fill(1 << (BITS - 1));
        for (w, line) in tap.weights.iter().zip(data[tap.first * row..].chunks_exact(row)) {
            sums.iter_mut().zip(line).for_each(|(s, &p)| *s += w * i32::from(p));
        }
        out.extend(sums.iter().map(|&s| byte(s)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: usize, height: usize) -> Rgb {
        Rgb { width, height, data: (0..width * height * 3).map(|i| (i * 7919 % 256) as u8).collect() }
    }

    #[test]
    fn the_same_size_is_the_same_image_and_a_flat_one_stays_flat() {
        let small = image(17, 9);
        assert!(resize(&small, 17, 9, Filter::Bicubic) == small);
        let flat = Rgb { width: 5, height: 40, data: vec![77; 600] };
        for (w, h) in [(1, 1), (3, 100), (224, 2)] {
            for filter in [Filter::Bilinear, Filter::Bicubic] {
                assert!(resize(&flat, w, h, filter).data.iter().all(|&p| p == 77), "{w}x{h}");
            }
        }
        assert!(resize(&small, 0, 5, Filter::Bicubic).data.is_empty());
    }

    #[test]
    fn a_window_is_the_same_pixels_as_the_whole() {
        let small = image(40, 30);
        let all = resize(&small, 64, 17, Filter::Bicubic);
        let window = resize_window(&small, (64, 17), (10..31, 3..16), Filter::Bicubic);
        for y in 0..13 {
            assert!(window.data[y * 63..][..63] == all.data[((3 + y) * 64 + 10) * 3..][..63]);
        }
    }

    #[test]
    fn weights_sum_to_one_and_stay_inside() {
        for (from, to) in [(1, 9), (9, 1), (224, 256), (30_000, 37)] {
            for tap in taps(from, to, 0..to, Filter::Bicubic) {
                assert!((tap.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                assert!(tap.first + tap.weights.len() <= from && !tap.weights.is_empty());
            }
        }
    }
}
