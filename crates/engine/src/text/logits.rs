//! Passes over a row of logits, written so that the compiler can use vector registers.
//!
//! A vocabulary has up to 262,144 entries and this runs once a token beside a decode step of some milliseconds, so
//! nothing here sorts the vocabulary or calls the C library once an entry.

use std::cmp::Ordering;

use super::error::TextError;

/// Entries that are worked on together.
const LANES: usize = 16;
/// Entries that are summed together.
pub(super) const RUN: usize = 64 * LANES;

/// The largest logit. NaN and plus infinity are errors that name the first such entry; minus infinity rules a token
/// out, and at least one has to be left.
pub(super) fn largest(logits: &[f32]) -> Result<f32, TextError> {
    let (mut most, mut wrong) = ([f32::NEG_INFINITY; LANES], [false; LANES]);
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for ((most, wrong), &x) in most.iter_mut().zip(&mut wrong).zip(chunk) {
            *most = if x > *most { x } else { *most };
            // One comparison finds both: NaN is not below anything.
            *wrong |= !(x < f32::INFINITY);
        }
    }
    let rest = chunks.remainder();
    let most = most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    if wrong.contains(&true) || rest.iter().any(|&x| !(x < f32::INFINITY)) {
        let id = logits.iter().position(|&x| !(x < f32::INFINITY)).unwrap_or(0);
        return Err(TextError::Logit { id, count: logits.len(), value: logits[id] });
    }
    if most == f32::NEG_INFINITY {
        return Err(TextError::NothingLeft { count: logits.len() });
    }
    Ok(most)
}

/// The lowest id whose logit is `largest`.
pub(super) fn first_of(logits: &[f32], largest: f32) -> u32 {
    let block = logits.chunks(LANES).position(|chunk| chunk.contains(&largest)).unwrap_or(0) * LANES;
    let within = logits[block..].iter().position(|&x| x == largest).unwrap_or(0);
    (block + within) as u32
}

/// `exp(x)` for x of at most 0, within two units of the last place; 0 below -87.
///
/// Cody and Waite's reduction to [-ln 2 / 2, ln 2 / 2], then a polynomial. No branch and no call, so loops over it
/// are vectorised.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding and subtracting this rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let n = clamped * std::f32::consts::LOG2_E + ROUND - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    // 1 + r + r^2/2 + … to the seventh power: the remainder is below 2^-24 on the interval.
    let tail = 1.0 / 5_040.0;
    let p = ((((((tail * r + 1.0 / 720.0) * r + 1.0 / 120.0) * r + 1.0 / 24.0) * r + 1.0 / 6.0) * r + 0.5) * r + 1.0)
        * r
        + 1.0;
    let power = f32::from_bits(((n as i32 + 127) as u32) << 23);
    if x < -87.0 { 0.0 } else { p * power }
}

/// The sum of `exp((x - largest) * scale)` over all entries.
pub(super) fn sum_exp(logits: &[f32], largest: f32, scale: f32) -> f64 {
    logits.chunks(RUN).map(|run| sum_run(run, largest, scale)).sum()
}

/// The same sum over one run of at most [`RUN`] entries. Short runs are added in f32, run by run in f64: fast, and no
/// error that grows with the vocabulary.
pub(super) fn sum_run(run: &[f32], largest: f32, scale: f32) -> f64 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = run.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += exp((x - largest) * scale);
        }
    }
    let rest = chunks.remainder().iter().map(|&x| exp((x - largest) * scale));
    lanes.iter().copied().chain(rest).map(f64::from).sum()
}

/// Larger logit first, lower id first among equals.
pub(super) fn by_logit(logits: &[f32]) -> impl Fn(&u32, &u32) -> Ordering + '_ {
    |&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
}

/// The `count` best ids with their logits, best first.
pub(super) fn best(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut ids = Vec::new();
    best_ids(logits, count, &mut ids);
    ids.into_iter().map(|id| (id, logits[id as usize])).collect()
}

/// The `count` best ids, best first, into a list whose memory is used again.
pub(super) fn best_ids(logits: &[f32], count: usize, list: &mut Vec<u32>) {
    list.clear();
    let count = count.min(logits.len());
    if count == 0 {
        return;
    }
    // A list that never grows beyond 2 * count: whatever is below the count-th best so far is not even written down.
    let order = by_logit(logits);
    list.reserve(2 * count);
    let mut floor = f32::NEG_INFINITY;
    for (id, &x) in logits.iter().enumerate() {
        if x < floor || list.len() >= count && x == floor {
            continue;
        }
        list.push(id as u32);
        if list.len() == 2 * count {
            list.select_nth_unstable_by(count - 1, &order);
            list.truncate(count);
            floor = list.iter().map(|&id| logits[id as usize]).fold(f32::INFINITY, f32::min);
        }
    }
    list.sort_unstable_by(&order);
    list.truncate(count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use meden_stats::Rng;

    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed, 0);
        (0..count).map(|_| (rng.normal() * 4.0) as f32).collect()
    }

    #[test]
    fn exp_agrees_with_f64() {
        for i in 0..200_000 {
            let x = -90.0 * i as f32 / 200_000.0;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            let error = (got - want).abs() / want;
            assert!(if x < -87.0 { got == 0.0 } else { error < 3e-7 }, "exp({x}) = {got}, not {want}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn the_sum_agrees_with_f64() {
        for count in [1, 15, 16, 1025, 49_152] {
            let logits = noise(count, count as u64);
            let most = largest(&logits).unwrap();
            assert_eq!(most, logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let want: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(most)).exp()).sum();
            let got = sum_exp(&logits, most, 1.0);
            assert!((got / want - 1.0).abs() < 1e-6, "{count}: {got}, not {want}");
        }
    }

    #[test]
    fn the_best_are_those_of_a_full_sort() {
        for count in [1usize, 7, 5000] {
            // Few distinct values, so that there are many equals.
            let logits: Vec<f32> = noise(count, 3).iter().map(|x| x.round()).collect();
            let mut ids: Vec<u32> = (0..count as u32).collect();
            ids.sort_by(by_logit(&logits));
            for take in [0, 1, 5, 20, 6000] {
                let got: Vec<u32> = best(&logits, take).into_iter().map(|(id, _)| id).collect();
                assert_eq!(got, ids[..take.min(count)], "{take} of {count}");
            }
            let most = largest(&logits).unwrap();
            assert_eq!(first_of(&logits, most), ids[0]);
        }
    }

    #[test]
    fn what_is_no_number_is_named() {
        for at in [0, 5, 16, 37] {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut logits = noise(38, 1);
                logits[at] = bad;
                let error = largest(&logits).unwrap_err();
                assert!(matches!(error, TextError::Logit { id, count: 38, .. } if id == at), "{error}");
            }
        }
        assert!(matches!(largest(&[f32::NEG_INFINITY; 20]), Err(TextError::NothingLeft { count: 20 })));
        assert!(matches!(largest(&[]), Err(TextError::NothingLeft { count: 0 })));
    }
}
