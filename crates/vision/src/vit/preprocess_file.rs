//! preprocessor_config.json of transformers and pretrained_cfg of timm, to transforms.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::config::{Naming, VitConfig};
use crate::error::VisionError;
use crate::image::{Filter, Fit, Preprocess};

/// Largest input side; more is no model that exists.
const SIDE_MAX: u64 = 16_384;

#[derive(Deserialize)]
struct HfPreprocess {
    size: Option<Value>,
    crop_size: Option<Value>,
    do_center_crop: Option<bool>,
    resample: Option<u64>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
}

/// From a preprocessor_config.json.
pub(super) fn from_hf(path: &Path, value: &Value, model: &VitConfig) -> Result<Preprocess, VisionError> {
    let bad = |field: &str, why: String| VisionError::config(path, field, why);
    let p = HfPreprocess::deserialize(value).map_err(|e| bad("preprocessor_config.json", e.to_string()))?;
    let pair = |field: &str, v: &Value| -> Result<(usize, usize), VisionError> {
        let side =
            |v: Option<&Value>| v.and_then(Value::as_u64).filter(|n| (1..=SIDE_MAX).contains(n)).map(|n| n as usize);
        let both =
            if v.is_object() { (side(v.get("height")), side(v.get("width"))) } else { (side(Some(v)), side(Some(v))) };
        both.0.zip(both.1).ok_or_else(|| bad(field, format!("{v} is no size")))
    };
    let shortest = p.size.as_ref().and_then(|s| s.get("shortest_edge")).and_then(Value::as_u64);
    if shortest.is_some_and(|n| n == 0 || n > SIDE_MAX) {
        return Err(bad("size", "shortest_edge is no size".into()));
    }
    let crop = match &p.crop_size {
        Some(v) if p.do_center_crop != Some(false) => Some(pair("crop_size", v)?),
        _ => None,
    };
    let (size, fit) = match (shortest, crop, &p.size) {
        (Some(short), Some(crop), _) => (crop, Fit::Crop { short: short as usize }),
        (Some(short), None, _) => ((short as usize, short as usize), Fit::Crop { short: short as usize }),
        (None, _, Some(size)) => (pair("size", size)?, Fit::Squash),
        (None, _, None) => (model.image, Fit::Squash),
    };
    let filter = match p.resample {
        None | Some(3) => Filter::Bicubic,
        Some(2) => Filter::Bilinear,
        Some(other) => {
            return Err(bad("resample", format!("{other} is not done here; 2 (bilinear) and 3 (bicubic) are")));
        }
    };
    let (mean, std) = (p.image_mean.unwrap_or([0.5; 3]), p.image_std.unwrap_or([0.5; 3]));
    checked(path, Preprocess { size, fit, filter, mean, std })
}

/// From timm's pretrained_cfg.
pub(super) fn from_timm(path: &Path, config: &Value, model: &VitConfig) -> Result<Preprocess, VisionError> {
    let cfg = config.get("pretrained_cfg").unwrap_or(&Value::Null);
    let three = |key: &str| cfg.get(key).and_then(|v| <[f32; 3]>::deserialize(v).ok());
    let plain = Preprocess::new(model.image);
    let share = cfg.get("crop_pct").and_then(Value::as_f64).filter(|p| (0.01..=1.0).contains(p)).unwrap_or(0.875);
    let short = (model.image.0.max(model.image.1) as f64 / share).floor() as usize;
    let filter = match cfg.get("interpolation").and_then(Value::as_str) {
        None | Some("bicubic") => Filter::Bicubic,
        Some("bilinear") => Filter::Bilinear,
        Some(other) => {
            let why = format!("{other:?} is not done here; \"bilinear\" and \"bicubic\" are");
            return Err(VisionError::config(path, "interpolation", why));
        }
    };
    let mean = three("mean").unwrap_or(plain.mean);
    let std = three("std").unwrap_or(plain.std);
    checked(path, Preprocess { fit: Fit::Crop { short }, filter, mean, std, ..plain })
}

/// Where no file says it: ImageNet's mean and deviation, bicubic, a centre crop; DINOv2's table is for larger images than
/// it is used with, 224 pixels.
pub(super) fn assumed(model: &VitConfig) -> Preprocess {
    let usual = 224 / model.patch * model.patch;
    let size = if model.naming == Naming::Dinov2 && model.image.0 > 224 { (usual, usual) } else { model.image };
    Preprocess::new(size)
}

fn checked(path: &Path, p: Preprocess) -> Result<Preprocess, VisionError> {
    if p.std.iter().any(|s| !(s.is_finite() && *s > 0.0)) || p.mean.iter().any(|m| !m.is_finite()) {
        return Err(VisionError::config(
            path,
            "image_std",
            "mean and deviation have to be finite, the deviation positive",
        ));
    }
    Ok(p)
}

/// What transformers reads, with everything said.
pub(super) fn to_hf(p: &Preprocess) -> Value {
    let sides = |(rows, columns): (usize, usize)| serde_json::json!({ "height": rows, "width": columns });
    let resample = if p.filter == Filter::Bilinear { 2 } else { 3 };
    let mut value = serde_json::json!({
        "do_resize": true, "do_rescale": true, "do_normalize": true, "rescale_factor": 1.0 / 255.0,
        "image_mean": p.mean, "image_std": p.std, "resample": resample,
    });
    let more = match p.fit {
        Fit::Crop { short } => serde_json::json!({
            "image_processor_type": "BitImageProcessor", "do_convert_rgb": true, "do_center_crop": true,
            "size": { "shortest_edge": short }, "crop_size": sides(p.size),
        }),
        // transformers has no padding processor for these models; squashing is the nearest it can do.
        Fit::Squash | Fit::Pad => {
            serde_json::json!({ "image_processor_type": "ViTImageProcessor", "size": sides(p.size) })
        }
    };
    if let (Some(all), Value::Object(more)) = (value.as_object_mut(), more) {
        all.extend(more);
    }
    value
}
