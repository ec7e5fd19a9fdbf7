//! From an image file to the pixels that a model takes: decoding with limits, resizing as PIL does it, normalising.

mod decode;
mod folder;
mod list;
mod resize;
pub(crate) mod taps {
    pub(crate) use super::resize::{Tap, cubic, taps};
}
mod transform;

pub use decode::{Limits, Rgb, decode, decode_bytes};
pub use folder::{Labelled, image_folder, images_under};
pub use list::{image_list, labelled};
pub use resize::{Filter, resize};
pub use transform::{Fit, Preprocess};
