//! Files to RGB. Image files come from strangers: size and dimensions are held against limits before pixels are
//! allocated, and a decoder that fails is an error with the file's name.

use std::io::{Cursor, Read};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader, metadata::Orientation};

use crate::error::VisionError;

/// What is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Pixels (width x height).
    pub pixels: u64,
    /// Either side.
    pub side: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { file_bytes: 256 << 20, pixels: 128 << 20, side: 60_000 }
    }
}

/// An image of three bytes a pixel, row by row, upright.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// (height, width, 3).
    pub data: Vec<u8>,
}

impl std::fmt::Debug for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb {{ {} x {} }}", self.width, self.height)
    }
}

/// Decodes a file (JPEG, PNG, WebP, GIF, BMP; by its content, not its name) into upright RGB.
///
/// The EXIF orientation is applied. Grey, palette, 16-bit and CMYK images become RGB; an alpha channel is dropped
/// without blending, as PIL's `convert("RGB")` does; of an animation the first frame is taken.
///
/// # Errors
/// [`VisionError::Image`] names the file when it cannot be read, is no image, is damaged or exceeds `limits`.
pub fn decode(path: &Path, limits: &Limits) -> Result<Rgb, VisionError> {
    let fail = |e: std::io::Error| VisionError::image(path, format!("cannot be read: {e}"), "check the path");
    let file = std::fs::File::open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() {
        return Err(VisionError::image(path, "is no regular file", "give the path of an image"));
    }
    let mut bytes = Vec::new();
    file.take(limits.file_bytes + 1).read_to_end(&mut bytes).map_err(fail)?;
    decode_bytes(&bytes, path, limits)
}

/// [`decode`] of a file's content; `path` is for messages.
///
/// # Errors
/// As [`decode`].
pub fn decode_bytes(bytes: &[u8], path: &Path, limits: &Limits) -> Result<Rgb, VisionError> {
    if bytes.len() as u64 > limits.file_bytes {
        let problem = format!("is larger than the {} bytes that are accepted", limits.file_bytes);
        return Err(VisionError::image(path, problem, "make a smaller copy of it"));
    }
    let damaged = |e: image::ImageError| {
        VisionError::image(path, format!("cannot be decoded: {e}"), "replace or remove the file")
    };
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let mut reader = reader.map_err(|e| damaged(e.into()))?;
    if reader.format().is_none() {
        return Err(VisionError::image(path, "is no JPEG, PNG, WebP, GIF or BMP image", "convert or remove the file"));
    }
    let mut allowed = image::Limits::default();
    (allowed.max_image_width, allowed.max_image_height) = (Some(limits.side), Some(limits.side));
    // The decoder's own buffers: up to 8 bytes a pixel (16-bit RGBA), and some for its tables.
    allowed.max_alloc = Some(limits.pixels * 8 + (64 << 20));
    reader.limits(allowed);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(VisionError::image(path, "has no pixels", "remove the file"));
    }
    if u64::from(width) * u64::from(height) > limits.pixels || width > limits.side || height > limits.side {
        let problem = format!(
            "has {width} x {height} pixels, more than the {} in all and {} a side that are accepted",
            limits.pixels, limits.side
        );
        return Err(VisionError::image(path, problem, "make a smaller copy of it"));
    }
    // Orientation that cannot be read is that of an image without any.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    let rgb = image.into_rgb8();
    Ok(Rgb { width: rgb.width() as usize, height: rgb.height() as usize, data: rgb.into_raw() })
}
