//! Sites and layers by pattern.

use meden_engine::{Config, Site};

use super::Place;
use super::names::{bare, elsewhere, full};
use crate::error::LensError;

/// Which layers are wanted: `all`, `last`, numbers and ranges with commas (`0-3,7`); negative numbers count from the
/// end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    All,
    One(isize),
    Range(usize, usize),
}

impl std::str::FromStr for Layers {
    type Err = LensError;
    fn from_str(text: &str) -> Result<Layers, LensError> {
        let wrong = || LensError::setting("layers", text, "write all, last, or numbers and ranges as in 0-3,7,-1");
        let part = |part: &str| {
            let part = part.trim();
            match part {
                "all" | "*" => return Ok(Part::All),
                "last" => return Ok(Part::One(-1)),
                _ => {}
            }
            if let Ok(number) = part.parse::<isize>() {
                return Ok(Part::One(number));
            }
            let (from, to) = part.split_once('-').ok_or_else(wrong)?;
            let (from, to) = (from.trim().parse().map_err(|_| wrong())?, to.trim().parse().map_err(|_| wrong())?);
            if from > to { Err(wrong()) } else { Ok(Part::Range(from, to)) }
        };
        text.split(',').map(part).collect::<Result<_, _>>().map(Layers)
    }
}

impl Layers {
    /// Every layer.
    pub fn all() -> Layers {
        Layers(vec![Part::All])
    }

    /// One layer.
    pub fn one(layer: usize) -> Layers {
        Layers(vec![Part::Range(layer, layer)])
    }

    /// Ascending numbers of the layers in a model.
    ///
    /// # Errors
    /// A layer that the model does not have.
    pub fn resolve(&self, layers: usize) -> Result<Vec<usize>, LensError> {
        let mut wanted = vec![false; layers];
        for part in &self.0 {
            let (from, to) = match *part {
                Part::All => (0, layers - 1),
                Part::One(number) if number < 0 => {
                    let from = layers.checked_add_signed(number).ok_or_else(|| missing(number, layers))?;
                    (from, from)
                }
                Part::One(number) => (number as usize, number as usize),
                Part::Range(from, to) => (from, to),
            };
            if to >= layers {
                return Err(missing(to, layers));
            }
            wanted[from..=to].fill(true);
        }
        Ok((0..layers).filter(|&l| wanted[l]).collect())
    }
}

fn missing(layer: impl ToString, layers: usize) -> LensError {
    LensError::setting("layers", layer, format!("the model has layers 0 to {}", layers - 1))
}

/// The places that a list of sites with commas means in the given layers, in the order the data flows.
///
/// An item is a site (`resid_post`, `hook_z`), a site with its layer in any convention (`3.attn_out`,
/// `blocks.3.attn.hook_q`, `model.layers.3.mlp`, `hidden_states.4`), or either with `*` for any run of letters.
///
/// # Errors
/// An item that means no place of the model, or none in these layers.
pub fn places(sites: &str, layers: &Layers, config: &Config) -> Result<Vec<Place>, LensError> {
    let wanted = layers.resolve(config.layers)?;
    let all = Place::all(config);
    let mut chosen = vec![false; all.len()];
    for item in sites.split(',').map(str::trim) {
        let matches: Vec<usize> = (0..all.len()).filter(|&i| means(item, all[i], config)).collect();
        if matches.is_empty() {
            return Err(LensError::setting("site", item, unknown(item, config)));
        }
        let once = |place: Place| place.site.is_global() || matches.len() == 1 && is_embedding(item);
        let kept = matches.iter().filter(|&&i| once(all[i]) || wanted.binary_search(&all[i].layer).is_ok());
        let mut any = false;
        for &i in kept {
            chosen[i] = true;
            any = true;
        }
        if !any {
            return Err(LensError::setting("site", item, "it lies in none of the layers asked for"));
        }
    }
    Ok(all.into_iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|(place, _)| place).collect())
}

fn is_embedding(item: &str) -> bool {
    matches!(item, "embed" | "hook_embed" | "model.embed_tokens" | "embed_tokens")
}

fn means(item: &str, place: Place, config: &Config) -> bool {
    if item.contains('*') {
        // bare names of other tools would match by accident
        return glob(item, place.site.name()) || full(place, config).iter().any(|name| glob(item, name));
    }
    bare(place.site).contains(&item) || full(place, config).iter().any(|name| name == item)
}

fn unknown(item: &str, config: &Config) -> String {
    if let Some(hint) = elsewhere(item, config) {
        return hint.to_owned();
    }
    let names: Vec<&str> = Site::ALL.iter().map(|s| s.name()).collect();
    format!(
        "no place of this model (layers 0 to {}); sites are {}, also as 3.resid_post, blocks.3.hook_resid_post or model.layers.3",
        config.layers - 1,
        names.join(", ")
    )
}

/// Does `text` follow a pattern in which `*` stands for any run of letters?
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
