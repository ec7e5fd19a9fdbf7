//! Choosing a press, a share and the layers to leave alone on the user's own text: the smallest cache whose distance
//! to the dense one stays under a limit, or the nearest cache within so many bytes.

use serde::Serialize;

use super::summary::Line;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Smallest cache with at most this mean KL(dense || compressed) a token, in nats; the upper end of the interval
    /// counts where there is one, so that a lucky draw does not decide.
    MaxKl(f64),
    /// Nearest cache with at most so many bytes.
    MaxBytes(u64),
}

/// The distance that counts against a limit.
pub fn bound(line: &Line) -> f64 {
    line.kl.interval.map_or(line.kl.value, |[_, high]| high)
}

/// Number of the line that meets the goal best; `None` where none does.
pub fn choose(lines: &[&Line], goal: Goal) -> Option<usize> {
    let key = |line: &Line| match goal {
        Goal::MaxKl(limit) => (bound(line) <= limit).then_some((line.kv_bytes, line.kl.value)),
        Goal::MaxBytes(most) => (line.kv_bytes <= most as f64).then_some((line.kl.value, line.kv_bytes)),
    };
    let candidates = lines.iter().enumerate().filter_map(|(number, line)| Some((number, key(line)?)));
    candidates.min_by(|a, b| a.1.0.total_cmp(&b.1.0).then(a.1.1.total_cmp(&b.1.1))).map(|(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::super::summary::Estimate;
    use super::*;
    use crate::task::{Question, TaskKind};
    use meden_engine::KvTypes;

    fn line(kl: f64, high: f64, kv_bytes: f64) -> Line {
        let estimate = Estimate { value: kl, interval: Some([0.0, high]) };
        Line {
            task: TaskKind::Continuation,
            length: 512,
            question: Question::Unseen,
            press: None,
            ratio: 0.0,
            kv: KvTypes::F16,
            items: 4,
            kl: estimate,
            top1: estimate,
            nll: estimate,
            rank: 1.0,
            nll_rise: None,
            accuracy: None,
            dense_solved: 0,
            asked: 0,
            retained: None,
            repetition: None,
            tokens: 512.0,
            kept_tokens: 0.0,
            kv_bytes,
            dense_bytes: 100.0,
            press_ms: None,
            idle: 0,
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_smallest_within_the_distance_and_the_nearest_within_the_bytes() {
        let all = [line(0.01, 0.02, 80.0), line(0.03, 0.05, 50.0), line(0.04, 0.2, 20.0), line(0.02, 0.04, 50.0)];
        let lines: Vec<&Line> = all.iter().collect();
        assert_eq!(choose(&lines, Goal::MaxKl(0.06)), Some(3), "the upper end counts, then the nearer of equals");
        assert_eq!(choose(&lines, Goal::MaxKl(0.001)), None);
        assert_eq!(choose(&lines, Goal::MaxBytes(55)), Some(3));
        assert_eq!(choose(&lines, Goal::MaxBytes(30)), Some(2));
        assert_eq!(choose(&lines, Goal::MaxBytes(10)), None);
    }
}
