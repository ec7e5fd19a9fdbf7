//! Keep the keys of highest L2 norm: the paper's control, expected to ruin the model (arXiv 2406.11430).

use super::{Needs, Press, PressPoint};
use crate::cache::head::HeadCache;
use crate::error::EngineError;

/// [`Knorm`](super::knorm::Knorm) with the sign turned.
pub struct KnormHigh;

impl Press for KnormHigh {
    fn name(&self) -> &'static str {
        "knorm_high"
    }

    fn needs(&self) -> Needs {
        Needs { key_norms: true, ..Needs::default() }
    }

    fn score(&self, _: PressPoint, head: &HeadCache, out: &mut [f32]) -> Result<(), EngineError> {
        out.copy_from_slice(head.norms());
        Ok(())
    }
}
