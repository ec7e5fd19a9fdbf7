//! Vision transformers: ViT (Dosovitskiy et al., 2020), DeiT with its distilled token (Touvron et al., 2020), DINOv2
//! (Oquab et al., 2023) with layer scale and registers (Darcet et al., 2023).
//!
//! In the order of the data: a configuration file becomes a shape ([`VitConfig`]), the shape names the weights
//! ([`Part`]), a file's tensors become weights ([`Params`]), pixels become patches, and [`Vit`] runs.

mod config;
mod config_file;
mod load;
mod model;
mod names;
mod params;
mod patches;
mod position;
mod preprocess_file;

pub use config::{Head, Naming, VitConfig};
pub use load::{VitFiles, save};
pub use model::{Pooling, Tap, Trace, Vit};
pub use names::TensorName;
pub use params::{BlockPart, Params, Part};
pub use patches::unfold;
pub use position::{PositionTaps, position_taps};
