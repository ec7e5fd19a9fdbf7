//! Whether an autoencoder fits the rows it is given, and whether it was read as it was meant.
//!
//! Files leave open whether `b_dec` is taken off the input and whether rows are scaled first; a wrong guess still gives
//! plausible numbers. So all four combinations are tried on real rows.

use serde::Serialize;

use super::Sae;
use super::codes::Codes;
use super::error::SaeError;
use super::normalize::Normalize;
use super::parts::length;

/// How well rows are reconstructed. Everything is computed in f64 over all rows given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Fit {
    /// Rows.
    pub rows: usize,
    /// Share of the variance that is not explained: `sum |x - x̂|² / sum |x - mean|²`.
    pub fvu: f64,
    /// Active latents a row.
    pub l0: f64,
    /// Share of latents that no row activates. Small numbers of rows overstate it.
    pub dead: f64,
    /// Share of latents that more than a tenth of the rows activate.
    pub dense: f64,
    /// Mean cosine of rows and reconstructions.
    pub cosine: f64,
    /// Mean of `|x̂| / |x|`.
    pub norm_ratio: f64,
}

/// Measures how `rows` `(rows, d)` were reconstructed.
///
/// # Errors
/// Rows and codes of different numbers.
pub fn fit(rows: &[f32], made: &[f32], codes: &Codes, d: usize) -> Result<Fit, SaeError> {
    let count = codes.len();
    if rows.len() != count * d || made.len() != rows.len() || count == 0 {
        return Err(SaeError::Rows { values: rows.len().min(made.len()), width: d });
    }
    let mut mean = vec![0f64; d];
    for row in rows.chunks_exact(d) {
        row.iter().zip(&mut mean).for_each(|(&x, m)| *m += f64::from(x));
    }
    mean.iter_mut().for_each(|m| *m /= count as f64);
    let (mut lost, mut all, mut cosine, mut ratio) = (0.0, 0.0, 0.0, 0.0);
    for (row, made) in rows.chunks_exact(d).zip(made.chunks_exact(d)) {
        let mut product = 0.0;
        for ((&x, &y), m) in row.iter().zip(made).zip(&mean) {
            let (x, y) = (f64::from(x), f64::from(y));
            lost += (x - y) * (x - y);
            all += (x - m) * (x - m);
            product += x * y;
        }
        let (a, b) = (f64::from(length(row)), f64::from(length(made)));
        cosine += product / (a * b).max(f64::MIN_POSITIVE);
        ratio += b / a.max(f64::MIN_POSITIVE);
    }
    let mut fired = vec![0u64; codes.width()];
    (0..count).for_each(|row| codes.row(row).0.iter().for_each(|&l| fired[l as usize] += 1));
    let share = |test: &dyn Fn(u64) -> bool| fired.iter().filter(|f| test(**f)).count() as f64 / codes.width() as f64;
    Ok(Fit {
        rows: count,
        fvu: lost / all.max(f64::MIN_POSITIVE),
        l0: codes.active() as f64 / count as f64,
        dead: share(&|f| f == 0),
        dense: share(&|f| f as f64 > 0.1 * count as f64),
        cosine: cosine / count as f64,
        norm_ratio: ratio / count as f64,
    })
}

/// One way of reading an autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Combination {
    /// `b_dec` is subtracted from the input.
    pub subtract_b_dec: bool,
    /// Rows are scaled first.
    pub scaled: bool,
    /// It is what the file says.
    pub declared: bool,
    /// How well it does.
    pub fit: Fit,
}

/// The four ways of reading an autoencoder, on the same rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// All of them, the declared one first.
    pub combinations: Vec<Combination>,
    /// A combination that explains more than a tenth of the variance more than the declared one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub better: Option<usize>,
}

/// How much less of the variance another combination has to leave for a warning.
const BETTER: f64 = 0.1;

impl Sae {
    /// The four combinations of subtracting `b_dec` or not and scaling rows or not, on rows `(rows, d_in)`. Scaled means
    /// the file's normalisation where it has one, else to the average length `sqrt(d)` of these rows.
    ///
    /// # Errors
    /// Rows that are not whole; a transcoder, whose output is another site's.
    pub fn check(&self, rows: &[f32]) -> Result<Check, SaeError> {
        if self.d_in != self.d_out || self.skip.is_some() {
            return Err(SaeError::Field {
                field: "autoencoder",
                value: "a transcoder".into(),
                why: "it does not reconstruct what it reads, so there is nothing to hold its output against".into(),
            });
        }
        let declared = (self.subtract_b_dec, self.normalize != Normalize::None);
        let scale = Normalize::average_scale(rows, self.d_in).unwrap_or(1.0);
        let mut combinations = Vec::new();
        for (subtract_b_dec, scaled) in [(true, true), (true, false), (false, true), (false, false)] {
            let normalize = match (scaled, self.normalize) {
                (false, _) => Normalize::None,
                (true, Normalize::None) => Normalize::ExpectedAverageOnlyIn { scale },
                (true, own) => own,
            };
            let read = Sae::with_pool(super::Parts { subtract_b_dec, normalize, ..self.parts() }, self.pool.clone())?;
            let codes = read.encode(rows)?;
            let fit = fit(rows, &read.decode(&codes)?, &codes, self.d_in)?;
            combinations.push(Combination {
                subtract_b_dec,
                scaled,
                declared: (subtract_b_dec, scaled) == declared,
                fit,
            });
        }
        combinations.sort_by_key(|c| !c.declared);
        let best = (1..combinations.len()).min_by(|&a, &b| combinations[a].fit.fvu.total_cmp(&combinations[b].fit.fvu));
        let better = best.filter(|&b| combinations[b].fit.fvu < combinations[0].fit.fvu - BETTER);
        Ok(Check { combinations, better })
    }
}
