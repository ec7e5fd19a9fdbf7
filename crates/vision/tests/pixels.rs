//! Pixels: resizing as Pillow does it, and image files of every kind and ill will.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, RgbImage};
use meden_vision::image::{Filter, Limits, Rgb, decode_bytes, resize};

#[test]
fn resizing_is_pillows_to_the_bit() {
    let file: serde_json::Value = serde_json::from_str(include_str!("pillow.json")).unwrap();
    let number = |v: &serde_json::Value| v.as_u64().unwrap() as usize;
    let (width, height) = (number(&file["width"]), number(&file["height"]));
    let data = (0..width * height * 3).map(|i| (i * 7919 % 251) as u8).collect();
    let image = Rgb { width, height, data };
    for case in file["cases"].as_array().unwrap() {
        let filter = if case["filter"] == "bicubic" { Filter::Bicubic } else { Filter::Bilinear };
        let found = resize(&image, number(&case["width"]), number(&case["height"]), filter);
        let expected: Vec<u8> = case["data"].as_array().unwrap().iter().map(|v| number(v) as u8).collect();
        assert!(found.data == expected, "{} x {} {filter:?}", case["width"], case["height"]);
    }
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, format).unwrap();
    out.into_inner()
}

fn decoded(bytes: &[u8]) -> Result<Rgb, String> {
    decode_bytes(bytes, Path::new("some.image"), &Limits::default()).map_err(|e| e.to_string())
}

/// Red on the left, blue on the right.
fn halves(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| image::Rgb(if x < width / 2 { [255, 0, 0] } else { [0, 0, 255] }))
}

#[test]
fn every_kind_of_image_becomes_rgb() {
    let rgb = DynamicImage::ImageRgb8(halves(16, 8));
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Jpeg] {
        let image = decoded(&encoded(&rgb, format)).unwrap();
        assert_eq!((image.width, image.height, image.data.len()), (16, 8, 16 * 8 * 3), "{format:?}");
        assert!(image.data[0] > 200 && image.data[2] < 60, "{format:?}: red first");
    }
    for other in [
        DynamicImage::ImageLuma8(rgb.to_luma8()),
        DynamicImage::ImageLumaA8(rgb.to_luma_alpha8()),
        DynamicImage::ImageRgba8(rgb.to_rgba8()),
        DynamicImage::ImageLuma16(rgb.to_luma16()),
        DynamicImage::ImageRgb16(rgb.to_rgb16()),
    ] {
        let image = decoded(&encoded(&other, ImageFormat::Png)).unwrap();
        assert_eq!(image.data.len(), 16 * 8 * 3, "{:?}", other.color());
    }
    // Alpha is dropped, not blended.
    let clear = DynamicImage::ImageRgba8(image::RgbaImage::from_pixel(2, 2, image::Rgba([10, 20, 30, 0])));
    assert_eq!(decoded(&encoded(&clear, ImageFormat::Png)).unwrap().data[..3], [10, 20, 30]);
    let one = DynamicImage::ImageRgb8(halves(1, 1));
    assert_eq!(decoded(&encoded(&one, ImageFormat::Png)).unwrap().data.len(), 3);
}

/// A JPEG whose EXIF block says how to turn it.
fn turned(orientation: u8) -> Vec<u8> {
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut out = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut out, 95);
    encoder.set_exif_metadata(exif).unwrap();
    encoder.write_image(&halves(32, 16), 32, 16, ExtendedColorType::Rgb8).unwrap();
    out
}

#[test]
fn exif_orientation_is_applied() {
    let red = |image: &Rgb, x: usize, y: usize| image.data[(y * image.width + x) * 3] > 128;
    // Which corner of the upright image is red: left, right, top, bottom halves.
    for (orientation, size, first, last) in [
        (1, (32, 16), true, false),
        (3, (32, 16), false, true),
        (2, (32, 16), false, true),
        (6, (16, 32), true, false),
        (8, (16, 32), false, true),
    ] {
        let image = decoded(&turned(orientation)).unwrap();
        assert_eq!((image.width, image.height), size, "{orientation}");
        assert_eq!(red(&image, 0, 0), first, "{orientation}");
        assert_eq!(red(&image, size.0 - 1, size.1 - 1), last, "{orientation}");
    }
}

#[test]
fn hostile_files_are_refused_by_name_and_never_panic() {
    let good = encoded(&DynamicImage::ImageRgb8(halves(40, 30)), ImageFormat::Png);
    for bytes in [&b""[..], b"GIF89a", b"\xff\xd8\xff", b"not an image at all", &good[..good.len() / 2]] {
        assert!(decoded(bytes).unwrap_err().contains("some.image"), "{bytes:?}");
    }
    // A head that claims 60,000 x 60,000 pixels in a few bytes.
    let mut huge = good.clone();
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let body: Vec<u8> = huge[12..29].to_vec();
    huge[29..33].copy_from_slice(&crc(&body).to_be_bytes());
    let error = decoded(&huge).unwrap_err();
    assert!(error.contains("60000"), "{error}");
    let small = Limits { pixels: 100, ..Limits::default() };
    assert!(decode_bytes(&good, Path::new("x"), &small).is_err());
    let short = Limits { file_bytes: 10, ..Limits::default() };
    assert!(decode_bytes(&good, Path::new("x"), &short).is_err());
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Bmp] {
        let bytes = encoded(&DynamicImage::ImageRgb8(halves(9, 7)), format);
        for at in 0..bytes.len() {
            let mut b = bytes.clone();
            b[at] ^= 0x55;
            let _ = decoded(&b);
            let _ = decoded(&bytes[..at]);
        }
    }
}

/// PNG's check sum.
fn crc(bytes: &[u8]) -> u32 {
    let step =
        |c: u32, b: &u8| (0..8).fold(c ^ u32::from(*b), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 });
    !bytes.iter().fold(!0, step)
}
