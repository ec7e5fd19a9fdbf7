//! Which tokens are read together, and which of them count.

use super::Regime;
use crate::error::EvalError;

/// Tokens `start..end` are read into an empty cache; those from `judge_from` on are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) judge_from: usize,
}

/// The windows of a text of `tokens` tokens. No token is judged twice, and none without a token before it.
pub(super) fn plan(tokens: usize, regime: Regime) -> Result<Vec<Window>, EvalError> {
    let Regime::Windows { context, stride } = regime else {
        return Ok(vec![Window { start: 0, end: tokens, judge_from: 1 }]);
    };
    let refuse =
        |field, value: usize, allowed: String| Err(EvalError::Setting { field, value: value.to_string(), allowed });
    if context < 2 {
        return refuse("context", context, "at least 2 tokens".to_owned());
    }
    if stride == 0 || stride > context {
        return refuse("stride", stride, format!("1 to {context} tokens (no more than the context)"));
    }
    let mut windows = Vec::new();
    let (mut start, mut judge_from) = (0, 1);
    while judge_from < tokens {
        let end = (start + context).min(tokens);
        windows.push(Window { start, end, judge_from });
        start += stride;
        // A window's first token has nothing before it: it is judged by the window before, or not at all.
        judge_from = end.max(start + 1);
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_that_has_one_before_it_is_judged_once() {
        for tokens in [2, 3, 10, 11, 64, 65, 100] {
            for context in [2, 3, 10, 64, 200] {
                for stride in 1..=context {
                    let windows = plan(tokens, Regime::Windows { context, stride }).unwrap();
                    let mut judged = vec![0; tokens];
                    for w in &windows {
                        assert!(w.end - w.start <= context && w.judge_from > w.start, "{w:?}");
                        judged[w.judge_from..w.end].iter_mut().for_each(|j| *j += 1);
                    }
                    // Windows that do not overlap leave their first tokens out.
                    let alone = |i: usize| i == 0 || (stride == context && i.is_multiple_of(stride));
                    let right = judged.iter().enumerate().all(|(i, &j)| j == usize::from(!alone(i)));
                    assert!(right, "{tokens} {context} {stride}: {judged:?}");
                }
            }
        }
    }

    #[test]
    fn later_windows_give_their_tokens_at_least_context_minus_stride_before_them() {
        let windows = plan(1000, Regime::Windows { context: 256, stride: 64 }).unwrap();
        assert!(windows[1..].iter().all(|w| w.judge_from - w.start >= 192));
    }

    #[test]
    fn a_context_or_stride_that_judges_nothing_is_refused() {
        for (context, stride) in [(1, 1), (8, 0), (8, 9)] {
            assert!(plan(100, Regime::Windows { context, stride }).is_err());
        }
        assert_eq!(plan(9, Regime::Running).unwrap(), [Window { start: 0, end: 9, judge_from: 1 }]);
    }
}
