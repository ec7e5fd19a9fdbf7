//! Direct logit attribution: what each part of the model adds to a logit, or to the difference of two.
//!
//! The last stream is the sum of the embedding and of what every sublayer adds. With the scale of the final norm frozen at
//! its value there, the logit before any soft cap is a sum too: `logit_a - logit_b = Σ_c Σ_j c_j s g_j (U_aj - U_bj)` over
//! contributions `c`, with the norm's scale `s` and gain `g` and the rows `U` of the unembedding. What attention adds is
//! split further into heads, since its output projection is linear; a norm behind it (gemma) is frozen likewise.
//!
//! Sums are in f64 over dequantised weights. Quantised kernels round the rows they multiply, so what they added differs
//! a little from the sum over heads or neurons: that rest is reported as a component of its own.

use meden_engine::{Control, EngineError, Model, Session, Site, Sublayer};
use serde::Serialize;

use crate::capture::{Captured, Selection, capture};
use crate::error::LensError;
use crate::logit_lens::norm_scale;
use crate::place::{Place, Positions};

/// What a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Part {
    /// The token's embedding.
    Embed,
    /// All that attention of a layer adds.
    AttnOut {
        /// Layer.
        layer: usize,
    },
    /// All that the feed-forward of a layer adds.
    MlpOut {
        /// Layer.
        layer: usize,
    },
    /// One query head.
    Head {
        /// Layer.
        layer: usize,
        /// Query head.
        head: usize,
    },
    /// One neuron of the feed-forward.
    Neuron {
        /// Layer.
        layer: usize,
        /// Neuron.
        neuron: usize,
    },
    /// The bias of an output projection.
    Bias {
        /// Layer.
        layer: usize,
    },
    /// What rounding of the kernels, or neurons that are not listed, add to a layer's sublayer.
    Rest {
        /// Layer.
        layer: usize,
    },
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Embed => f.write_str("embed"),
            Part::AttnOut { layer } => write!(f, "{layer}.attn_out"),
            Part::MlpOut { layer } => write!(f, "{layer}.mlp_out"),
            Part::Head { layer, head } => write!(f, "{layer}.head.{head}"),
            Part::Neuron { layer, neuron } => write!(f, "{layer}.neuron.{neuron}"),
            Part::Bias { layer } => write!(f, "{layer}.bias"),
            Part::Rest { layer } => write!(f, "{layer}.rest"),
        }
    }
}

/// A component and what it adds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Contribution {
    /// What it is.
    #[serde(flatten)]
    pub part: Part,
    /// What it adds to the logit, or to the difference of logits.
    pub value: f64,
}

/// Into what the last stream is split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Embedding, attention and feed-forward of each layer.
    #[default]
    Layer,
    /// The same, with attention split into heads.
    Head,
    /// The same, with the feed-forward split into neurons.
    Neuron,
}

impl std::str::FromStr for Split {
    type Err = LensError;
    fn from_str(text: &str) -> Result<Split, LensError> {
        match text {
            "layer" => Ok(Split::Layer),
            "head" => Ok(Split::Head),
            "neuron" => Ok(Split::Neuron),
            _ => Err(LensError::setting("split", text, "layer, head or neuron")),
        }
    }
}

/// What is attributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The token whose logit is explained.
    pub a: u32,
    /// The token it is compared with; none to explain the logit of `a` by itself.
    pub b: Option<u32>,
    /// Position of the prompt whose output is explained; negative from the end.
    pub position: i64,
    /// Into what.
    pub split: Split,
    /// How many neurons a layer are listed, by the size of what they add; the others are one rest.
    pub neurons: usize,
}

/// An attribution.
#[derive(Clone, Debug, Serialize)]
pub struct Attribution {
    /// Components, in the order the data flows.
    pub contributions: Vec<Contribution>,
    /// Their sum.
    pub total: f64,
    /// The logit, or the difference, that the model's kernels give, before any soft cap.
    pub model: f64,
    /// Position in the prompt that was explained.
    pub position: usize,
}

/// Explains a logit, or the difference of two, at one position of a prompt that is read behind `session`.
///
/// # Errors
/// A token outside the vocabulary, a position that the prompt does not have, what [`capture`] refuses.
pub fn attribute(
    session: &Session,
    ids: &[u32],
    question: &Question,
    control: &mut Control<'_>,
) -> Result<Attribution, LensError> {
    let model = session.model();
    let c = model.config();
    let mut difference = unembedding(model, question.a)?;
    if let Some(b) = question.b {
        let other = unembedding(model, b)?;
        difference.iter_mut().zip(other).for_each(|(a, b)| *a -= b);
    }
    let positions = Positions::one(question.position);
    let position = positions.resolve(ids.len())?[0];
    let mut sites = vec![Site::AttnOut, Site::MlpOut];
    match question.split {
        Split::Layer => {}
        Split::Head => sites.push(Site::Z),
        Split::Neuron => sites.push(Site::MlpAct),
    }
    let mut places = vec![Place::new(Site::ResidPre, 0), Place::new(Site::ResidPost, c.layers - 1)];
    places.extend((0..c.layers).flat_map(|layer| sites.iter().map(move |&site| Place::new(site, layer))));
    let captured = capture(session, &[ids.to_vec()], &Selection::new(places, positions), control)?;
    let row = |site: Site, layer: usize| row(&captured, Place::new(site, layer));
    let last = row(Site::ResidPost, c.layers - 1)?;
    let scale = norm_scale(last, c.norm_eps);
    // what one unit of each channel of the stream adds
    let direction: Vec<f64> =
        difference.iter().zip(model.final_norm_gain()).map(|(d, &g)| scale * f64::from(g) * d).collect();
    let along = |x: &[f32]| x.iter().zip(&direction).map(|(&x, d)| f64::from(x) * d).sum::<f64>();

    let mut contributions = vec![Contribution { part: Part::Embed, value: along(row(Site::ResidPre, 0)?) }];
    for layer in 0..c.layers {
        let attention = along(row(Site::AttnOut, layer)?);
        let mlp = along(row(Site::MlpOut, layer)?);
        let whole = |part, value| Contribution { part, value };
        if question.split == Split::Head {
            let parts = Written { model, layer, sublayer: Sublayer::Attention, x: row(Site::Z, layer)? };
            let (inputs, bias) = parts.along(&direction);
            let heads: Vec<f64> = inputs.chunks_exact(c.head_dim).map(|h| h.iter().sum()).collect();
            let listed = heads.iter().enumerate().map(|(head, &value)| whole(Part::Head { layer, head }, value));
            contributions.extend(listed);
            rest(&mut contributions, layer, attention - heads.iter().sum::<f64>(), bias);
        } else {
            contributions.push(whole(Part::AttnOut { layer }, attention));
        }
        if question.split == Split::Neuron {
            let parts = Written { model, layer, sublayer: Sublayer::Mlp, x: row(Site::MlpAct, layer)? };
            let (inputs, bias) = parts.along(&direction);
            let mut order: Vec<usize> = (0..inputs.len()).collect();
            order.sort_by(|&i, &j| inputs[j].abs().total_cmp(&inputs[i].abs()).then(i.cmp(&j)));
            order.truncate(question.neurons);
            let listed = order.iter().map(|&neuron| whole(Part::Neuron { layer, neuron }, inputs[neuron]));
            contributions.extend(listed);
            let sum: f64 = order.iter().map(|&neuron| inputs[neuron]).sum();
            rest(&mut contributions, layer, mlp - sum, bias);
        } else {
            contributions.push(whole(Part::MlpOut { layer }, mlp));
        }
    }
    let total = contributions.iter().map(|c| c.value).sum();
    let model = along_model(model, last, question)?;
    Ok(Attribution { contributions, total, model, position })
}

fn row(captured: &Captured, place: Place) -> Result<&[f32], LensError> {
    captured.row(place, 0).ok_or_else(|| LensError::setting("place", place, "it was not captured"))
}

fn unembedding(model: &Model, id: u32) -> Result<Vec<f64>, EngineError> {
    let mut row = vec![0f32; model.config().hidden];
    model.unembedding_row(id, &mut row)?;
    Ok(row.into_iter().map(f64::from).collect())
}

/// What is left of a sublayer when its parts are taken off: the bias, and the rest.
fn rest(contributions: &mut Vec<Contribution>, layer: usize, left: f64, bias: Option<f64>) {
    if let Some(value) = bias {
        contributions.push(Contribution { part: Part::Bias { layer }, value });
    }
    let value = left - bias.unwrap_or(0.0);
    contributions.push(Contribution { part: Part::Rest { layer }, value });
}

/// The logit or the difference as the kernels give it, with the soft cap undone.
fn along_model(model: &Model, last: &[f32], question: &Question) -> Result<f64, LensError> {
    let c = model.config();
    let mut normed = last.to_vec();
    model.apply_final_norm(&mut normed);
    let mut logits = vec![0f32; c.vocab];
    model.unembed_rows(&normed, &mut logits)?;
    let uncapped = |id: u32| {
        let logit = f64::from(logits[id as usize]);
        c.final_softcap.map_or(logit, |cap| f64::from(cap) * (logit / f64::from(cap)).atanh())
    };
    Ok(uncapped(question.a) - question.b.map_or(0.0, uncapped))
}

/// What a sublayer writes from one row of its inputs.
struct Written<'a> {
    model: &'a Model,
    layer: usize,
    sublayer: Sublayer,
    x: &'a [f32],
}

impl Written<'_> {
    /// What each input adds along a direction of the stream, and what the bias does; the scale of a norm behind the
    /// projection is frozen.
    fn along(&self, direction: &[f64]) -> (Vec<f64>, Option<f64>) {
        let weights = self.model.output_weights(self.layer, self.sublayer);
        let eps = f64::from(self.model.config().norm_eps);
        let mut weight = vec![0f32; weights.inputs()];
        let mut inputs = vec![0f64; weights.inputs()];
        let (mut squares, mut bias) = (0.0, 0.0);
        for (channel, &d) in direction.iter().enumerate() {
            weights.row(channel, &mut weight);
            let b = weights.bias().map_or(0.0, |bias| f64::from(bias[channel]));
            let gain = weights.post_norm().map_or(1.0, |gain| f64::from(gain[channel]));
            let mut out = b;
            for ((sum, &w), &x) in inputs.iter_mut().zip(&weight).zip(self.x) {
                let product = f64::from(w) * f64::from(x);
                out += product;
                *sum += product * d * gain;
            }
            squares += out * out;
            bias += b * d * gain;
        }
        if weights.post_norm().is_some() {
            let scale = 1.0 / (squares / direction.len() as f64 + eps).sqrt();
            inputs.iter_mut().for_each(|v| *v *= scale);
            bias *= scale;
        }
        (inputs, weights.bias().map(|_| bias))
    }
}
