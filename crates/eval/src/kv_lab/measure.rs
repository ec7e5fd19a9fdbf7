//! One item: read densely once a cache type, then compressed in every way that is asked for.

use meden_engine::{Budget, CacheStats, Control, EngineError, KvTypes, LogitRows, Schedule, Session, SessionOptions};

use super::apply::{Compressed, apply};
use super::distance::{Distance, LogProbs};
use super::record::Measured;
use super::sweep::{Cell, Take, Work};
use crate::error::EvalError;
use crate::task::{Codec, Content, Item, Probe, Question};

/// Tokens that an answer may be longer than the right one.
const SPARE_TOKENS: usize = 8;

/// A text that is compressed once, and what is asked of it.
struct Case<'a> {
    compressed: Vec<u32>,
    asked: Vec<Asked<'a>>,
}

/// What follows the compressed part.
struct Asked<'a> {
    tail: Vec<u32>,
    answer: Vec<u32>,
    probe: Option<&'a Probe>,
}

/// Measures every cell of an item.
pub(super) fn item(work: &Work<'_>, item: &Item, take: Take<'_>) -> Result<(), EvalError> {
    let cases = cases(work, item)?;
    let mut reference = Vec::new();
    for (number, &kv) in work.spec.kv.iter().enumerate() {
        let cells: Vec<&Cell> = work.cells.iter().filter(|c| c.kv == kv).collect();
        if cells.is_empty() && number > 0 {
            continue;
        }
        let dense = cases.iter().map(|case| read(work, case, kv)).collect::<Result<Vec<_>, _>>()?;
        if number == 0 {
            for (session, case) in dense.iter().zip(&cases) {
                for asked in &case.asked {
                    reference.push(follow(session, asked, work)?.0);
                }
            }
        }
        for cell in cells {
            let mut measured = cell_of(work, cell, (&dense, &cases), &reference)?;
            measured.depth = item.depth;
            take(cell, measured)?;
        }
    }
    Ok(())
}

fn cases<'a>(work: &Work<'_>, item: &'a Item) -> Result<Vec<Case<'a>>, EvalError> {
    let source = &work.subject.source;
    match &item.content {
        Content::Continue { context, next } => {
            let mut compressed = context.clone();
            // the last token read comes after the compression, so that every prediction is the compressed cache's
            let tail = compressed.split_off(context.len().saturating_sub(1));
            Ok(vec![Case { compressed, asked: vec![Asked { tail, answer: next.clone(), probe: None }] }])
        }
        Content::Ask { context, probes } => {
            let mut cases: Vec<Case<'a>> = Vec::new();
            for probe in probes {
                let layout = source.codec.layout(context, probe, (work.question, source.template))?;
                let asked = Asked { tail: layout.tail, answer: layout.answer, probe: Some(probe) };
                match cases.last_mut().filter(|_| work.question == Question::Unseen) {
                    Some(case) => case.asked.push(asked),
                    None => cases.push(Case { compressed: layout.compressed, asked: vec![asked] }),
                }
            }
            Ok(cases)
        }
        Content::Capped { .. } | Content::Decode { .. } => Ok(Vec::new()),
    }
}

/// Reads the compressed part with a dense cache.
fn read(work: &Work<'_>, case: &Case<'_>, kv_type: KvTypes) -> Result<Session, EvalError> {
    let watch = work.spec.presses.clone();
    let options =
        SessionOptions { kv_type, prefill_chunk: work.spec.prefill_chunk, watch, ..SessionOptions::default() };
    let mut session = Session::new(work.subject.model.clone(), options)?;
    let mut control = Control { cancel: Some(work.cancel), ..Control::default() };
    session.forward(&case.compressed, LogitRows::None, &mut control)?;
    Ok(session)
}

fn cell_of(
    work: &Work<'_>,
    cell: &Cell,
    (dense, cases): (&[Session], &[Case<'_>]),
    reference: &[Vec<LogProbs>],
) -> Result<Measured, EvalError> {
    let mut measured = Measured::default();
    let mut distances = Vec::new();
    let mut kept = 0.0;
    let mut reference = reference.iter();
    for (session, case) in dense.iter().zip(cases) {
        work.check_cancelled()?;
        let compressed = compress(work, cell, session)?;
        let stats = compressed.session.stats();
        add(&mut measured, &compressed, &stats);
        kept += stats.kept_tokens_mean;
        measured.tokens = measured.tokens.max(case.compressed.len());
        for asked in &case.asked {
            let (rows, after) = follow(&compressed.session, asked, work)?;
            if let Some(reference) = reference.next() {
                distances.push(Distance::between(reference, &rows, &asked.answer));
            }
            if let Some(probe) = asked.probe {
                let most = asked.answer.len() + SPARE_TOKENS;
                let written = write(after, rows[0].first_choice(), most, work)?;
                measured.correct.push(probe.judge.is_right(probe, &written));
                measured.written.push(written);
            }
        }
    }
    measured.kept_tokens = kept / cases.len().max(1) as f64;
    measured.kv_bytes /= cases.len().max(1) as u64;
    measured.dense_bytes /= cases.len().max(1) as u64;
    measured.distance = Distance::mean(&distances);
    measured.distance.check()?;
    Ok(measured)
}

fn add(measured: &mut Measured, compressed: &Compressed, stats: &CacheStats) {
    measured.kv_bytes += stats.kv_bytes;
    measured.dense_bytes += stats.dense_bytes;
    measured.evicted += compressed.evicted;
    measured.press_ms = match (measured.press_ms, compressed.milliseconds) {
        (None, new) => new,
        (old, None) => old,
        (Some(old), Some(new)) => Some(old + new),
    };
    for note in &compressed.notes {
        if !measured.notes.contains(note) {
            measured.notes.push(note.clone());
        }
    }
}

fn compress(work: &Work<'_>, cell: &Cell, dense: &Session) -> Result<Compressed, EvalError> {
    let Some(press) = &cell.press else {
        let mut session = dense.fork()?;
        session.stop_watching();
        let bytes = session.stats().kv_bytes;
        return Ok(Compressed {
            session,
            evicted: 0,
            before_bytes: bytes,
            after_bytes: bytes,
            milliseconds: None,
            notes: Vec::new(),
        });
    };
    let budget = if press.build()?.own_budget() { Budget::Press } else { Budget::Ratio(1.0 - cell.ratio) };
    let policy = work.spec.spare.policy(press, budget, Schedule::prefill_end());
    apply(dense, &policy, work.clock)
}

/// Reads the tail and the right answer; the predictions of the answer's tokens, and a session that has read the tail.
fn follow(base: &Session, asked: &Asked<'_>, work: &Work<'_>) -> Result<(Vec<LogProbs>, Session), EvalError> {
    let mut control = Control { cancel: Some(work.cancel), ..Control::default() };
    let mut session = base.fork()?;
    let mut rows = vec![LogProbs::of(&session.forward(&asked.tail, LogitRows::Last, &mut control)?)];
    let after = session.fork()?;
    let Some((_, before_last)) = asked.answer.split_last() else { return Ok((rows, after)) };
    if !before_last.is_empty() {
        session.score(before_last, LogitRows::All, &mut control, &mut |_, logits| {
            rows.push(LogProbs::of(logits));
            Ok::<(), EngineError>(())
        })?;
    }
    Ok((rows, after))
}

/// What the likeliest tokens say, up to the end of a line.
fn write(mut session: Session, first: u32, most: usize, work: &Work<'_>) -> Result<String, EvalError> {
    let codec: &Codec<'_> = work.subject.source.codec;
    let context = session.model().config().context;
    let mut control = Control { cancel: Some(work.cancel), ..Control::default() };
    let (mut ids, mut next) = (Vec::new(), first);
    while ids.len() < most && !codec.is_end(next) {
        ids.push(next);
        let text = codec.decode(&ids);
        if text.trim_start().contains('\n') || ids.len() == most || session.seen() == context {
            break;
        }
        next = LogProbs::of(session.decode(next, &mut control)?).first_choice();
    }
    Ok(codec.decode(&ids))
}
