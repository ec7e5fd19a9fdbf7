//! Where to look: places of a model, how people name them, and which positions of a prompt.

mod names;
mod positions;
mod select;

use std::fmt;

use meden_engine::{Config, Site};
use serde::Serialize;

pub use names::{Names, names};
pub use positions::Positions;
pub use select::{Layers, places};

/// A site of one layer. Sites that exist once a model (`final_norm`, `logits`) have the number of layers as theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Layer, counted from 0.
    pub layer: usize,
    /// Site.
    pub site: Site,
}

impl Place {
    /// A site of a layer.
    pub fn new(site: Site, layer: usize) -> Place {
        Place { layer, site }
    }

    /// The one place of a site that exists once a model.
    pub fn global(site: Site, config: &Config) -> Place {
        Place { layer: config.layers, site }
    }

    /// Values of a row.
    pub fn width(self, config: &Config) -> usize {
        self.site.width(config)
    }

    /// All places of a model, in the order the data flows.
    pub fn all(config: &Config) -> Vec<Place> {
        let (global, local): (Vec<Site>, Vec<Site>) = Site::ALL.iter().partition(|s| s.is_global());
        let layers = (0..config.layers).flat_map(|layer| local.iter().map(move |&site| Place { layer, site }));
        layers.chain(global.iter().map(|&site| Place::global(site, config))).collect()
    }
}

/// The name of the place in files: `12.resid_post`, `logits`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.site.is_global() {
            true => write!(f, "{}", self.site),
            false => write!(f, "{}.{}", self.layer, self.site),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Place {
    /// Reads the name of a place in files, for a model of so many layers.
    pub(crate) fn read(text: &str, layers: usize) -> Option<Place> {
        let site = |name: &str| Site::ALL.into_iter().find(|s| s.name() == name);
        match text.split_once('.') {
            None => site(text).filter(|s| s.is_global()).map(|site| Place { layer: layers, site }),
            Some((layer, name)) => {
                let layer = layer.parse().ok().filter(|&l: &usize| l < layers)?;
                site(name).filter(|s| !s.is_global()).map(|site| Place { layer, site })
            }
        }
    }
}
