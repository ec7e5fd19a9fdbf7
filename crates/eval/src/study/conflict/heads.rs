//! Which heads write the text's answer, and which write memory's: direct logit attribution to the margin between them.

use meden_engine::Control;
use meden_lens::attribute::{Part, Question, Split, attribute};
use meden_lens::probe::Estimate;
use meden_stats::interval::t_mean;
use serde::{Deserialize, Serialize};

use super::ask::Asker;
use super::behaviour::Prefixes;
use super::companions::Companions;
use super::controls::Known;
use super::task::Task;
use crate::error::EvalError;
use crate::study::Journal;

/// What each head adds to logit(text's answer) - logit(memory's answer), `[layer][head]`, in one prompt.
pub type PerHead = Vec<Vec<f32>>;

/// A head over prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Layer.
    pub layer: usize,
    /// Query head.
    pub head: usize,
    /// Mean in prompts that [memory, the text] won, with the 95% interval over prompts.
    pub mean: [Estimate; 2],
}

/// Heads over up to `most` prompts of each source, of different facts as far as they go.
///
/// # Errors
/// What the engine refuses; cancellation.
pub fn heads(
    asker: &Asker<'_>,
    (task, firsts): (&Task, &[[u32; 2]]),
    (known, prefixes): (&Known<'_>, &mut Prefixes<'_>),
    (most, journal): (usize, &mut Journal<PerHead>),
    companions: &mut Companions<'_>,
) -> Result<Vec<Head>, EvalError> {
    let chosen: [Vec<usize>; 2] = [false, true].map(|class| choose(task, known, class, most));
    let total = chosen.iter().map(Vec::len).sum();
    let mut done = 0;
    let mut values: [Vec<PerHead>; 2] = [Vec::new(), Vec::new()];
    for (rows, values) in chosen.iter().zip(&mut values) {
        for &row in rows {
            companions.step("attributing to heads", done, total)?;
            done += 1;
            let cell = &known.cells[task.cells[row]];
            let key = cell.key(known.relations, known.design);
            if journal.get(&key).is_none() {
                let prefix = prefixes.of(cell, companions)?;
                let (ids, read) = asker.tail(prefix, &cell.question(known.relations, known.design))?;
                let [a, b] = firsts[row];
                let question = Question { a, b: Some(b), position: -1, split: Split::Head, neurons: 0 };
                let mut control = Control { cancel: Some(companions.cancel), ..Control::default() };
                let attribution = attribute(prefix.session(), &ids[read..], &question, &mut control)?;
                let config = asker.model.config();
                let mut per_head = vec![vec![0.0; config.q_heads]; config.layers];
                for c in attribution.contributions {
                    if let Part::Head { layer, head } = c.part {
                        per_head[layer][head] = c.value as f32;
                    }
                }
                journal.put(key.clone(), per_head)?;
            }
            values.extend(journal.get(&key).cloned());
        }
    }
    let mut all = Vec::new();
    for layer in 0..asker.model.config().layers {
        for head in 0..asker.model.config().q_heads {
            let mean = values.each_ref().map(|v| {
                let of: Vec<f64> = v.iter().map(|p| f64::from(p[layer][head])).collect();
                let interval = t_mean(&of, 0.95);
                let (low, high) = interval.map_or((f64::NAN, f64::NAN), |i| (i.low, i.high));
                Estimate { value: meden_stats::moments::mean(&of), low, high }
            });
            all.push(Head { layer, head, mean });
        }
    }
    Ok(all)
}

/// Rows of one source, one a fact first, evenly over the facts.
fn choose(task: &Task, known: &Known<'_>, class: bool, most: usize) -> Vec<usize> {
    let mut seen = std::collections::HashSet::new();
    let of = (0..task.labels.len()).filter(|&r| task.labels[r] == class);
    let first: Vec<usize> = of.filter(|&r| seen.insert(known.cells[task.cells[r]].case)).collect();
    let count = most.min(first.len());
    (0..count).map(|i| first[i * first.len() / count]).collect()
}
