//! Rows out of a file of activations, in random order.
//!
//! Neighbouring rows come from the same text and are alike. So blocks of rows are read in random order into a buffer
//! much larger than a batch, the buffer is shuffled, and batches are dealt from it. Everything follows from the seed and
//! three counters, so a run goes on from a checkpoint with the very rows it would have seen.

use meden_lens::capture::CaptureFile;
use meden_lens::place::Place;
use meden_lens::sae::Normalize;
use meden_stats::{Rng, quantile};
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::recipe::Recipe;

/// Rows that are read together.
const BLOCK: usize = 1024;
/// Rows of the buffer, about.
const BUFFER: usize = 1 << 17;
/// Rows that scale and limits are computed from.
const SAMPLE: usize = 1 << 15;

/// What the rows are like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Rows in the file.
    pub rows: u64,
    /// Values of a row.
    pub d: usize,
    /// Rows are multiplied with this, so that their mean length is `sqrt(d)`.
    pub scale: f32,
    /// Longer rows are left out.
    pub limit: f32,
    /// Mean of the scaled rows, which `b_dec` begins with.
    #[serde(skip)]
    pub mean: Vec<f32>,
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32
}

/// Looks at some blocks, evenly spread over the file.
///
/// # Errors
/// A place that is not in the file; no rows.
pub fn survey(file: &CaptureFile, place: Place, longest: f32) -> Result<Shape, TrainError> {
    let d = file.width(place).unwrap_or(0);
    let rows = file.len();
    if d == 0 || rows < 2 {
        return Err(TrainError::Unfit {
            path: file.path().to_owned(),
            why: format!("it has {rows} rows of {place}; capture that place, and more text"),
        });
    }
    let blocks = rows.div_ceil(BLOCK);
    let step = blocks.div_ceil(SAMPLE / BLOCK).max(1);
    let mut sample = Vec::new();
    for block in (0..blocks).step_by(step) {
        sample.extend(file.read(place, block * BLOCK..((block + 1) * BLOCK).min(rows))?);
    }
    let norms: Vec<f64> = sample.chunks_exact(d).map(|row| f64::from(norm(row))).collect();
    let limit = longest * quantile::median(&norms).unwrap_or(0.0) as f32;
    let kept: Vec<f32> = sample.chunks_exact(d).filter(|row| norm(row) <= limit).flatten().copied().collect();
    let scale = Normalize::average_scale(&kept, d)
        .ok_or_else(|| TrainError::Unfit { path: file.path().to_owned(), why: "its rows are all zero".into() })?;
    let mut mean = vec![0f64; d];
    kept.chunks_exact(d).for_each(|row| row.iter().zip(&mut mean).for_each(|(&x, m)| *m += f64::from(x)));
    let count = (kept.len() / d).max(1) as f64;
    let mean = mean.into_iter().map(|m| (m / count) as f32 * scale).collect();
    Ok(Shape { rows: rows as u64, d, scale, limit, mean })
}

/// Where the dealing stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dealt {
    /// Times that the file has been gone through.
    pub epoch: u64,
    /// Buffers filled in this epoch.
    pub buffer: u64,
    /// Batches dealt from this buffer.
    pub batch: u64,
}

/// Deals batches.
pub struct Batches<'a> {
    file: &'a CaptureFile,
    place: Place,
    shape: &'a Shape,
    batch: usize,
    seed: u64,
    at: Dealt,
    /// Shuffled rows of the buffer, scaled.
    rows: Vec<f32>,
    order: Vec<u32>,
    /// Rows left out since the beginning.
    dropped: u64,
}

impl<'a> Batches<'a> {
    /// Goes on from `at`.
    ///
    /// # Errors
    /// A file that has become shorter.
    pub fn new(
        file: &'a CaptureFile,
        (place, shape): (Place, &'a Shape),
        recipe: &Recipe,
        at: Dealt,
    ) -> Result<Batches<'a>, TrainError> {
        let (batch, seed) = (recipe.batch, recipe.seed);
        let mut batches =
            Batches { file, place, shape, batch, seed, at, rows: Vec::new(), order: Vec::new(), dropped: 0 };
        batches.fill()?;
        if batches.order.len() < batch {
            let why = format!("{} rows are fewer than a batch of {batch}; capture more text", batches.order.len());
            return Err(TrainError::Unfit { path: file.path().to_owned(), why });
        }
        Ok(batches)
    }

    /// Where it stands.
    pub fn at(&self) -> Dealt {
        self.at
    }

    /// The next batch, `(batch, d)`, scaled.
    ///
    /// # Errors
    /// A file that has become shorter.
    pub fn deal(&mut self, out: &mut Vec<f32>) -> Result<(), TrainError> {
        let d = self.shape.d;
        while (self.at.batch as usize + 1) * self.batch > self.order.len() {
            let last = (self.at.buffer as usize + 1) * self.blocks_a_buffer() >= self.blocks();
            self.at = match last {
                true => Dealt { epoch: self.at.epoch + 1, ..Dealt::default() },
                false => Dealt { buffer: self.at.buffer + 1, batch: 0, ..self.at },
            };
            self.fill()?;
        }
        out.clear();
        let first = self.at.batch as usize * self.batch;
        for &row in &self.order[first..first + self.batch] {
            out.extend_from_slice(&self.rows[row as usize * d..][..d]);
        }
        self.at.batch += 1;
        Ok(())
    }

    fn blocks(&self) -> usize {
        (self.shape.rows as usize).div_ceil(BLOCK)
    }

    fn blocks_a_buffer(&self) -> usize {
        (BUFFER / BLOCK).max(self.batch.div_ceil(BLOCK))
    }

    fn fill(&mut self) -> Result<(), TrainError> {
        let (rows, d) = (self.shape.rows as usize, self.shape.d);
        let mut blocks: Vec<usize> = (0..self.blocks()).collect();
        Rng::new(self.seed, 0x5eed_0000_0000 + self.at.epoch).shuffle(&mut blocks);
        let each = self.blocks_a_buffer();
        // a last buffer smaller than a batch would deal nothing, so it joins the one before
        let first = self.at.buffer as usize * each;
        self.rows.clear();
        for &block in blocks.iter().skip(first).take(each) {
            let values = self.file.read(self.place, block * BLOCK..((block + 1) * BLOCK).min(rows))?;
            for row in values.chunks_exact(d) {
                if norm(row) > self.shape.limit {
                    self.dropped += 1;
                    continue;
                }
                self.rows.extend(row.iter().map(|x| x * self.shape.scale));
            }
        }
        self.order = (0..(self.rows.len() / d) as u32).collect();
        let stream = (self.at.epoch << 24) + self.at.buffer + 1;
        Rng::new(self.seed ^ 0x0de1, stream).shuffle(&mut self.order);
        Ok(())
    }
}
