//! Rotary position settings, in the three spellings that config files use.
//!
//! - `rope_parameters`, flat: `{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8, …}`;
//! - `rope_parameters`, one such object per layer type (gemma3: `full_attention`, `sliding_attention`);
//! - older files: `rope_theta` beside `rope_scaling` (where `type` may stand for `rope_type`).
//!
//! [`super::Config::rope`] turns all of them into one [`Rope`].

use std::collections::BTreeMap;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

use super::Extra;

/// One set of rotary settings, as written in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// "default", "linear", "dynamic", "llama3", "yarn", "longrope" ("su" in old phi3 files).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_type: Option<String>,
    /// The older name of `rope_type`; many files have both.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub old_type: Option<String>,
    /// Base of the frequencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// How much longer the context is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// llama3: wavelengths longer than original / this are scaled fully.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_freq_factor: Option<f64>,
    /// llama3: wavelengths shorter than original / this are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_freq_factor: Option<f64>,
    /// Context length before scaling, in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_max_position_embeddings: Option<u64>,
    /// yarn, longrope: factor on cosine and sine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f64>,
    /// longrope: a divisor per channel pair, up to the original length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_factor: Option<Vec<f64>>,
    /// longrope: a divisor per channel pair, beyond it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_factor: Option<Vec<f64>>,
    /// yarn: rotations above which nothing is scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta_fast: Option<f64>,
    /// yarn: rotations below which all is scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta_slow: Option<f64>,
    /// Share of the head's channels that are rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial_rotary_factor: Option<f64>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Rope {
    /// `rope_type` under either name, "default" where none is named.
    pub fn kind(&self) -> &str {
        self.rope_type.as_deref().or(self.old_type.as_deref()).unwrap_or("default")
    }
}

/// `rope_parameters`: one set, or one per layer type.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RopeParameters {
    /// For all layers.
    Flat(Box<Rope>),
    /// By the names in `layer_types`.
    PerLayerType(BTreeMap<String, Rope>),
}

impl<'de> Deserialize<'de> for RopeParameters {
    // Not `untagged`: that hides which field was wrong behind "did not match any variant".
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let map = Extra::deserialize(d)?;
        let nested = !map.is_empty() && map.values().all(serde_json::Value::is_object);
        let value = serde_json::Value::Object(map);
        if nested {
            serde_json::from_value(value).map(RopeParameters::PerLayerType)
        } else {
            serde_json::from_value(value).map(|r| RopeParameters::Flat(Box::new(r)))
        }
        .map_err(|e| de::Error::custom(format!("rope_parameters: {e}")))
    }
}
