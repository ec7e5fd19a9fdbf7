//! The feed-forward half of a block: dense, or by learners; and looking at both its ends.

use meden_kernels::gemm::{Options, View, gemm};
use meden_kernels::ops;

use super::{BlockPart, Room, Vit};
use crate::acm::AcmModel;
use crate::error::VisionError;

/// Called with block, normed input and output (after layer scale, before it is added) of a feed-forward: (rows, width).
pub type Tap<'a> = dyn FnMut(usize, &[f32], &[f32]) + 'a;

impl Vit {
    /// Runs `acm` in the place of the dense feed-forwards.
    ///
    /// # Errors
    /// Modules of another number of blocks.
    pub fn with_acm(mut self, acm: AcmModel, blocks: usize) -> Result<Vit, VisionError> {
        if blocks != self.config.layers {
            let why = format!("{blocks} of them for a model of {} blocks", self.config.layers);
            return Err(VisionError::input("modules", why));
        }
        self.acm = Some(acm);
        Ok(self)
    }

    /// The modules, where there are any.
    pub fn acm(&self) -> Option<&AcmModel> {
        self.acm.as_ref()
    }

    /// The same, to turn their dial.
    pub fn acm_mut(&mut self) -> Option<&mut AcmModel> {
        self.acm.as_mut()
    }

    /// Runs the blocks and shows `tap` what enters and what leaves each feed-forward.
    ///
    /// # Errors
    /// As [`Vit::hidden`].
    pub fn feed_forwards(&self, pixels: &[f32], size: (usize, usize), tap: &mut Tap) -> Result<(), VisionError> {
        self.check_pixels(pixels, size)?;
        self.some(pixels, size, None, Some(tap));
        Ok(())
    }

    pub(super) fn feed_forward(&self, layer: usize, x: &mut [f32], room: &mut Room, tap: Option<&mut Tap>) {
        let Some(tap) = tap else { return self.add_feed_forward(layer, x, room) };
        let mut out = vec![0.0; x.len()];
        self.add_feed_forward(layer, &mut out, room);
        tap(layer, &room.normed, &out);
        ops::add(&self.pool, self.isa, x, &out);
    }

    fn add_feed_forward(&self, layer: usize, x: &mut [f32], room: &mut Room) {
        let (pool, isa, c) = (&self.pool, self.isa, &self.config);
        let part = |part| self.params.block(layer, part);
        if let Some(acm) = &self.acm {
            return acm.run((pool, isa), layer, (&room.normed, part(BlockPart::Scale2)), &mut room.plan, x);
        }
        let hidden = &mut room.wide[..x.len() / c.width * c.mlp];
        let bias = part(BlockPart::Fc1Bias);
        let gelu = |_: usize, col: usize, out: &mut [f32]| ops::bias_gelu_row(isa, out, &bias[col..col + out.len()]);
        let options = Options { finish: Some(&gelu), ..Options::default() };
        gemm(pool, isa, View::new(&room.normed, c.width), &self.blocks[layer].fc1, hidden, options);
        let parts = (part(BlockPart::Fc2Bias), part(BlockPart::Scale2));
        self.branch((hidden, c.mlp), &self.blocks[layer].fc2, parts, x);
    }
}
