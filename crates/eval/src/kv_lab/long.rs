//! Caches that are never larger than their cap while a long text is read or written. All of them go forward together
//! with the dense one, token by token the same text, so that each position is compared with the dense cache's.

use meden_engine::{
    BatchItem, Budget, Control, EngineError, KvTypes, LogitRows, Schedule, Session, SessionOptions, forward_batch,
};

use super::distance::{Distance, LogProbs};
use super::record::Measured;
use super::sweep::{Cell, Take, Work};
use crate::error::EvalError;

/// Tokens that a layer may grow beyond its cap before it is pressed.
const EVERY: usize = 32;
/// Tokens of a text that are compared at a time.
const PIECE: usize = 64;
/// Characters of a long answer that are kept in the results.
const SHOWN: usize = 400;

/// One cache on its way.
struct Runner<'a> {
    cell: &'a Cell,
    session: Session,
    distances: Vec<Distance>,
}

fn session(work: &Work<'_>, cell: &Cell, length: usize) -> Result<Session, EvalError> {
    let policy = cell.press.as_ref().map(|press| {
        let cap = ((1.0 - cell.ratio) * length as f64).round() as usize;
        let cap = cap.max(work.spec.spare.sinks + work.spec.spare.recents).max(1);
        work.spec.spare.policy(press, Budget::Tokens(cap), Schedule::decode_every(EVERY))
    });
    let prefill_chunk = work.spec.prefill_chunk;
    let mut options = SessionOptions { kv_type: cell.kv, prefill_chunk, ..SessionOptions::default() };
    options.policy = policy;
    Ok(Session::new(work.subject.model.clone(), options)?)
}

fn runners<'a>(work: &Work<'a>, length: usize) -> Result<(Session, Vec<Runner<'a>>), EvalError> {
    let first: KvTypes = work.spec.kv[0];
    let dense = session(work, &Cell { press: None, ratio: 0.0, kv: first }, length)?;
    let runner = |cell| Ok(Runner { cell, session: session(work, cell, length)?, distances: Vec::new() });
    let runners = work.cells.iter().map(runner).collect::<Result<Vec<_>, EvalError>>()?;
    Ok((dense, runners))
}

/// Reads a text with every cache.
pub(super) fn capped(work: &Work<'_>, ids: &[u32], take: Take<'_>) -> Result<(), EvalError> {
    let (mut dense, mut runners) = runners(work, ids.len())?;
    // the last token is predicted and not read
    let read = &ids[..ids.len() - 1];
    for (piece, targets) in read.chunks(PIECE).zip(ids[1..].chunks(PIECE)) {
        work.check_cancelled()?;
        let reference = rows(&mut dense, piece)?;
        for runner in &mut runners {
            let own = rows(&mut runner.session, piece)?;
            runner.distances.push(Distance::between(&reference, &own, targets));
        }
    }
    for runner in runners {
        let measured = finish(&runner, ids.len());
        measured.distance.check()?;
        take(runner.cell, measured)?;
    }
    Ok(())
}

fn rows(session: &mut Session, ids: &[u32]) -> Result<Vec<LogProbs>, EvalError> {
    let mut rows = Vec::with_capacity(ids.len());
    session.score(ids, LogitRows::All, &mut Control::default(), &mut |_, logits| {
        rows.push(LogProbs::of(logits));
        Ok::<(), EngineError>(())
    })?;
    Ok(rows)
}

fn finish(runner: &Runner<'_>, tokens: usize) -> Measured {
    let stats = runner.session.stats();
    Measured {
        tokens,
        distance: Distance::mean(&runner.distances),
        kept_tokens: stats.kept_tokens_mean,
        kv_bytes: stats.kv_bytes,
        dense_bytes: stats.dense_bytes,
        evicted: stats.evicted,
        notes: stats.notes,
        ..Measured::default()
    }
}

/// Writes a long answer: once the dense cache's, with every cache looking on, and once each cache its own.
pub(super) fn decode(work: &Work<'_>, (prompt, tokens): (&[u32], usize), take: Take<'_>) -> Result<(), EvalError> {
    let (dense, mut runners) = runners(work, prompt.len() + tokens)?;
    let mut sessions = vec![dense];
    for runner in &runners {
        sessions.push(runner.session.fork()?);
    }
    let mut own: Vec<Session> = sessions.iter().map(Session::fork).collect::<Result<_, _>>()?;
    let mut last = together(&mut sessions, &vec![prompt.to_vec(); runners.len() + 1], work)?;
    for _ in 0..tokens {
        let next = choose(&last[0], work);
        for (runner, row) in runners.iter_mut().zip(&last[1..]) {
            runner.distances.push(Distance::between(&last[..1], std::slice::from_ref(row), &[next]));
        }
        last = together(&mut sessions, &vec![vec![next]; runners.len() + 1], work)?;
    }
    let mut last = together(&mut own, &vec![prompt.to_vec(); runners.len() + 1], work)?;
    let mut texts = vec![Vec::with_capacity(tokens); own.len()];
    for _ in 0..tokens {
        let next: Vec<u32> = last.iter().map(|row| choose(row, work)).collect();
        texts.iter_mut().zip(&next).for_each(|(text, &id)| text.push(id));
        last = together(&mut own, &next.iter().map(|&id| vec![id]).collect::<Vec<_>>(), work)?;
    }
    let mut own = own.into_iter().skip(1);
    for (mut runner, text) in runners.into_iter().zip(&texts[1..]) {
        if let Some(session) = own.next() {
            runner.session = session;
        }
        let mut measured = finish(&runner, prompt.len() + tokens);
        measured.distance.check()?;
        measured.repetition = Some(repetition(text));
        let shown: String = work.subject.source.codec.decode(text).chars().take(SHOWN).collect();
        measured.written = vec![shown];
        take(runner.cell, measured)?;
    }
    Ok(())
}

/// Reads tokens with every session in one pass, so that the weights are read once.
fn together(sessions: &mut [Session], ids: &[Vec<u32>], work: &Work<'_>) -> Result<Vec<LogProbs>, EvalError> {
    work.check_cancelled()?;
    let mut last = vec![LogProbs::default(); sessions.len()];
    let mut items: Vec<BatchItem<'_>> =
        sessions.iter_mut().zip(ids).map(|(session, ids)| BatchItem { session, ids, rows: LogitRows::Last }).collect();
    forward_batch(&mut items, &mut Control::default(), &mut |item, _, logits| {
        last[item] = LogProbs::of(logits);
        Ok(())
    })?;
    Ok(last)
}

/// The likeliest token that does not end the text: a long answer is what is looked at.
fn choose(row: &LogProbs, work: &Work<'_>) -> u32 {
    row.first_choice_but(|id| work.subject.source.codec.is_end(id))
}

/// Share of four-token sequences that have occurred before.
fn repetition(ids: &[u32]) -> f64 {
    let mut seen = std::collections::BTreeSet::new();
    let again = ids.windows(4).filter(|w| !seen.insert(*w)).count();
    again as f64 / ids.len().saturating_sub(3).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_is_0_for_new_text_and_nears_1_for_a_loop() {
        assert_eq!(repetition(&(0..100).collect::<Vec<_>>()), 0.0);
        let looped: Vec<u32> = (0..400).map(|i| i % 5).collect();
        assert!((repetition(&looped) - 392.0 / 397.0).abs() < 1e-12);
        assert_eq!(repetition(&[1, 2]), 0.0);
    }
}
