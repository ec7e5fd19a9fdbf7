//! Latents of rows, with only those that are active.

use super::normalize::RowScale;

/// Latents of some rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Codes {
    width: usize,
    /// Where each row begins, and the end.
    starts: Vec<usize>,
    latents: Vec<u32>,
    values: Vec<f32>,
    /// How rows were normalised; empty where they were not.
    scales: Vec<RowScale>,
}

impl Codes {
    /// No row yet, of so many latents.
    pub fn new(width: usize) -> Codes {
        Codes { width, starts: vec![0], ..Codes::default() }
    }

    /// Adds a row: its active latents, ascending, and their values.
    pub fn push(&mut self, latents: &[u32], values: &[f32], scale: Option<RowScale>) {
        self.latents.extend_from_slice(latents);
        self.values.extend_from_slice(values);
        self.starts.push(self.latents.len());
        self.scales.extend(scale);
    }

    /// Latents of a row, the silent ones included.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Active latents of a row, ascending, and their values.
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let span = self.starts[row]..self.starts[row + 1];
        (&self.latents[span.clone()], &self.values[span])
    }

    /// How a row was normalised.
    pub fn scale(&self, row: usize) -> RowScale {
        self.scales.get(row).copied().unwrap_or(RowScale::NONE)
    }

    /// Active latents of all rows together.
    pub fn active(&self) -> usize {
        self.latents.len()
    }

    /// All latents of all rows, `(rows, width)`.
    pub fn dense(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.len() * self.width];
        for row in 0..self.len() {
            let (latents, values) = self.row(row);
            let out = &mut all[row * self.width..][..self.width];
            latents.iter().zip(values).for_each(|(&l, &v)| out[l as usize] = v);
        }
        all
    }
}
