//! What is done to rows before they are encoded, under SAELens's names.

/// Normalisation of rows; all of them are undone on what is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Normalize {
    /// Nothing.
    #[default]
    None,
    /// `x * s` with one factor for all rows, `sqrt(d) / mean |x|` over the data it was trained on.
    ExpectedAverageOnlyIn {
        /// The factor.
        scale: f32,
    },
    /// Every row is scaled to the length `sqrt(d)`.
    ConstantNormRescale,
    /// Every row is brought to mean 0 and standard deviation 1 (with n - 1).
    LayerNorm,
}

/// How one row was normalised, `x' = (x - shift) * into`, and how that is undone, `x = x' * back + shift`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowScale {
    /// Subtracted first.
    pub shift: f32,
    /// Then multiplied with.
    pub into: f32,
    /// What undoes it.
    pub back: f32,
}

impl RowScale {
    /// Nothing is done.
    pub const NONE: RowScale = RowScale { shift: 0.0, into: 1.0, back: 1.0 };
}

impl Normalize {
    /// The name in SAELens's files.
    pub fn name(self) -> &'static str {
        match self {
            Normalize::None => "none",
            Normalize::ExpectedAverageOnlyIn { .. } => "expected_average_only_in",
            Normalize::ConstantNormRescale => "constant_norm_rescale",
            Normalize::LayerNorm => "layer_norm",
        }
    }

    /// How a row is normalised.
    pub fn of(self, row: &[f32]) -> RowScale {
        let n = row.len() as f64;
        let sum = |f: &dyn Fn(f64) -> f64| row.iter().map(|&x| f(f64::from(x))).sum::<f64>();
        match self {
            Normalize::None => RowScale::NONE,
            Normalize::ExpectedAverageOnlyIn { scale } => RowScale { shift: 0.0, into: scale, back: 1.0 / scale },
            Normalize::ConstantNormRescale => {
                let into = (n / sum(&|x| x * x).max(f64::MIN_POSITIVE)).sqrt();
                RowScale { shift: 0.0, into: into as f32, back: (1.0 / into) as f32 }
            }
            Normalize::LayerNorm => {
                let mean = sum(&|x| x) / n;
                let deviation = (sum(&|x| (x - mean) * (x - mean)) / (n - 1.0).max(1.0)).sqrt();
                RowScale { shift: mean as f32, into: (1.0 / (deviation + 1e-5)) as f32, back: deviation as f32 }
            }
        }
    }

    /// The factor that brings rows `(n, d)` to the mean length `sqrt(d)`; `None` where they have none.
    pub fn average_scale(rows: &[f32], d: usize) -> Option<f32> {
        let lengths = rows.chunks_exact(d).map(|r| r.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt());
        let (sum, count) = lengths.fold((0.0, 0usize), |(sum, count), length| (sum + length, count + 1));
        let scale = (d as f64).sqrt() / (sum / count.max(1) as f64);
        (count > 0 && scale.is_finite()).then_some(scale as f32)
    }
}
