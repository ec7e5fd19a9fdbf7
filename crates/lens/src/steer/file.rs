//! A steering as a file, bound to the model that it was made for.

use std::collections::BTreeMap;
use std::path::Path;

use meden_engine::Model;
use meden_files::safetensors_file::{Safetensors, SafetensorsWriter};
use meden_kernels::DType;
use meden_kernels::weights::dequantize;
use serde::{Deserialize, Serialize};

use super::edit::{Edit, Latents, Mode, Parts};
use super::hook::Where;
use super::spectral::Spectral;
use crate::error::LensError;
use crate::place::Place;
use crate::sae::{Activation, Chosen, Normalize};

const FORMAT: &str = "meden-steering";
const VERSION: u32 = 1;

/// What a steering was made for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Fingerprint of the model, in hexadecimal.
    pub model: String,
    /// Architecture.
    pub architecture: String,
    /// Layers.
    pub layers: usize,
    /// Values of a row of the stream.
    pub hidden: usize,
    /// SHA-256 of the autoencoder's weights, where one was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sae: Option<String>,
}

impl Bound {
    /// What a steering for a model is bound to.
    pub fn of(model: &Model, sae: Option<String>) -> Bound {
        let hex = model.fingerprint().iter().map(|b| format!("{b:02x}")).collect();
        let config = model.config();
        Bound {
            model: hex,
            architecture: config.architecture.clone(),
            layers: config.layers,
            hidden: config.hidden,
            sae,
        }
    }
}

/// Edits at some places, and what a user should know of them.
#[derive(Clone, Debug)]
pub struct Steering {
    /// What it was made for.
    pub bound: Bound,
    /// The edits, by place.
    pub edits: BTreeMap<Place, Edit>,
    /// Which tokens are edited.
    pub whereabouts: Where,
    /// Strength that is used where none is given.
    pub strength: f32,
    /// How it was made, in words.
    pub note: String,
}

/// The head of the file.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    bound: Bound,
    whereabouts: Where,
    strength: f32,
    note: String,
    edits: Vec<EditHead>,
}

/// One edit without its numbers.
#[derive(Serialize, Deserialize)]
struct EditHead {
    place: String,
    kind: String,
    #[serde(default)]
    keep_norm: bool,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    parts: Parts,
    #[serde(default)]
    latents: Vec<u32>,
    #[serde(default)]
    activation: String,
    #[serde(default)]
    normalize: String,
    #[serde(default)]
    scale: f32,
}

/// Tensors of an edit: name, shape, values.
type Tensors = Vec<(&'static str, Vec<usize>, Vec<f32>)>;

impl Steering {
    /// Refuses a model that it was not made for, with what it is and what it should be.
    ///
    /// # Errors
    /// Another model, or a site that the model does not have so.
    pub fn check(&self, model: &Model, path: &Path) -> Result<(), LensError> {
        let here = Bound::of(model, self.bound.sae.clone());
        if here != self.bound {
            let say = |b: &Bound| {
                let short = b.model.get(..12).unwrap_or(&b.model);
                format!("{} with {} layers of {} values, fingerprint {short}", b.architecture, b.layers, b.hidden)
            };
            let why =
                format!("made for {}, but the model is {}; make one for this model", say(&self.bound), say(&here));
            return Err(LensError::Unfit { path: path.to_owned(), why });
        }
        for (place, edit) in &self.edits {
            let width = place.width(model.config());
            if place.layer >= model.config().layers || edit.d() != width {
                let why = format!("its edit at {place} is {} values wide, the site {width}", edit.d());
                return Err(LensError::Unfit { path: path.to_owned(), why });
            }
        }
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn save(&self, path: &Path) -> Result<(), LensError> {
        let mut heads = Vec::new();
        let mut file = SafetensorsWriter::new().meta("format", FORMAT);
        for (place, edit) in &self.edits {
            let (head, tensors) = parts(*place, edit);
            for (name, shape, values) in tensors {
                let bytes = bytemuck::cast_slice::<f32, u8>(&values).to_vec();
                file = file.tensor(&format!("{place}.{name}"), DType::F32, &shape, bytes);
            }
            heads.push(head);
        }
        let head = Head {
            version: VERSION,
            bound: self.bound.clone(),
            whereabouts: self.whereabouts,
            strength: self.strength,
            note: self.note.clone(),
            edits: heads,
        };
        let head = serde_json::to_string(&head).unwrap_or_default();
        Ok(file.meta("steering", &head).write(path)?)
    }

    /// Reads a file that [`Steering::save`] wrote. [`Steering::check`] tells whether it fits a model.
    ///
    /// # Errors
    /// A file that is none, of another version, or damaged.
    pub fn open(path: &Path) -> Result<Steering, LensError> {
        let unfit = |why: String| LensError::Unfit { path: path.to_owned(), why };
        let file = Safetensors::open(path)?;
        let of = |key: &str| file.metadata().iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        if of("format") != Some(FORMAT) {
            return Err(unfit("no steering file: make one with `meden steer fit`".into()));
        }
        let head: Head = serde_json::from_str(of("steering").unwrap_or(""))
            .map_err(|e| unfit(format!("its head cannot be read ({e}): make it again")))?;
        if head.version != VERSION {
            return Err(unfit(format!("version {} of the format; version {VERSION} is read", head.version)));
        }
        let mut edits = BTreeMap::new();
        for edit in &head.edits {
            let place = Place::read(&edit.place, head.bound.layers).ok_or_else(|| {
                unfit(format!("{} is no place of a model of {} layers", edit.place, head.bound.layers))
            })?;
            let read = |name: &str| -> Result<Vec<f32>, LensError> {
                let info = file.tensor(&format!("{place}.{name}"))?;
                let mut values = vec![0f32; info.elements()];
                dequantize(info.dtype, &file.read(info)?, &mut values).map_err(meden_engine::EngineError::from)?;
                match values.iter().all(|v| v.is_finite()) {
                    true => Ok(values),
                    false => Err(unfit(format!("{place}.{name} holds a value that is no number"))),
                }
            };
            edits.insert(place, build((edit, head.bound.hidden), &read, &unfit)?);
        }
        let (whereabouts, strength) = (head.whereabouts, head.strength);
        Ok(Steering { bound: head.bound, edits, whereabouts, strength, note: head.note })
    }
}

fn parts(place: Place, edit: &Edit) -> (EditHead, Tensors) {
    let mut head = EditHead {
        place: place.to_string(),
        kind: edit.name().to_owned(),
        keep_norm: false,
        mode: Mode::Code,
        parts: Parts::Both,
        latents: Vec::new(),
        activation: String::new(),
        normalize: String::new(),
        scale: 0.0,
    };
    let d = edit.d();
    let tensors: Tensors = match edit {
        Edit::Add { vector, keep_norm } => {
            head.keep_norm = *keep_norm;
            vec![("vector", vec![d], vector.clone())]
        }
        Edit::Project { direction, targets } => {
            vec![("vector", vec![d], direction.clone()), ("targets", vec![2], targets.to_vec())]
        }
        Edit::Replace { context, memory } => {
            vec![("context", vec![d], context.clone()), ("memory", vec![d], memory.clone())]
        }
        Edit::Spectral(s) => {
            let rows = |basis: &[f32]| vec![basis.len() / d.max(1), d];
            vec![("context", rows(&s.context), s.context.clone()), ("memory", rows(&s.memory), s.memory.clone())]
        }
        Edit::Latents(l) => {
            let c = &l.chosen;
            let n = c.latents.len();
            head.mode = l.mode;
            head.parts = l.parts;
            head.latents = c.latents.clone();
            head.activation = c.activation.name().to_owned();
            head.normalize = c.normalize.name().to_owned();
            if let Normalize::ExpectedAverageOnlyIn { scale } = c.normalize {
                head.scale = scale;
            }
            let mut all = vec![
                ("encoder", vec![n, d], c.encoder.clone()),
                ("decoder", vec![n, d], c.decoder.clone()),
                ("b_enc", vec![n], c.b_enc.clone()),
                ("center", vec![d], c.center.clone()),
                ("context", vec![n], l.context.clone()),
                ("memory", vec![n], l.memory.clone()),
            ];
            match &c.activation {
                Activation::JumpRelu { threshold } => all.push(("threshold", vec![n], threshold.clone())),
                Activation::Gated { b_gate, b_mag, r_mag } => all.extend([
                    ("b_gate", vec![n], b_gate.clone()),
                    ("b_mag", vec![n], b_mag.clone()),
                    ("r_mag", vec![n], r_mag.clone()),
                ]),
                _ => {}
            }
            all
        }
    };
    (head, tensors)
}

fn build(
    (head, d): (&EditHead, usize),
    read: &dyn Fn(&str) -> Result<Vec<f32>, LensError>,
    unfit: &dyn Fn(String) -> LensError,
) -> Result<Edit, LensError> {
    let sized = |name: &str, n: usize| -> Result<Vec<f32>, LensError> {
        let values = read(name)?;
        match values.len() == n {
            true => Ok(values),
            false => Err(unfit(format!("{}.{name} holds {} values instead of {n}", head.place, values.len()))),
        }
    };
    match head.kind.as_str() {
        "difference_of_means" | "difference_of_means_keep_norm" => {
            Ok(Edit::Add { vector: read("vector")?, keep_norm: head.keep_norm })
        }
        "projection" => {
            let targets = sized("targets", 2)?;
            Ok(Edit::Project { direction: read("vector")?, targets: [targets[0], targets[1]] })
        }
        "task_vector" => {
            let context = read("context")?;
            let memory = sized("memory", context.len())?;
            Ok(Edit::Replace { context, memory })
        }
        "sea" | "sea_exp" => {
            let (context, memory) = (read("context")?, read("memory")?);
            if d == 0 || !context.len().is_multiple_of(d) || !memory.len().is_multiple_of(d) {
                return Err(unfit(format!("{}: its directions are no whole rows of {d} values", head.place)));
            }
            Ok(Edit::Spectral(Spectral { context, memory, d, squared_exponential: head.kind == "sea_exp" }))
        }
        "spare" => {
            let center = read("center")?;
            let (d, n) = (center.len(), head.latents.len());
            let activation = match head.activation.as_str() {
                "jumprelu" => Activation::JumpRelu { threshold: sized("threshold", n)? },
                "gated" => Activation::Gated {
                    b_gate: sized("b_gate", n)?,
                    b_mag: sized("b_mag", n)?,
                    r_mag: sized("r_mag", n)?,
                },
                // alone, the others are all max(p, 0)
                "standard" | "topk" | "batchtopk" | "groupmax" => Activation::Relu,
                other => return Err(unfit(format!("{}: activation {other} is not known", head.place))),
            };
            let normalize = match head.normalize.as_str() {
                "none" => Normalize::None,
                "expected_average_only_in" if head.scale > 0.0 => {
                    Normalize::ExpectedAverageOnlyIn { scale: head.scale }
                }
                "constant_norm_rescale" => Normalize::ConstantNormRescale,
                "layer_norm" => Normalize::LayerNorm,
                other => return Err(unfit(format!("{}: normalisation {other} is not known", head.place))),
            };
            let chosen = Chosen {
                latents: head.latents.clone(),
                d,
                encoder: sized("encoder", n * d)?,
                decoder: sized("decoder", n * d)?,
                b_enc: sized("b_enc", n)?,
                center,
                activation,
                normalize,
                isa: meden_kernels::Isa::best(),
            };
            let (context, memory) = (sized("context", n)?, sized("memory", n)?);
            Ok(Edit::Latents(Box::new(Latents { chosen, context, memory, mode: head.mode, parts: head.parts })))
        }
        other => Err(unfit(format!("{}: an edit of kind {other} is not known", head.place))),
    }
}
