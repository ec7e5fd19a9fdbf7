//! Probes as files: the four vectors as safetensors, everything else as JSON in the file's metadata.
//!
//! Tensors `weight` and `bias` (f32, on raw activations), `mean` and `scale` (of the training rows). The metadata key
//! `meden.probe` holds an [`About`]. Any reader of safetensors can use such a file; a probe is refused by another model
//! than the one it was made on.

use std::path::Path;

use meden_engine::{Model, Site};
use meden_files::safetensors_file::{Safetensors, SafetensorsWriter};
use meden_kernels::dtype::DType;
use serde::{Deserialize, Serialize};

use super::controls::Control;
use super::{Calibration, Evaluation, Method, Probe, ProbeError};
use crate::place::Place;

/// The key of the metadata.
const KEY: &str = "meden.probe";
/// Version of the layout.
const VERSION: u32 = 1;
/// Most bytes of metadata that are believed.
const WIDEST: usize = 1 << 20;

/// Which row of a prompt a probe reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// That of the last token: what predicts the first token of the answer.
    #[default]
    Last,
    /// Those of all tokens.
    All,
}

/// Where in a model a probe reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reads {
    /// Site, by Meden's name.
    pub site: String,
    /// Block, from 0.
    pub layer: usize,
    /// Rows.
    pub position: Position,
}

impl Reads {
    /// The site.
    ///
    /// # Errors
    /// A name that is no site.
    pub fn site(&self) -> Result<Site, ProbeError> {
        Ok(self.site.parse()?)
    }

    /// The place.
    ///
    /// # Errors
    /// A name that is no site.
    pub fn place(&self) -> Result<Place, ProbeError> {
        Ok(Place::new(self.site()?, self.layer))
    }
}

/// Which model's activations a probe was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeOn {
    /// The name it was given.
    pub name: String,
    /// Fingerprint of its files, in hexadecimal; empty where it is not known.
    pub fingerprint: String,
}

impl MadeOn {
    /// A loaded model.
    pub fn of(name: &str, model: &Model) -> MadeOn {
        MadeOn { name: name.to_owned(), fingerprint: hex(model.fingerprint()) }
    }

    /// Refuses a model with another fingerprint.
    ///
    /// # Errors
    /// [`ProbeError::OtherModel`]; also where the probe does not say which model it is of.
    pub fn check(&self, name: &str, model: &Model) -> Result<(), ProbeError> {
        let is = MadeOn::of(name, model);
        if is.fingerprint == self.fingerprint {
            return Ok(());
        }
        let show = |m: &MadeOn| match m.fingerprint.get(..12) {
            Some(start) => format!("{} ({start})", m.name),
            None => format!("{} (no fingerprint)", m.name),
        };
        Err(ProbeError::OtherModel { made_for: show(self), model: show(&is) })
    }
}

/// Everything about a probe that is no vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Version of this layout.
    pub version: u32,
    /// Model.
    pub model: MadeOn,
    /// Place.
    pub place: Reads,
    /// How it was made.
    pub method: Method,
    /// What the labels mean: [false, true].
    pub classes: [String; 2],
    /// Rows that it was trained on.
    pub rows: usize,
    /// Groups of those rows.
    pub groups: usize,
    /// Figures on held-out rows.
    pub evaluation: Option<Evaluation>,
    /// Controls on the same rows.
    #[serde(default)]
    pub controls: Vec<Control>,
    /// How scores become probabilities; without it the plain logistic curve is used.
    pub calibration: Option<Calibration>,
    /// What its figures hold for, in a sentence.
    #[serde(default)]
    pub note: String,
    /// What stood before each prompt that it was judged on, where that was always the same kind of text: demonstrations.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub preamble: String,
}

/// A probe with what is known of it. As JSON it can be carried by a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeFile {
    /// The vectors.
    pub probe: Probe,
    /// The rest.
    pub about: About,
}

impl About {
    /// What is known of a probe before it is judged.
    pub fn new(model: MadeOn, place: Reads, method: Method, classes: [String; 2]) -> About {
        About {
            version: VERSION,
            model,
            place,
            method,
            classes,
            rows: 0,
            groups: 0,
            evaluation: None,
            controls: Vec::new(),
            calibration: None,
            note: String::new(),
            preamble: String::new(),
        }
    }
}

impl ProbeFile {
    /// The probability of the class labelled true.
    ///
    /// # Errors
    /// A row of another width or with a value that is not finite.
    pub fn probability(&self, row: &[f32]) -> Result<f64, ProbeError> {
        Ok(self.of_score(self.probe.score(row)?))
    }

    /// The probability that belongs to a score.
    pub fn of_score(&self, score: f64) -> f64 {
        match &self.about.calibration {
            Some(calibration) => calibration.probability(score),
            None => super::logistic::sigmoid(score),
        }
    }

    /// Writes the file; it appears only when it is whole.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn save(&self, path: &Path) -> Result<(), ProbeError> {
        let bad = |why: String| ProbeError::BadFile { path: path.display().to_string(), why };
        let about = serde_json::to_string(&self.about).map_err(|e| bad(format!("its description: {e}")))?;
        let (p, width) = (&self.probe, self.probe.weight.len());
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        SafetensorsWriter::new()
            .meta(KEY, &about)
            .tensor("weight", DType::F32, &[width], bytes(&p.weight))
            .tensor("bias", DType::F32, &[1], bytes(&[p.bias]))
            .tensor("mean", DType::F32, &[width], bytes(&p.mean))
            .tensor("scale", DType::F32, &[width], bytes(&p.scale))
            .write(path)?;
        Ok(())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// A file that is no safetensors, has no description or one of a later version, or vectors that do not fit.
    pub fn load(path: &Path) -> Result<ProbeFile, ProbeError> {
        let bad = |why: String| ProbeError::BadFile { path: path.display().to_string(), why };
        let file = Safetensors::open(path)?;
        let Some((_, text)) = file.metadata().iter().find(|(key, _)| key == KEY) else {
            return Err(bad(format!("its metadata has no `{KEY}`: it is no probe; make one with `meden probe train`")));
        };
        if text.len() > WIDEST {
            return Err(bad(format!("its description is {} bytes long; up to {WIDEST} are read", text.len())));
        }
        let version: Version = serde_json::from_str(text).map_err(|e| bad(format!("its description: {e}")))?;
        if version.version != VERSION {
            let found = version.version;
            return Err(bad(format!("it has layout {found}; this program reads {VERSION}: make it again")));
        }
        let about: About = serde_json::from_str(text).map_err(|e| bad(format!("its description: {e}")))?;
        about.place.site()?;
        let [weight, bias, mean, scale] = ["weight", "bias", "mean", "scale"].map(|name| vector(&file, path, name));
        let (weight, bias, mean, scale) = (weight?, bias?, mean?, scale?);
        if bias.len() != 1 || mean.len() != weight.len() || scale.len() != weight.len() {
            let lengths = format!("{}, {}, {} and {}", weight.len(), bias.len(), mean.len(), scale.len());
            return Err(bad(format!(
                "weight, bias, mean and scale have {lengths} values; bias has 1, the others as many"
            )));
        }
        for (name, values) in [("weight", &weight), ("bias", &bias), ("mean", &mean), ("scale", &scale)] {
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                return Err(bad(format!("value {at} of {name} is {}; all have to be finite", values[at])));
            }
        }
        Ok(ProbeFile { probe: Probe { weight, bias: bias[0], mean, scale }, about })
    }

    /// Refuses a model that this probe cannot read: another fingerprint, a layer or a width that it does not have.
    ///
    /// # Errors
    /// [`ProbeError::OtherModel`], [`ProbeError::Width`].
    pub fn check(&self, name: &str, model: &Model) -> Result<(), ProbeError> {
        self.about.model.check(name, model)?;
        let (config, place) = (model.config(), self.about.place.place()?);
        if place.layer >= config.layers || place.site.is_global() {
            let what = format!("layers for a probe of {place} in a model of {}", config.layers);
            return Err(ProbeError::TooFew { what, found: config.layers, needed: place.layer + 1 });
        }
        let needed = place.width(config);
        if needed != self.probe.weight.len() {
            return Err(ProbeError::Width { found: needed, needed: self.probe.weight.len() });
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn vector(file: &Safetensors, path: &Path, name: &str) -> Result<Vec<f32>, ProbeError> {
    let tensor = file.tensor(name)?;
    let bytes = file.read(tensor)?;
    if tensor.dtype != DType::F32 {
        let why = format!("tensor {name} is {}; probes are written in F32", tensor.dtype);
        return Err(ProbeError::BadFile { path: path.display().to_string(), why });
    }
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
