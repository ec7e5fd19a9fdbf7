//! Patching and ablation: one edit at a time, and what each does to a metric of the prompt's last token.
//!
//! **Activation patching** (causal tracing): a run of one prompt with one activation taken from the run of another. With
//! `m` the metric, the effect of a cell is `(m_patched - m_base) / (m_source - m_base)`: 0 where the patch does nothing,
//! 1 where it restores all of the difference. Denoising patches clean values into the corrupted prompt, noising the
//! reverse. **Ablation**: an activation becomes zero, or its mean over other prompts.

use std::collections::BTreeMap;
use std::sync::Arc;

use meden_engine::{Control, EngineError, LogitRows, Model, Session};
use serde::{Deserialize, Serialize};

use crate::capture::{Captured, Selection, capture, exact_session};
use crate::companions::{part, reborrow};
use crate::edit::{At, Change, Edit, Edits, Values};
use crate::error::LensError;
use crate::metric::Metric;
use crate::place::{Place, Positions};

/// What one cell of a sweep edits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// A place, at all the positions asked for.
    #[default]
    Place,
    /// One head of a place, at all the positions asked for.
    Head,
    /// A place, at one of the positions asked for.
    Position,
    /// One head at one position.
    HeadPosition,
    /// All places at once: one cell.
    Together,
}

impl std::str::FromStr for By {
    type Err = LensError;
    fn from_str(text: &str) -> Result<By, LensError> {
        match text {
            "place" | "layer" => Ok(By::Place),
            "head" => Ok(By::Head),
            "position" => Ok(By::Position),
            "head_position" => Ok(By::HeadPosition),
            "together" => Ok(By::Together),
            _ => Err(LensError::setting("by", text, "layer, head, position, head_position or together")),
        }
    }
}

/// Which cells a sweep has.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Places that are edited.
    pub places: Vec<Place>,
    /// Heads, where cells are heads; all of them for none.
    pub heads: Option<Vec<usize>>,
    /// Positions that are edited.
    pub positions: Positions,
    /// What a cell is.
    pub by: By,
}

/// One edit and what it did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Where; none where all places are edited together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Head, where cells are heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<usize>,
    /// Position, where cells are positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// The metric of the edited run.
    pub value: f64,
    /// For patching the share of the difference that the patch brings (not a number where both prompts have one metric),
    /// for ablation the change of the metric.
    pub effect: f64,
}

/// A sweep's result.
#[derive(Clone, Debug, Serialize)]
pub struct Swept {
    /// The metric of the prompt without any edit.
    pub base: f64,
    /// The metric of the prompt that values were taken from; none for ablation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<f64>,
    /// The cells, in the order of places, heads, positions.
    pub cells: Vec<Cell>,
}

/// What an activation becomes when it is ablated.
#[derive(Clone, Debug)]
pub enum Ablation {
    /// Zero.
    Zero,
    /// What it is on average; see [`means`].
    Mean(BTreeMap<Place, Values>),
}

/// Over what activations are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeanOver {
    /// All tokens of all prompts: one row a place.
    #[default]
    Tokens,
    /// The prompts, position by position; a position that no prompt has is left as it is.
    Prompts,
}

/// Means of places over some prompts, for [`Ablation::Mean`].
///
/// # Errors
/// What [`capture`] refuses.
pub fn means(
    model: &Arc<Model>,
    prompts: &[Vec<u32>],
    places: &[Place],
    over: MeanOver,
    control: &mut Control<'_>,
) -> Result<BTreeMap<Place, Values>, LensError> {
    let session = exact_session(model)?;
    let selection = Selection::new(places.to_vec(), Positions::All);
    let total: usize = prompts.iter().map(Vec::len).sum();
    let mut done = 0;
    // (sum, count) by place and position, or by place alone
    let mut sums: BTreeMap<(Place, u32), (Vec<f64>, f64)> = BTreeMap::new();
    for ids in prompts {
        let one = [ids.clone()];
        let captured = part(control, (done, total), |control| capture(&session, &one, &selection, control))?;
        done += ids.len();
        for &place in captured.places() {
            for (row, of) in captured.rows().iter().enumerate() {
                let position = if over == MeanOver::Prompts { of.position as u32 } else { 0 };
                let values = captured.row(place, row).unwrap_or(&[]);
                let (sum, count) = sums.entry((place, position)).or_insert_with(|| (vec![0.0; values.len()], 0.0));
                sum.iter_mut().zip(values).for_each(|(s, &v)| *s += f64::from(v));
                *count += 1.0;
            }
        }
    }
    let mut all: BTreeMap<Place, Values> = BTreeMap::new();
    for ((place, position), (sum, count)) in sums {
        let mean: Vec<f32> = sum.into_iter().map(|s| (s / count) as f32).collect();
        match over {
            MeanOver::Tokens => drop(all.insert(place, Values::Same(mean))),
            MeanOver::Prompts => {
                if let Values::At(rows) = all.entry(place).or_insert_with(|| Values::At(BTreeMap::new())) {
                    rows.insert(position, mean);
                }
            }
        }
    }
    Ok(all)
}

/// Patches values of the prompt `source` into the prompt `base`, cell by cell.
///
/// # Errors
/// Prompts of different lengths, unless only `last` is patched; a metric whose token is outside the vocabulary; what an
/// edit or the engine refuses.
pub fn patch(
    model: &Arc<Model>,
    (source, base): (&[u32], &[u32]),
    sweep: &Sweep,
    metric: &Metric,
    control: &mut Control<'_>,
) -> Result<Swept, LensError> {
    if source.len() != base.len() && sweep.positions != Positions::Last {
        let why = format!(
            "prompts of {} and {} tokens have no common positions: give prompts of one length, or patch `last` only",
            source.len(),
            base.len()
        );
        return Err(LensError::setting("positions", &sweep.positions, why));
    }
    let session = exact_session(model)?;
    let selection = Selection::new(sweep.places.clone(), sweep.positions.clone());
    let taken = capture(&session, &[source.to_vec()], &selection, &mut reborrow(control))?;
    let source_logits = exact_session(model)?.forward(source, LogitRows::Last, &mut quiet(control))?;
    let runner = Runner::new(model, base, sweep, metric)?;
    let base_metric = metric.of(&runner.unedited, &runner.unedited);
    let source_metric = metric.of(&source_logits, &runner.unedited);
    let positions = sweep.positions.resolve(base.len())?;
    let change = |place: Place| -> Change { Change::Replace(Values::At(rows_at(&taken, place, &positions))) };
    let span = source_metric - base_metric;
    let cells = runner.run(&change, &|value| (value - base_metric) / span, control)?;
    Ok(Swept { base: base_metric, source: Some(source_metric), cells })
}

/// Ablates a prompt's activations, cell by cell.
///
/// # Errors
/// A mean that is missing for a place; as [`patch`].
pub fn ablate(
    model: &Arc<Model>,
    ids: &[u32],
    ablation: &Ablation,
    sweep: &Sweep,
    metric: &Metric,
    control: &mut Control<'_>,
) -> Result<Swept, LensError> {
    if let Ablation::Mean(means) = ablation
        && let Some(place) = sweep.places.iter().find(|p| !means.contains_key(p))
    {
        return Err(LensError::setting("mean", place, "it was not averaged"));
    }
    let runner = Runner::new(model, ids, sweep, metric)?;
    let base = metric.of(&runner.unedited, &runner.unedited);
    let change = |place: Place| ablation.change(place);
    let cells = runner.run(&change, &|value| value - base, control)?;
    Ok(Swept { base, source: None, cells })
}

impl Ablation {
    /// The change of a place; a place without a mean is left as it is.
    pub fn change(&self, place: Place) -> Change {
        match self {
            Ablation::Zero => Change::Zero,
            Ablation::Mean(means) => Change::Replace(means.get(&place).cloned().unwrap_or(Values::At(BTreeMap::new()))),
        }
    }
}

fn rows_at(captured: &Captured, place: Place, positions: &[usize]) -> BTreeMap<u32, Vec<f32>> {
    let row = |(row, &position): (usize, &usize)| Some((position as u32, captured.row(place, row)?.to_vec()));
    positions.iter().enumerate().filter_map(row).collect()
}

/// The same way to stop, without progress and hooks.
fn quiet<'c>(control: &Control<'c>) -> Control<'c> {
    Control { cancel: control.cancel, ..Control::default() }
}

/// Runs the cells of a sweep over one prompt.
struct Runner<'a> {
    model: &'a Arc<Model>,
    ids: &'a [u32],
    sweep: &'a Sweep,
    metric: &'a Metric,
    /// Logits of the last token without an edit.
    unedited: Vec<f32>,
    positions: Vec<usize>,
}

/// One cell before it has run.
struct Plan {
    places: Vec<Place>,
    head: Option<usize>,
    position: Option<usize>,
}

impl<'a> Runner<'a> {
    fn new(model: &'a Arc<Model>, ids: &'a [u32], sweep: &'a Sweep, metric: &'a Metric) -> Result<Self, LensError> {
        metric.check(model.config().vocab)?;
        if sweep.heads.is_some() && !matches!(sweep.by, By::Head | By::HeadPosition | By::Together) {
            return Err(LensError::setting("heads", "given", "they would be ignored: sweep by head, or together"));
        }
        let positions = sweep.positions.resolve(ids.len())?;
        let unedited = exact_session(model)?.forward(ids, LogitRows::Last, &mut Control::default())?;
        Ok(Runner { model, ids, sweep, metric, unedited, positions })
    }

    fn plans(&self) -> Result<Vec<Plan>, LensError> {
        let Sweep { places, heads, by, .. } = self.sweep;
        if *by == By::Together {
            return Ok(vec![Plan { places: places.clone(), head: None, position: None }]);
        }
        let mut plans = Vec::new();
        for &place in places {
            let heads: Vec<Option<usize>> = match by {
                By::Head | By::HeadPosition => {
                    let count = place.site.heads(self.model.config()).ok_or_else(|| {
                        LensError::setting(
                            "by",
                            "head",
                            format!("{place} is not made of heads; q, k, v, q_rot, k_rot and z are"),
                        )
                    })?;
                    heads.clone().unwrap_or_else(|| (0..count).collect()).into_iter().map(Some).collect()
                }
                _ => vec![None],
            };
            for head in heads {
                match by {
                    By::Position | By::HeadPosition => {
                        let one = |&position| Plan { places: vec![place], head, position: Some(position) };
                        plans.extend(self.positions.iter().map(one));
                    }
                    _ => plans.push(Plan { places: vec![place], head, position: None }),
                }
            }
        }
        Ok(plans)
    }

    /// Runs every cell. Tokens before the first edited one are read once for all cells that leave them alone.
    fn run(
        &self,
        change: &dyn Fn(Place) -> Change,
        effect: &dyn Fn(f64) -> f64,
        control: &mut Control<'_>,
    ) -> Result<Vec<Cell>, LensError> {
        let plans = self.plans()?;
        let mut order: Vec<usize> = (0..plans.len()).collect();
        let first = |plan: &Plan| plan.position.or(self.positions.first().copied()).unwrap_or(0);
        order.sort_by_key(|&i| first(&plans[i])); // stable: places keep their order
        let mut cells: Vec<Option<Cell>> = vec![None; plans.len()];
        let mut before: Session = exact_session(self.model)?;
        let total: usize = plans.iter().map(|plan| self.ids.len() - first(plan)).sum();
        let mut done = 0;
        for i in order {
            let (plan, start) = (&plans[i], first(&plans[i]));
            if start > before.seen() {
                let ids = &self.ids[before.seen()..start];
                before.forward(ids, LogitRows::None, &mut quiet(control))?;
            }
            let ids = &self.ids[start..];
            let logits = part(control, (done, total), |control| self.edited(&before, ids, plan, change, control))?;
            done += ids.len();
            let value = self.metric.of(&logits, &self.unedited);
            let place = (plan.places.len() == 1 && self.sweep.by != By::Together).then(|| plan.places[0]);
            cells[i] = Some(Cell { place, head: plan.head, position: plan.position, value, effect: effect(value) });
        }
        Ok(cells.into_iter().flatten().collect())
    }

    fn edited(
        &self,
        before: &Session,
        ids: &[u32],
        plan: &Plan,
        change: &dyn Fn(Place) -> Change,
        control: &mut Control<'_>,
    ) -> Result<Vec<f32>, LensError> {
        let heads = match (self.sweep.by, plan.head) {
            (By::Together, _) => self.sweep.heads.clone(),
            (_, head) => head.map(|head| vec![head]),
        };
        let positions = plan.position.map_or_else(|| self.positions.clone(), |position| vec![position]);
        let at = At::Some(positions.into_iter().map(|p| p as u32).collect());
        let edit = |&place: &Place| Edit { place, heads: heads.clone(), at: at.clone(), change: change(place) };
        let mut edits = Edits::new(plan.places.iter().map(edit).collect(), self.model.config())?;
        let mut fork = before.fork()?;
        let logits = {
            let mut control = reborrow(control);
            control.hooks.push(&mut edits);
            fork.forward(ids, LogitRows::Last, &mut control)?
        };
        if edits.edited() == 0 {
            let why = "no row was edited: the positions lie outside what was read".into();
            return Err(EngineError::Hook { hook: "edit".into(), why }.into());
        }
        Ok(logits)
    }
}
