//! Batches of a training run. Every random choice comes from seed, epoch and the image's number, so results do not depend
//! on threads and a resumed run replays exactly.

use meden_kernels::Pool;
use meden_stats::Rng;
use meden_vision::VisionError;
use meden_vision::image::{Filter, Labelled, Limits, Preprocess, Rgb, decode, resize};

use super::error::TrainError;

/// Streams of random numbers, far from each other whatever the epoch and the image are.
const ORDER: u64 = 1 << 60;
const AUGMENT: u64 = 2 << 60;
const SPLIT: u64 = 3 << 60;

/// Changes made to training images.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Augment {
    /// None.
    None,
    /// Left and right are exchanged in half of the images.
    Flip,
    /// A random part of the image, of a share of its area from `scale` to 1 and an aspect ratio from 3/4 to 4/3, resized
    /// to the model's input (Szegedy et al., 2014); then as `Flip`.
    Crop {
        /// Least share of the area.
        scale: f64,
    },
}

/// A batch.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// (images, 3, rows, columns), normalised.
    pub pixels: Vec<f32>,
    /// Class of each image.
    pub labels: Vec<usize>,
    /// Images that could not be decoded, and why.
    pub bad: Vec<String>,
}

/// The order of an epoch's images.
pub fn order(images: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..images).collect();
    Rng::new(seed, ORDER | epoch).shuffle(&mut order);
    order
}

/// Splits a set in two, class by class: of each class `share` (rounded, at least one image where it has two) goes to the
/// second set.
pub fn split(all: &Labelled, share: f64, seed: u64) -> (Labelled, Labelled) {
    let mut parts = (
        Labelled { classes: all.classes.clone(), ..Labelled::default() },
        Labelled { classes: all.classes.clone(), ..Labelled::default() },
    );
    for class in 0..all.classes.len() {
        let mut own: Vec<usize> = (0..all.labels.len()).filter(|i| all.labels[*i] == class).collect();
        Rng::new(seed, SPLIT | class as u64).shuffle(&mut own);
        let count = ((own.len() as f64 * share).round() as usize).max(usize::from(own.len() > 1 && share > 0.0));
        for (number, i) in own.into_iter().enumerate() {
            let part = if number < count { &mut parts.1 } else { &mut parts.0 };
            part.paths.push(all.paths[i].clone());
            part.labels.push(class);
        }
    }
    parts
}

/// Decodes some images of a set. `augment` is `None` for evaluation.
///
/// # Errors
/// An image that cannot be decoded, unless `skip_bad`: then it is left out and listed.
pub fn batch(
    pool: &Pool,
    (set, indices): (&Labelled, &[usize]),
    preprocess: &Preprocess,
    augment: Option<(Augment, u64, u64)>,
    skip_bad: bool,
) -> Result<Batch, TrainError> {
    let mut slots: Vec<Option<Result<Vec<f32>, VisionError>>> = indices.iter().map(|_| None).collect();
    pool.chunks(&mut slots, 1, |i, slot| slot[0] = Some(pixels(set, indices[i], preprocess, augment)));
    let mut batch = Batch::default();
    for (slot, &index) in slots.into_iter().flatten().zip(indices) {
        match slot {
            Ok(pixels) => {
                batch.pixels.extend(pixels);
                batch.labels.push(set.labels[index]);
            }
            Err(error) if skip_bad => batch.bad.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(batch)
}

fn pixels(
    set: &Labelled,
    index: usize,
    preprocess: &Preprocess,
    augment: Option<(Augment, u64, u64)>,
) -> Result<Vec<f32>, VisionError> {
    let mut image = decode(&set.paths[index], &Limits::default())?;
    if let Some((augment, seed, epoch)) = augment {
        // The epoch in the upper half of what is left of the stream's number, the image in the lower.
        let mut rng = Rng::new(seed, AUGMENT | (epoch & 0xfff_ffff) << 32 | index as u64 & 0xffff_ffff);
        if let Augment::Crop { scale } = augment {
            image = random_crop(&image, preprocess.size, scale, &mut rng);
        }
        if augment != Augment::None && rng.uniform() < 0.5 {
            flip(&mut image);
        }
    }
    let mut out = vec![0.0; preprocess.values()];
    preprocess.apply(&image, &mut out)?;
    Ok(out)
}

fn flip(image: &mut Rgb) {
    for row in image.data.chunks_exact_mut(image.width * 3) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

/// Ten tries for a part that fits, then the whole image's middle, as torchvision does.
fn random_crop(image: &Rgb, (rows, columns): (usize, usize), scale: f64, rng: &mut Rng) -> Rgb {
    let area = (image.width * image.height) as f64;
    let log = (0.75f64.ln(), (4.0f64 / 3.0).ln());
    for _ in 0..10 {
        let part = area * (scale + (1.0 - scale) * rng.uniform());
        let ratio = (log.0 + (log.1 - log.0) * rng.uniform()).exp();
        let (w, h) = ((part * ratio).sqrt().round() as usize, (part / ratio).sqrt().round() as usize);
        if (1..=image.width).contains(&w) && (1..=image.height).contains(&h) {
            let x = rng.below((image.width - w + 1) as u64) as usize;
            let y = rng.below((image.height - h + 1) as u64) as usize;
            let part = image.data.chunks_exact(image.width * 3).skip(y).take(h);
            let data = part.flat_map(|row| row[x * 3..(x + w) * 3].to_vec()).collect();
            return resize(&Rgb { width: w, height: h, data }, columns, rows, Filter::Bicubic);
        }
    }
    resize(image, columns, rows, Filter::Bicubic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations_that_differ_by_epoch_and_repeat_by_seed() {
        let (a, b) = (order(50, 3, 0), order(50, 3, 1));
        assert!(a != b && a == order(50, 3, 0) && a != order(50, 4, 0));
        let mut sorted = a;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_split_takes_of_every_class_and_loses_nothing() {
        let labels: Vec<usize> = (0..100).map(|i| if i < 90 { 0 } else { 1 }).collect();
        let paths = (0..100).map(|i| format!("{i}.jpg").into()).collect();
        let all = Labelled { classes: vec!["a".into(), "b".into()], paths, labels };
        let (train, held) = split(&all, 0.1, 5);
        assert_eq!(held.labels.iter().filter(|l| **l == 0).count(), 9);
        assert_eq!(held.labels.iter().filter(|l| **l == 1).count(), 1);
        assert_eq!(train.paths.len() + held.paths.len(), 100);
        assert!(train.paths.iter().all(|p| !held.paths.contains(p)));
    }

    #[test]
    fn crops_have_the_models_size_and_flips_undo_themselves() {
        let image = Rgb { width: 7, height: 31, data: (0..7 * 31 * 3).map(|i| (i % 251) as u8).collect() };
        let mut rng = Rng::new(1, 2);
        for _ in 0..20 {
            let crop = random_crop(&image, (14, 21), 0.3, &mut rng);
            assert_eq!((crop.width, crop.height, crop.data.len()), (21, 14, 21 * 14 * 3));
        }
        let mut twice = image.clone();
        flip(&mut twice);
        assert!(twice != image);
        flip(&mut twice);
        assert!(twice == image);
    }
}
