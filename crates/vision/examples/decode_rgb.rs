//! Decoded or resized RGB for comparison with other decoders: `decode_rgb FILE OUT [WIDTH HEIGHT]` writes raw bytes and
//! prints width and height.

use std::error::Error;
use std::path::Path;

use meden_vision::image::{Filter, Limits, decode, resize};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, out, rest @ ..] = args.as_slice() else { return Err("decode_rgb FILE OUT [WIDTH HEIGHT]".into()) };
    let mut image = decode(Path::new(file), &Limits::default())?;
    if let [width, height] = rest {
        image = resize(&image, width.parse()?, height.parse()?, Filter::Bicubic);
    }
    std::fs::write(out, &image.data)?;
    println!("{} {}", image.width, image.height);
    Ok(())
}
