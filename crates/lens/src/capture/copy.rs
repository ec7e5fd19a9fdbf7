//! The hook that copies rows.

use meden_engine::{EngineError, Hook, Site, SiteVisit};

use crate::error::LensError;
use crate::place::Place;

/// Where copied rows go.
pub(crate) trait Sink {
    /// Rows `(n, width)` of the place number `place`; the first is number `first` among the wanted ones of this prompt.
    fn take(&mut self, place: usize, first: usize, rows: &[f32]) -> Result<(), LensError>;
}

/// Copies the wanted rows of one prompt. Rows are told apart by counting them, not by their positions, which presses
/// may renumber.
pub(crate) struct CopyRows<'a> {
    places: &'a [Place],
    /// Ascending.
    wanted: Vec<usize>,
    /// Tokens that have passed, one a place.
    seen: Vec<usize>,
    sink: &'a mut dyn Sink,
    failed: Option<LensError>,
}

impl<'a> CopyRows<'a> {
    /// `places` is ascending; the first row of global sites is that of token `first_logits`.
    pub(crate) fn new(
        places: &'a [Place],
        wanted: Vec<usize>,
        first_logits: usize,
        sink: &'a mut dyn Sink,
    ) -> CopyRows<'a> {
        let first = |place: &Place| if place.site.is_global() { first_logits } else { 0 };
        CopyRows { places, wanted, seen: places.iter().map(first).collect(), sink, failed: None }
    }

    /// What went wrong in the sink, rather than the engine's words for it.
    pub(crate) fn outcome(self, looked: Result<(), EngineError>) -> Result<(), LensError> {
        match (self.failed, looked) {
            (Some(failed), Err(_)) => Err(failed),
            (_, looked) => Ok(looked?),
        }
    }

    fn number(&self, site: Site, layer: usize) -> Option<usize> {
        self.places.binary_search(&Place { layer, site }).ok()
    }

    fn copy(&mut self, number: usize, visit: &SiteVisit<'_>) -> Result<(), LensError> {
        let (from, width) = (self.seen[number], visit.width);
        let to = from + visit.positions.len();
        self.seen[number] = to;
        let first = self.wanted.partition_point(|&w| w < from);
        let last = self.wanted.partition_point(|&w| w < to);
        let mut at = first;
        while at < last {
            // neighbours go together
            let start = self.wanted[at];
            let mut run = 1;
            while at + run < last && self.wanted[at + run] == start + run {
                run += 1;
            }
            let rows = &visit.rows[(start - from) * width..(start - from + run) * width];
            self.sink.take(number, at, rows)?;
            at += run;
        }
        Ok(())
    }
}

impl Hook for CopyRows<'_> {
    fn name(&self) -> &str {
        "capture"
    }

    fn wants(&self, site: Site, layer: usize) -> bool {
        self.number(site, layer).is_some()
    }

    fn visit(&mut self, visit: SiteVisit<'_>) -> Result<(), EngineError> {
        let Some(number) = self.number(visit.site, visit.layer) else { return Ok(()) };
        self.copy(number, &visit).map_err(|error| {
            let why = error.to_string();
            self.failed = Some(error);
            EngineError::Hook { hook: "capture".into(), why }
        })
    }
}
