//! Counts, shares and intervals of steered answers.

use meden_stats::bootstrap::Bootstrap;
use meden_stats::multiple::sign_test;
use serde::{Deserialize, Serialize};

use super::evaluate::Answered;
use crate::study::conflict::behaviour::Source;

/// A share with its 95% interval over answers drawn as clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The share.
    pub value: f64,
    /// Ends of the interval; equal to the share where there is none.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// One prompt without and with an edit.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Answer that it is about.
    pub cluster: u32,
    /// As it is.
    pub before: &'a Answered,
    /// Steered.
    pub after: &'a Answered,
}

/// What an arm did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the arm.
    pub arm: String,
    /// Prompts.
    pub prompts: usize,
    /// Answers that they are about.
    pub clusters: usize,
    /// Share that gives what the text says.
    pub context: Share,
    /// Share that gives what the model knows.
    pub memory: Share,
    /// Share that gives neither.
    pub neither: Share,
    /// Change of the share of the text, against no edit.
    pub context_change: Share,
    /// Change of the share of memory, against no edit.
    pub memory_change: Share,
    /// Two-sided sign test of the prompts that came to or left the text, and memory.
    pub p: [f64; 2],
    /// Of those that followed the text before, the share that follows memory after; and the other way round.
    pub switched: [f64; 2],
    /// Of those that followed the text before, the share that still does; and of memory.
    pub kept: [f64; 2],
    /// Mean change of the leaning towards the text, nats.
    pub leaning: f64,
    /// Mean length of the change relative to the row's, summed over layers.
    pub relative: f64,
}

/// Counts an arm.
pub fn row(arm: &str, pairs: &[Pair<'_>], seed: u64) -> Row {
    let clusters: Vec<u32> = pairs.iter().map(|p| p.cluster).collect();
    let mut distinct = clusters.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let boot = Bootstrap { seed, ..Bootstrap::default() };
    let share = |of: &dyn Fn(&Pair<'_>) -> f64| {
        let values: Vec<f64> = pairs.iter().map(of).collect();
        let mean = |w: &[f64]| {
            let sum: f64 = w.iter().sum();
            (sum > 0.0).then(|| values.iter().zip(w).map(|(v, w)| v * w).sum::<f64>() / sum)
        };
        let value = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let interval = boot.clustered(&clusters, mean);
        Share { value, low: interval.map_or(value, |i| i.low), high: interval.map_or(value, |i| i.high) }
    };
    let is = |answered: &Answered, source: Source| f64::from(u8::from(answered.source == source));
    let count = |of: &dyn Fn(&Pair<'_>) -> bool| pairs.iter().filter(|p| of(p)).count() as u64;
    let moved = |source: Source| {
        let came = count(&|p| p.before.source != source && p.after.source == source);
        let left = count(&|p| p.before.source == source && p.after.source != source);
        sign_test(came, left)
    };
    let given = |before: Source, after: Source| {
        let all = count(&|p| p.before.source == before);
        let both = count(&|p| p.before.source == before && p.after.source == after);
        if all > 0 { both as f64 / all as f64 } else { f64::NAN }
    };
    let mean = |of: &dyn Fn(&Pair<'_>) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len().max(1) as f64;
    use Source::{Context, Memory};
    Row {
        arm: arm.to_owned(),
        prompts: pairs.len(),
        clusters: distinct.len(),
        context: share(&|p| is(p.after, Context)),
        memory: share(&|p| is(p.after, Memory)),
        neither: share(&|p| is(p.after, Source::Neither)),
        context_change: share(&|p| is(p.after, Context) - is(p.before, Context)),
        memory_change: share(&|p| is(p.after, Memory) - is(p.before, Memory)),
        p: [moved(Context), moved(Memory)],
        switched: [given(Context, Memory), given(Memory, Context)],
        kept: [given(Context, Context), given(Memory, Memory)],
        leaning: mean(&|p| p.after.leaning - p.before.leaning),
        relative: mean(&|p| p.after.relative),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(source: Source) -> Answered {
        Answered { written: String::new(), source, leaning: 0.0, relative: 0.5, kl: None }
    }

    #[test]
    fn shares_and_transitions_are_counted() {
        use Source::{Context, Memory, Neither};
        let before = [Context, Context, Memory, Neither].map(answered);
        let after = [Memory, Context, Memory, Memory].map(answered);
        let pairs: Vec<Pair<'_>> = before
            .iter()
            .zip(&after)
            .enumerate()
            .map(|(i, (before, after))| Pair { cluster: i as u32, before, after })
            .collect();
        let row = row("x", &pairs, 1);
        assert_eq!((row.prompts, row.clusters), (4, 4));
        assert_eq!((row.context.value, row.memory.value, row.neither.value), (0.25, 0.75, 0.0));
        assert_eq!((row.context_change.value, row.memory_change.value), (-0.25, 0.5));
        assert_eq!((row.switched, row.kept), ([0.5, 0.0], [0.5, 1.0]));
        assert!(row.memory_change.low <= 0.5 && row.memory_change.high >= 0.5);
        assert_eq!(row.relative, 0.5);
    }
}
