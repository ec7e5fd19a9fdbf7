//! Pixels to tokens, and the gradients of patch embedding, tokens and positions.

use meden_kernels::gemm::Options;
use meden_kernels::ops;
use meden_vision::vit::{Params, Part, PositionTaps, VitConfig, position_taps, unfold};

use super::block::Room;

/// What the embedding keeps for the way back.
pub(super) struct EmbedTape {
    /// (images x patches, 3 x patch x patch); empty where the embedding is not trained.
    unfolded: Vec<f32>,
    taps: PositionTaps,
    images: usize,
}

impl EmbedTape {
    pub(super) fn bytes(&self) -> usize {
        4 * self.unfolded.len()
    }
}

/// Tokens (images x tokens, width) of `pixels` (images, 3, rows, columns).
pub(super) fn forward(
    room: &mut Room,
    (config, params): (&VitConfig, &Params),
    (pixels, size): (&[f32], (usize, usize)),
    trained: bool,
) -> (Vec<f32>, EmbedTape) {
    let grid = (size.0 / config.patch, size.1 / config.patch);
    let (patches, d, values, image) = (grid.0 * grid.1, config.width, config.patch_values(), 3 * size.0 * size.1);
    let images = pixels.len() / image;
    let taps = position_taps(config.grid(), grid, config.antialias);
    let (prefix_table, own_table) = params.get(Part::Positions).split_at(config.prefix_positions * d);
    let mut table = vec![0.0; patches * d];
    taps.apply(own_table, d, &mut table);
    let mut unfolded = vec![0.0; images * patches * values];
    room.pool.chunks(&mut unfolded, patches * values, |i, out| {
        unfold(&pixels[i * image..][..image], size, config.patch, out)
    });
    let mut embedded = vec![0.0; images * patches * d];
    let bias = params.get(Part::PatchBias);
    let finish = |row: usize, col: usize, out: &mut [f32]| {
        let position = &table[row % patches * d + col..];
        out.iter_mut().zip(&bias[col..]).zip(position).for_each(|((o, b), p)| *o = *o + b + p);
    };
    let options = Options { accumulate: false, finish: Some(&finish) };
    room.linear((&unfolded, values), params.get(Part::PatchWeight), &mut embedded, options);
    let before = [Part::ClassToken, Part::DistilledToken, Part::Registers].map(|p| params.get(p)).concat();
    let mut tokens = Vec::with_capacity(images * (before.len() + patches * d));
    for image in embedded.chunks_exact(patches * d) {
        let from = tokens.len();
        tokens.extend_from_slice(&before);
        tokens[from..].iter_mut().zip(prefix_table).for_each(|(t, p)| *t += p);
        tokens.extend_from_slice(image);
    }
    if !trained {
        unfolded = Vec::new();
    }
    (tokens, EmbedTape { unfolded, taps, images })
}

/// Adds the gradients of everything that made the tokens, from theirs.
pub(super) fn backward(room: &mut Room, config: &VitConfig, tape: EmbedTape, d: &[f32], gradients: &mut Params) {
    let width = config.width;
    let image = d.len() / tape.images;
    let prefix = config.prefix_tokens() * width;
    let mut d_prefix = vec![0f32; prefix];
    let mut d_patches = Vec::with_capacity(d.len());
    for d in d.chunks_exact(image) {
        d_prefix.iter_mut().zip(d).for_each(|(s, d)| *s += d);
        d_patches.extend_from_slice(&d[prefix..]);
    }
    let mut at = 0;
    for (part, count) in [
        (Part::ClassToken, usize::from(config.class_token)),
        (Part::DistilledToken, usize::from(config.distilled)),
        (Part::Registers, config.registers),
    ] {
        if let Some(to) = gradients.get_mut(part) {
            to.iter_mut().zip(&d_prefix[at * width..]).for_each(|(t, d)| *t += d);
        }
        at += count;
    }
    if let Some(to) = gradients.get_mut(Part::Positions) {
        let (prefix_table, own_table) = to.split_at_mut(config.prefix_positions * width);
        prefix_table.iter_mut().zip(&d_prefix).for_each(|(t, d)| *t += d);
        let mut sum = vec![0f32; image - prefix];
        for d in d_patches.chunks_exact(image - prefix) {
            sum.iter_mut().zip(d).for_each(|(s, d)| *s += d);
        }
        tape.taps.transposed(&sum, width, own_table);
    }
    if let Some(to) = gradients.get_mut(Part::PatchWeight) {
        room.weight_gradient((&d_patches, width), (&tape.unfolded, config.patch_values()), to);
    }
    if let Some(to) = gradients.get_mut(Part::PatchBias) {
        ops::add_column_sums(&room.pool, room.isa, &d_patches, to);
    }
}
