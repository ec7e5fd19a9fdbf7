//! Means over items, with 95% intervals from resampling the items. A press and the dense cache are compared on the
//! same items, so what is resampled are differences, which are far less spread than the values themselves.

use std::collections::BTreeMap;

use meden_engine::{KvTypes, PressSpec};
use meden_stats::bootstrap::Bootstrap;
use meden_stats::moments;
use serde::Serialize;

use super::record::{Identity, Record};
use crate::task::{Question, TaskKind};

/// A mean and its interval; no interval for fewer than two items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub value: f64,
    /// Ends of the 95% interval.
    pub interval: Option<[f64; 2]>,
}

impl Estimate {
    fn of(values: &[f64]) -> Option<Estimate> {
        if values.is_empty() {
            return None;
        }
        let interval = if values.len() < 2 { None } else { Bootstrap::default().interval(values, moments::mean) };
        Some(Estimate { value: moments::mean(values), interval: interval.map(|i| [i.low, i.high]) })
    }
}

/// One press at one share, type, task and length.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The task.
    pub task: TaskKind,
    /// Tokens of the compressed part, at most.
    pub length: usize,
    /// Whether the press saw the question.
    pub question: Question,
    /// The press; `None` for the dense cache.
    pub press: Option<PressSpec>,
    /// Nominal share removed.
    pub ratio: f64,
    /// Element type.
    pub kv: KvTypes,
    /// Items measured.
    pub items: usize,
    /// KL(dense || compressed) a token, in nats.
    pub kl: Estimate,
    /// Share of tokens with the dense cache's first choice.
    pub top1: Estimate,
    /// Mean negative log-probability of the right tokens.
    pub nll: Estimate,
    /// Mean rank of the right tokens; 1 is the first choice.
    pub rank: f64,
    /// How much the loss is above the dense cache's of the same type.
    pub nll_rise: Option<Estimate>,
    /// Share of right answers; `None` where nothing is asked.
    pub accuracy: Option<Estimate>,
    /// Questions that the dense cache of the same type answers.
    pub dense_solved: usize,
    /// Questions asked.
    pub asked: usize,
    /// Share of right answers among the questions that the dense cache answers; `None` where it answers none.
    pub retained: Option<Estimate>,
    /// Share of repeated four-token sequences, in long answers.
    pub repetition: Option<Estimate>,
    /// Tokens of the compressed part, mean over items.
    pub tokens: f64,
    /// Slots kept, mean over items, layers and heads.
    pub kept_tokens: f64,
    /// Bytes of the cache, mean over items.
    pub kv_bytes: f64,
    /// Bytes without a press, mean over items.
    pub dense_bytes: f64,
    /// Milliseconds of the press, mean over items.
    pub press_ms: Option<f64>,
    /// Items in which the press evicted nothing.
    pub idle: usize,
    /// What was noted, each once.
    pub notes: Vec<String>,
}

/// A line for each press, share, type, task, length and view of the question, in the order of the results.
pub fn lines(records: &[&Record]) -> Vec<Line> {
    let dense: BTreeMap<String, &Record> =
        records.iter().filter(|r| r.identity.press.is_none()).map(|r| (r.identity.key(), *r)).collect();
    let mut groups: Vec<(String, Vec<&Record>)> = Vec::new();
    for &record in records {
        let key = group(&record.identity);
        match groups.iter_mut().find(|g| g.0 == key) {
            Some(group) => group.1.push(record),
            None => groups.push((key, vec![record])),
        }
    }
    groups.iter().map(|(_, records)| line(records, &dense)).collect()
}

fn group(identity: &Identity) -> String {
    Identity { seed: 0, item: 0, ..identity.clone() }.key()
}

fn line(records: &[&Record], dense: &BTreeMap<String, &Record>) -> Line {
    let first = &records[0].identity;
    let all = |f: &dyn Fn(&Record) -> f64| records.iter().map(|r| f(r)).collect::<Vec<f64>>();
    let mean = |f: &dyn Fn(&Record) -> f64| moments::mean(&all(f));
    let estimate = |f: &dyn Fn(&Record) -> f64| Estimate::of(&all(f)).unwrap_or_default();
    let some = |f: &dyn Fn(&Record) -> Option<f64>| -> Vec<f64> { records.iter().filter_map(|r| f(r)).collect() };
    let pair = |record: &Record| dense.get(&dense_key(&record.identity)).copied();
    let mut notes: Vec<String> = Vec::new();
    for note in records.iter().flat_map(|r| &r.measured.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    let right = |r: &Record| {
        let correct = &r.measured.correct;
        (!correct.is_empty()).then(|| correct.iter().filter(|c| **c).count() as f64 / correct.len() as f64)
    };
    // the questions of an item stand together in the resampling
    let kept = |r: &Record| {
        let solved = &pair(r)?.measured.correct;
        let both: Vec<bool> =
            r.measured.correct.iter().zip(solved).filter(|(_, dense)| **dense).map(|(own, _)| *own).collect();
        (!both.is_empty()).then(|| both.iter().filter(|c| **c).count() as f64 / both.len() as f64)
    };
    Line {
        task: first.task,
        length: first.length,
        question: first.question,
        press: first.press.clone(),
        ratio: first.ratio,
        kv: first.kv,
        items: records.len(),
        kl: estimate(&|r| r.measured.distance.kl),
        top1: estimate(&|r| r.measured.distance.top1),
        nll: estimate(&|r| r.measured.distance.nll),
        rank: mean(&|r| r.measured.distance.rank),
        nll_rise: Estimate::of(&some(&|r| Some(r.measured.distance.nll - pair(r)?.measured.distance.nll))),
        accuracy: Estimate::of(&some(&right)),
        dense_solved: records
            .iter()
            .filter_map(|r| pair(r))
            .map(|d| d.measured.correct.iter().filter(|c| **c).count())
            .sum(),
        asked: records.iter().map(|r| r.measured.correct.len()).sum(),
        retained: Estimate::of(&some(&kept)),
        repetition: Estimate::of(&some(&|r| r.measured.repetition)),
        tokens: mean(&|r| r.measured.tokens as f64),
        kept_tokens: mean(&|r| r.measured.kept_tokens),
        kv_bytes: mean(&|r| r.measured.kv_bytes as f64),
        dense_bytes: mean(&|r| r.measured.dense_bytes as f64),
        press_ms: {
            let times = some(&|r| r.measured.press_ms);
            (!times.is_empty()).then(|| moments::mean(&times))
        },
        idle: records.iter().filter(|r| r.measured.evicted == 0).count(),
        notes,
    }
}

fn dense_key(identity: &Identity) -> String {
    Identity { press: None, ratio: 0.0, ..identity.clone() }.key()
}

#[cfg(test)]
mod tests {
    use super::super::distance::Distance;
    use super::super::record::{Measured, VERSION};
    use super::*;
    use meden_engine::SkipOverflow;

    fn record(item: usize, press: Option<PressSpec>, nll: f64, correct: Vec<bool>) -> Record {
        let identity = Identity {
            version: VERSION,
            model: "m".into(),
            text: "t".into(),
            task: TaskKind::Questions,
            length: 512,
            question: Question::Unseen,
            template: false,
            seed: 0,
            item,
            ratio: if press.is_some() { 0.5 } else { 0.0 },
            press,
            kv: KvTypes::F16,
            sinks: 4,
            recents: 64,
            skip_layers: None,
            skip_overflow: SkipOverflow::Window,
        };
        let distance = Distance { tokens: 1, kl: 0.1, top1: 1.0, nll, rank: 1.0 };
        Record { identity, measured: Measured { distance, correct, evicted: 1, ..Measured::default() } }
    }

    #[test]
    fn a_press_is_compared_with_the_dense_cache_on_the_same_items() {
        let mut records = Vec::new();
        for item in 0..6 {
            // items differ by far more than the press does
            let hard = item as f64 * 10.0;
            records.push(record(item, None, hard, vec![true, item == 0]));
            records.push(record(item, "knorm".parse().ok(), hard + 0.5, vec![item < 3, true]));
        }
        let lines = lines(&records.iter().collect::<Vec<_>>());
        assert_eq!(lines.len(), 2);
        let pressed = &lines[1];
        let rise = pressed.nll_rise.unwrap();
        assert_eq!(rise, Estimate { value: 0.5, interval: Some([0.5, 0.5]) });
        let [low, high] = pressed.nll.interval.unwrap();
        assert!(high - low > 10.0, "unpaired, the items' own spread hides it");
        assert_eq!((pressed.dense_solved, pressed.asked), (7, 12));
        // item 0: both of two solved ones are kept; items 1 and 2: one of one; items 3 to 5: none of one
        assert_eq!(pressed.retained.unwrap().value, 0.5);
        assert_eq!(pressed.accuracy.unwrap().value, 0.75);
        assert_eq!(lines[0].retained.unwrap().value, 1.0, "the dense cache keeps what it solves");
    }

    #[test]
    fn one_item_has_no_interval_and_nothing_solved_has_no_retained_share() {
        let one = [record(0, None, 1.0, vec![false]), record(0, "knorm".parse().ok(), 2.0, vec![true])];
        let lines = lines(&one.iter().collect::<Vec<_>>());
        assert_eq!(lines[1].kl.interval, None);
        assert_eq!((lines[1].retained, lines[1].dense_solved), (None, 0));
        let alone = super::lines(&[&one[1]]);
        assert_eq!(alone[0].nll_rise, None, "without its dense pair nothing is compared");
    }
}
