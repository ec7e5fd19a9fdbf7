//! A classifier for new classes, and the files of the tuned model.

use meden_stats::Rng;
use meden_vision::vit::{Head, Naming, Params, Part, VitConfig};
use serde_json::{Value, json};

use super::error::TrainError;

/// The stream that a fresh classifier is drawn from.
const STREAM: u64 = 0x6865_6164;
/// Deviation of a fresh classifier's weights, as in ViT.
const DEVIATION: f64 = 0.02;

/// The shape of a model that is tuned to `classes`: its classifier reads the class token.
///
/// # Errors
/// A model with two classifiers (distilled DeiT) or without a class token, or fewer than one class.
pub fn tuned_config(config: &VitConfig, classes: &[String]) -> Result<VitConfig, TrainError> {
    if config.head == Head::Distilled {
        let why = "it has two classifiers (a distilled DeiT), which are not tuned here; use its plain version";
        return Err(TrainError::setting("model", why));
    }
    if !config.class_token || config.norm_after_pool {
        let why = "it pools its patches and has no class token to read; tuning needs one";
        return Err(TrainError::setting("model", why));
    }
    if classes.is_empty() {
        return Err(TrainError::setting("data", "there is no class"));
    }
    Ok(VitConfig { head: Head::Class, classes: classes.to_vec(), ..config.clone() })
}

/// The same as [`tuned_config`] for a model that is read for its classifier only.
///
/// # Errors
/// As [`tuned_config`].
pub fn classifier_config(config: &VitConfig) -> Result<VitConfig, TrainError> {
    tuned_config(config, &config.classes)
}

/// Sets a classifier of small random weights.
pub fn fresh_head(config: &VitConfig, params: &mut Params, seed: u64) {
    let mut rng = Rng::new(seed, STREAM);
    let weights = (0..config.classes.len() * config.width).map(|_| (rng.normal() * DEVIATION) as f32).collect();
    params.insert(Part::HeadWeight, weights);
    params.insert(Part::HeadBias, vec![0.0; config.classes.len()]);
}

/// The classifier that tuning goes on with: the model's own where it has the same classes and reads the class token alone
/// (DINOv2's, whose half for the mean patch token is zero, among them), a fresh one where it has none.
///
/// # Errors
/// A classifier of other classes, or one that reads patches, unless it is to be begun anew.
pub(super) fn take_head(
    from: &VitConfig,
    to: &VitConfig,
    params: &mut Params,
    options: &super::run::RunOptions,
) -> Result<(), TrainError> {
    if from.head == Head::None || options.reset_head {
        fresh_head(to, params, options.trainer.seed);
        return Ok(());
    }
    if from.classes != to.classes {
        let why = format!(
            "the model tells {:?} apart, the images are of {:?}; begin the classifier anew with --reset-head",
            from.classes, to.classes
        );
        return Err(TrainError::setting("classes", why));
    }
    if from.head == Head::ClassAndMean {
        let (d, wide) = (to.width, params.remove(Part::HeadWeight));
        if wide.chunks_exact(2 * d).any(|row| row[d..].iter().any(|v| *v != 0.0)) {
            let why =
                "the model's classifier reads the mean patch token, tuning only the class token; use --reset-head";
            return Err(TrainError::setting("model", why));
        }
        params.insert(Part::HeadWeight, wide.chunks_exact(2 * d).flat_map(|row| row[..d].to_vec()).collect());
    } else if from.head != Head::Class {
        let why = "the model's classifier does not read the class token; begin it anew with --reset-head";
        return Err(TrainError::setting("model", why));
    }
    Ok(())
}

/// Shape, weights and config.json as transformers (or timm, where the names are timm's) reads a classifier. For DINOv2
/// transformers' classifier reads class token and mean patch token: its second half is zero.
pub fn export(config: &VitConfig, params: &Params, raw: &Value) -> (VitConfig, Params, Value) {
    let (mut config, mut params, mut raw) = (config.clone(), params.clone(), raw.clone());
    let kind = raw.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (prefix, class) = match kind.as_str() {
        "dinov2" => ("dinov2.", "Dinov2ForImageClassification"),
        "dinov2_with_registers" => ("dinov2_with_registers.", "Dinov2WithRegistersForImageClassification"),
        "deit" => ("deit.", "DeiTForImageClassification"),
        "vit" => ("vit.", "ViTForImageClassification"),
        _ => ("", ""),
    };
    config.prefix = prefix.to_owned();
    if config.naming == Naming::Dinov2 {
        let row = |w: &[f32]| [w, &vec![0.0; config.width]].concat();
        let wide = params.get(Part::HeadWeight).chunks_exact(config.width).flat_map(row).collect();
        params.insert(Part::HeadWeight, wide);
        config.head = Head::ClassAndMean;
    }
    if let Some(fields) = raw.as_object_mut() {
        if config.naming == Naming::Timm {
            fields.insert("num_classes".into(), json!(config.classes.len()));
            fields.insert("label_names".into(), json!(config.classes));
        } else {
            let numbered = || config.classes.iter().enumerate();
            let names: serde_json::Map<_, _> = numbered().map(|(i, c)| (i.to_string(), json!(c))).collect();
            let numbers: serde_json::Map<_, _> = numbered().map(|(i, c)| (c.clone(), json!(i))).collect();
            fields.insert("architectures".into(), json!([class]));
            fields.insert("id2label".into(), Value::Object(names));
            fields.insert("label2id".into(), Value::Object(numbers));
            fields.insert("num_labels".into(), json!(config.classes.len()));
            if config.naming == Naming::Dinov2 {
                // Its token for masked training is not kept.
                fields.insert("use_mask_token".into(), json!(false));
            }
        }
    }
    (config, params, raw)
}
