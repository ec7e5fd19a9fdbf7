//! Statistics that judges, presses and reports share: pure functions over `f64`, and seeded random numbers.
//!
//! Why a crate of its own: an interval or a random choice has to be the same wherever it is made, so it must not be
//! able to see a clock, a file or a thread. Everything here depends on its arguments alone.
//!
//! - [`moments`]: sums that do not lose small terms, mean, variance, shape
//! - [`distribution`]: how the values of one vector are spread: shape, sparsity, norms
//! - [`eigen`]: eigenvalues and eigenvectors of symmetric matrices
//! - [`quantile`]: order statistics
//! - [`normal`], [`student`]: the two distributions that intervals need
//! - [`interval`]: intervals for a mean, of independent and of correlated values, and for a share
//! - [`bootstrap`]: intervals for any statistic by resampling, in blocks where neighbours are alike
//! - [`permutation`]: what a statistic looks like where labels say nothing
//! - [`ranking`]: areas under ROC and precision-recall curves
//! - [`classify`]: yes-or-no decisions and the probabilities behind them
//! - [`agreement`]: raters beyond chance
//! - [`correlation`]: ranks, and how two orders go together
//! - [`multiple`]: several tests at once, tests of counts, estimates of what was not found
//! - [`power`]: how small an effect a study could see
//! - [`rng`]: a counter-based generator: the same seed and stream give the same numbers on every machine

pub mod agreement;
pub mod bootstrap;
pub mod classify;
pub mod correlation;
pub mod distribution;
pub mod eigen;
pub mod interval;
pub mod moments;
pub mod multiple;
pub mod normal;
pub mod permutation;
pub mod power;
pub mod quantile;
pub mod ranking;
pub mod rng;
pub mod student;

pub use distribution::Distribution;
pub use interval::Interval;
pub use ranking::Ranking;
pub use rng::Rng;
