//! A probe that is asked at every token while the model runs.

use meden_engine::{EngineError, Hook, Site, SiteVisit};

use super::Probe;

/// Reads one site of one layer and scores each row there. It changes nothing.
pub struct ProbeHook<'a> {
    probe: &'a Probe,
    site: Site,
    layer: usize,
    values: Vec<(u32, f64)>,
}

impl<'a> ProbeHook<'a> {
    /// A hook of `probe` at a place.
    pub fn new(probe: &'a Probe, site: Site, layer: usize) -> ProbeHook<'a> {
        ProbeHook { probe, site, layer, values: Vec::new() }
    }

    /// Scores so far: (position of the token, score), in the order they were seen.
    pub fn values(&self) -> &[(u32, f64)] {
        &self.values
    }

    /// The score at the newest token: what the model's state says before the next one is chosen.
    pub fn last(&self) -> Option<f64> {
        self.values.last().map(|v| v.1)
    }

    /// Forgets what was seen.
    pub fn clear(&mut self) {
        self.values.clear();
    }
}

impl Hook for ProbeHook<'_> {
    fn name(&self) -> &str {
        "probe"
    }

    fn wants(&self, site: Site, layer: usize) -> bool {
        site == self.site && layer == self.layer
    }

    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        for (&position, row) in visit.positions.iter().zip(visit.rows.chunks_exact(visit.width)) {
            let score = self.probe.score(row).map_err(|e| EngineError::Hook {
                hook: "probe".to_owned(),
                why: format!("{} of layer {}, position {position}: {e}", visit.site.name(), visit.layer),
            })?;
            self.values.push((position, score));
        }
        Ok(())
    }
}
