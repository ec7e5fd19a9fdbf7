//! RGB of any size to the normalised pixels of a model.

use super::decode::Rgb;
use super::resize::{Filter, resize, resize_window};
use crate::error::VisionError;

/// How an image of another shape is fitted into the model's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fit {
    /// The shorter side becomes so many pixels, then the middle is cut out.
    Crop {
        /// Pixels of the shorter side.
        short: usize,
    },
    /// Both sides become the model's; the aspect ratio is not kept.
    Squash,
    /// The image is padded to the model's aspect ratio with the mean colour, then resized.
    Pad,
}

/// From decoded RGB to what a model takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Rows and columns of the model's input.
    pub size: (usize, usize),
    /// How other shapes are fitted.
    pub fit: Fit,
    /// Interpolation.
    pub filter: Filter,
    /// Subtracted from each channel, of values between 0 and 1.
    pub mean: [f32; 3],
    /// What each channel is divided by.
    pub std: [f32; 3],
}

impl Preprocess {
    /// ImageNet's mean and deviation.
    pub const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

    /// Bicubic, a centre crop of 7/8 of the shorter side, ImageNet's mean and deviation: what ViT-like models are
    /// evaluated with where nothing else is said.
    pub fn new(size: (usize, usize)) -> Preprocess {
        let (mean, std) = Preprocess::IMAGENET;
        let short = (size.0.max(size.1) as f64 / 0.875).round() as usize;
        Preprocess { size, fit: Fit::Crop { short }, filter: Filter::Bicubic, mean, std }
    }

    /// The same for another size of input; a crop keeps its proportion.
    pub fn resized(&self, size: (usize, usize)) -> Preprocess {
        let fit = match self.fit {
            Fit::Crop { short } => {
                let old = self.size.0.max(self.size.1).max(1);
                Fit::Crop { short: (short * size.0.max(size.1)).div_ceil(old) }
            }
            other => other,
        };
        Preprocess { size, fit, ..self.clone() }
    }

    /// Values of one image: channels x rows x columns.
    pub fn values(&self) -> usize {
        3 * self.size.0 * self.size.1
    }

    /// The image in the model's size, before it is normalised.
    pub fn fitted(&self, image: &Rgb) -> Rgb {
        let (height, width) = self.size;
        match self.fit {
            Fit::Squash => resize(image, width, height, self.filter),
            Fit::Pad => {
                let share = (width as f64 / image.width as f64).min(height as f64 / image.height as f64);
                let side = |have: usize, most: usize| ((have as f64 * share).round() as usize).clamp(1, most);
                let (w, h) = (side(image.width, width), side(image.height, height));
                let colour = self.mean.map(|m| (m * 255.0).round().clamp(0.0, 255.0) as u8);
                place(&resize(image, w, h, self.filter), (width, height), colour)
            }
            Fit::Crop { short } => {
                // The longer side is cut off, not rounded, as torchvision and transformers do.
                let longer = |long: usize, small: usize| (short * long / small.max(1)).max(1);
                let (w, h) = if image.width <= image.height {
                    (short, longer(image.height, image.width))
                } else {
                    (longer(image.width, image.height), short)
                };
                // Only what is cut out is made: an image of 30,000 x 1 pixels would grow to gigabytes.
                let middle = |have: usize, want: usize| have.saturating_sub(want) / 2;
                let (x, y) = (middle(w, width), middle(h, height));
                let window = (x..w.min(x + width), y..h.min(y + height));
                place(&resize_window(image, (w, h), window, self.filter), (width, height), [0; 3])
            }
        }
    }

    /// Writes the normalised pixels (3, rows, columns).
    ///
    /// # Errors
    /// `out` is not [`Preprocess::values`] long, or the image has no pixels.
    pub fn apply(&self, image: &Rgb, out: &mut [f32]) -> Result<(), VisionError> {
        if out.len() != self.values() || image.data.is_empty() {
            let why = format!("{} x {} pixels into {} values", image.width, image.height, out.len());
            return Err(VisionError::input("image", why));
        }
        let fitted = self.fitted(image);
        let plane = self.size.0 * self.size.1;
        for (c, out) in out.chunks_exact_mut(plane).enumerate() {
            // Each of the 256 bytes once.
            let table: [f32; 256] = std::array::from_fn(|b| (b as f32 / 255.0 - self.mean[c]) / self.std[c]);
            for (o, pixel) in out.iter_mut().zip(fitted.data.as_chunks::<3>().0) {
                *o = table[usize::from(pixel[c])];
            }
        }
        Ok(())
    }
}

/// An image in the middle of a larger one.
fn place(image: &Rgb, (width, height): (usize, usize), colour: [u8; 3]) -> Rgb {
    if (image.width, image.height) == (width, height) {
        return image.clone();
    }
    let mut data = colour.repeat(width * height);
    let (left, top) = ((width - image.width) / 2, (height - image.height) / 2);
    for (y, row) in image.data.chunks_exact(image.width * 3).enumerate() {
        data[((top + y) * width + left) * 3..][..row.len()].copy_from_slice(row);
    }
    Rgb { width, height, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fit_gives_the_models_size_whatever_the_images() {
        for (width, height) in [(1, 1), (300, 20), (20, 300), (64, 64), (30_000, 1), (1, 30_000)] {
            let image = Rgb { width, height, data: vec![200; width * height * 3] };
            for fit in [Fit::Crop { short: 64 }, Fit::Squash, Fit::Pad] {
                let preprocess = Preprocess { fit, ..Preprocess::new((56, 42)) };
                let mut out = vec![0.0; preprocess.values()];
                preprocess.apply(&image, &mut out).unwrap();
                let middle = out[27 * 42 + 20];
                assert!((middle - (200.0 / 255.0 - 0.485) / 0.229).abs() < 1e-5, "{width}x{height} {fit:?}: {middle}");
            }
        }
        let empty = Rgb { width: 0, height: 0, data: Vec::new() };
        assert!(Preprocess::new((56, 42)).apply(&empty, &mut [0.0; 3 * 56 * 42]).is_err());
    }

    #[test]
    fn another_input_size_keeps_the_proportion_of_the_crop() {
        let p = Preprocess::new((224, 224));
        assert_eq!(p.fit, Fit::Crop { short: 256 });
        assert_eq!(p.resized((112, 112)).fit, Fit::Crop { short: 128 });
    }
}
