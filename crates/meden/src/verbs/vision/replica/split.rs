//! The split of a replica: drawn by the seed, without test photos that are nearly a training photo.

use std::io::Write;
use std::path::{Path, PathBuf};

use meden_files::AtomicFile;
use meden_stats::Rng;
use meden_vision::image::{Labelled, image_folder};
use meden_vision::judge::normalise;
use meden_vision::vit::Pooling;
use serde::{Deserialize, Serialize};

use super::super::images::ImageArgs;
use crate::cli::Global;
use crate::exit::usage;

/// The stream that training photos are drawn from.
const STREAM: u64 = 0x7265_706c;

/// How the data is split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Setting {
    pub(super) data: PathBuf,
    pub(super) per_class: usize,
    pub(super) seed: u64,
    /// Cosine from which on two photos are taken for nearly the same.
    pub(super) duplicate: f64,
    /// Test photos of a class at most; 0 for all.
    pub(super) test_per_class: usize,
}

/// What the split is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) train: usize,
    pub(super) validation: usize,
    pub(super) test: usize,
    /// Test photos that were left out, each too near to a training photo.
    pub(super) near_duplicates: usize,
}

/// Writes train.csv, validation.csv and test.csv into `out`.
pub(super) fn make(setting: &Setting, images: &ImageArgs, out: &Path, global: Global) -> anyhow::Result<Counts> {
    let read = |name: &str| image_folder(&setting.data.join(name));
    let (train, validation, test) = (read("train")?, read("validation")?, read("test")?);
    if train.classes != validation.classes || train.classes != test.classes {
        return Err(usage("train, validation and test have to hold the same classes"));
    }
    let (mut chosen, mut asked) = (Vec::<(PathBuf, usize)>::new(), Vec::<(PathBuf, usize)>::new());
    for class in 0..train.classes.len() {
        let mut own = of(&train, class);
        Rng::new(setting.seed, STREAM + class as u64).shuffle(&mut own);
        if own.len() < setting.per_class {
            let name = &train.classes[class];
            return Err(usage(format!("--per-class {}: class {name} has {} photos", setting.per_class, own.len())));
        }
        let mut rest = own.split_off(setting.per_class);
        rest.extend(of(&test, class));
        if setting.test_per_class > 0 {
            rest.truncate(setting.test_per_class);
        }
        chosen.extend(own.into_iter().map(|p| (p, class)));
        asked.extend(rest.into_iter().map(|p| (p, class)));
    }
    let ready = images.ready(global)?;
    let embed = |what: &str, set: &[(PathBuf, usize)]| {
        let paths: Vec<PathBuf> = set.iter().map(|(p, _)| p.clone()).collect();
        ready.run(what, &paths, |model, pixels, size| model.embed(pixels, size, Pooling::Class))
    };
    let (mut known, mut found) = (embed("embedding train", &chosen)?, embed("embedding test", &asked)?);
    let width = known.width();
    normalise(&mut known.values, width);
    normalise(&mut found.values, width);
    let near = |row: &[f32]| {
        let cosine = |k: &[f32]| k.iter().zip(row).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        known.values.chunks_exact(width).any(|k| cosine(k) >= setting.duplicate)
    };
    let rows = found.indices.iter().zip(found.values.chunks_exact(width));
    let kept: Vec<(PathBuf, usize)> = rows.filter(|(_, row)| !near(row)).map(|(i, _)| asked[*i].clone()).collect();
    let held: Vec<(PathBuf, usize)> = validation.paths.into_iter().zip(validation.labels).collect();
    let counts = Counts {
        train: chosen.len(),
        validation: held.len(),
        test: kept.len(),
        near_duplicates: found.indices.len() - kept.len(),
    };
    for (name, set) in [("train.csv", &chosen), ("validation.csv", &held), ("test.csv", &kept)] {
        write(&out.join(name), &train.classes, set)?;
    }
    Ok(counts)
}

fn of(set: &Labelled, class: usize) -> Vec<PathBuf> {
    (0..set.labels.len()).filter(|i| set.labels[*i] == class).map(|i| set.paths[i].clone()).collect()
}

fn write(path: &Path, classes: &[String], set: &[(PathBuf, usize)]) -> anyhow::Result<()> {
    let mut text = String::from("path,label\n");
    for (image, class) in set {
        let image = std::path::absolute(image)?;
        let quoted = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
        text += &format!("{},{}\n", quoted(&image.to_string_lossy()), quoted(&classes[*class]));
    }
    let mut file = AtomicFile::create(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.commit()?)
}
