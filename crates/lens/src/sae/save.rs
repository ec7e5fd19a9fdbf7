//! Writing an autoencoder as SAELens does: `cfg.json` and `sae_weights.safetensors`.

use std::io::Write;
use std::path::Path;

use meden_files::safetensors_file::SafetensorsWriter;
use meden_files::{AtomicFile, FileError};
use meden_kernels::DType;
use serde_json::{Map, Value, json};

use super::activation::Activation;
use super::error::SaeError;
use super::normalize::Normalize;
use super::parts::Parts;

impl Parts {
    /// Writes a folder that SAELens (6.0 and later) and [`load`](mod@super::load) read; `more` goes into the configuration's
    /// `metadata`, under `meden`. The factor of `expected_average_only_in` is folded into the weights, since SAELens
    /// leaves it out of its files too.
    ///
    /// # Errors
    /// An architecture that SAELens has no name for; what the operating system refuses.
    pub fn save(self, folder: &Path, more: Value) -> Result<(), SaeError> {
        let named = !matches!(self.activation, Activation::GroupMax { .. } | Activation::BatchTopK { .. });
        if !named || self.skip.is_some() {
            let fix = "save a TopK or JumpReLU autoencoder; one that chooses over a batch is saved with its threshold";
            return Err(SaeError::format(folder, format!("{} has no form in SAELens", self.activation.name()), fix));
        }
        let parts = self.fold_scale();
        std::fs::create_dir_all(folder).map_err(|e| FileError::io(folder, "create", e))?;
        parts.weights().write(&folder.join("sae_weights.safetensors"))?;
        let text = serde_json::to_string_pretty(&parts.config(more)).unwrap_or_default();
        let path = folder.join("cfg.json");
        let mut file = AtomicFile::create(&path)?;
        file.write_all(text.as_bytes()).map_err(|e| FileError::io(&path, "write", e))?;
        Ok(file.commit()?)
    }

    fn weights(&self) -> SafetensorsWriter {
        let (n, d) = (self.width, self.d_in);
        let mut transposed = vec![0f32; n * d];
        for (latent, row) in self.encoder.chunks_exact(d).enumerate() {
            row.iter().enumerate().for_each(|(i, &w)| transposed[i * n + latent] = w);
        }
        let bytes = |values: &[f32]| bytemuck::cast_slice::<f32, u8>(values).to_vec();
        let mut writer = SafetensorsWriter::new()
            .tensor("W_enc", DType::F32, &[d, n], bytes(&transposed))
            .tensor("W_dec", DType::F32, &[n, self.d_out], bytes(&self.decoder))
            .tensor("b_dec", DType::F32, &[self.d_out], bytes(&self.b_dec));
        match &self.activation {
            Activation::Gated { b_gate, b_mag, r_mag } => {
                for (name, values) in [("b_gate", b_gate), ("b_mag", b_mag), ("r_mag", r_mag)] {
                    writer = writer.tensor(name, DType::F32, &[n], bytes(values));
                }
            }
            other => {
                writer = writer.tensor("b_enc", DType::F32, &[n], bytes(&self.b_enc));
                if let Activation::JumpRelu { threshold } = other {
                    writer = writer.tensor("threshold", DType::F32, &[n], bytes(threshold));
                }
            }
        }
        writer
    }

    fn config(&self, more: Value) -> Value {
        let mut metadata = Map::new();
        let mut put = |key: &str, value: Option<Value>| value.map(|value| metadata.insert(key.to_owned(), value));
        put("hook_name", self.origin.site.clone().map(Value::from));
        put("model_name", self.origin.model.clone().map(Value::from));
        put("context_size", self.origin.context.map(Value::from));
        put("prepend_bos", Some(Value::Bool(false)));
        let mut ours = match more {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            other => Map::from_iter([("note".to_owned(), other)]),
        };
        if let Some(fingerprint) = &self.origin.model_fingerprint {
            ours.insert("model_fingerprint".into(), fingerprint.clone().into());
        }
        put("meden", Some(Value::Object(ours)));
        let mut config = json!({
            "architecture": self.activation.name(),
            "d_in": self.d_in,
            "d_sae": self.width,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": self.subtract_b_dec,
            "normalize_activations": self.normalize.name(),
            "reshape_activations": "none",
            "metadata": metadata,
        });
        if let Activation::TopK { k } = self.activation {
            config["k"] = k.into();
            config["rescale_acts_by_decoder_norm"] = self.rescale_by_decoder_norm.into();
        }
        debug_assert!(!matches!(self.normalize, Normalize::ExpectedAverageOnlyIn { .. }), "folded before");
        config
    }
}
