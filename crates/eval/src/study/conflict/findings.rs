//! Which of the paper's findings hold here, each in a sentence with its figures.

use meden_engine::Site;
use meden_lens::probe::Estimate;
use serde::Serialize;

use super::controls::all_pass;
use super::plan::ENOUGH;
use super::results::{Question, Results};
use super::task::Asks;

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// The data do not say.
    Unclear,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What is claimed.
    pub claim: String,
    /// Whether it holds.
    pub holds: Holds,
    /// The figures that say so.
    pub because: String,
}

/// AUROC that counts as a success.
pub const SUCCESS: f64 = 0.75;
/// Share of the depth that counts as "first layers".
const EARLY: f64 = 0.1;
const LEVEL: f64 = 0.05;

/// `.81 [.78, .84]`.
pub fn figure(e: &Estimate) -> String {
    format!("{:.2} [{:.2}, {:.2}]", e.value, e.low, e.high)
}

/// What the results come to. Nothing is claimed of fewer facts than [`ENOUGH`].
pub fn findings(r: &Results) -> Vec<Finding> {
    let mut all = vec![premise(r)];
    if r.plan.underpowered {
        all.push(Finding {
            claim: "underpowered".into(),
            holds: Holds::Unclear,
            because: format!("{} facts are tested; nothing is claimed of fewer than {ENOUGH}", r.plan.facts),
        });
        return all;
    }
    let of = |asks: Asks| r.questions.iter().find(|q| q.asks == asks);
    if let Some(conflict) = of(Asks::Conflict) {
        all.push(success(conflict, "a probe on the stream tells conflict from no conflict before anything is written"));
        all.push(rise(conflict));
        all.push(best_site(conflict));
        all.extend(late_decline(conflict));
    }
    if let Some(source) = of(Asks::Source) {
        all.push(success(source, "a probe on the stream tells which source will win"));
        all.push(beats(source));
    }
    all.extend(order(r));
    all.extend(tails(r));
    all.extend(steering(r));
    all
}

fn premise(r: &Results) -> Finding {
    let shares: Vec<String> = r
        .premise
        .shares
        .iter()
        .map(|s| {
            let of = |v: [f64; 3]| format!("{:.0}", 100.0 * v[0]);
            format!(
                "{}: context {}%, memory {}%, neither {}%",
                s.demos.words(),
                of(s.context),
                of(s.memory),
                of(s.neither)
            )
        })
        .collect();
    Finding {
        claim: "under conflict the model often follows the text and often does not".into(),
        holds: if r.premise.holds { Holds::Yes } else { Holds::No },
        because: format!("{} facts; {}", r.premise.facts, shares.join("; ")),
    }
}

fn success(q: &Question, claim: &str) -> Finding {
    let area = &q.choice.seen.auroc;
    let pass = all_pass(&q.controls, &q.choice.seen);
    let controls: Vec<String> = q
        .controls
        .iter()
        .map(|c| {
            let verdict = match c.passes {
                Some(true) => ", as chance",
                Some(false) => ", NOT as chance",
                None => "",
            };
            format!("{} {:.2}{verdict}", c.kind.words(), c.evaluation.auroc.value)
        })
        .collect();
    Finding {
        claim: format!("{claim}: AUROC of at least {SUCCESS}, layer chosen on training folds, above every control"),
        holds: if area.value >= SUCCESS && pass { Holds::Yes } else { Holds::No },
        because: format!(
            "AUROC {} at layers {:?} of {}; on contexts held out {}; controls at layer {}: {}",
            figure(area),
            q.choice.layers,
            depth(q),
            figure(&q.choice.held_out.auroc),
            q.choice.layer,
            controls.join(", ")
        ),
    }
}

fn depth(q: &Question) -> usize {
    q.places.iter().map(|p| p.layer + 1).max().unwrap_or(0)
}

/// AUROCs of a site, layer by layer.
fn areas(q: &Question, site: Site) -> Vec<(usize, Estimate)> {
    q.places.iter().filter(|p| p.place.site == site).map(|p| (p.layer, p.of.seen.auroc)).collect()
}

fn best(areas: &[(usize, Estimate)]) -> Option<(usize, Estimate)> {
    areas.iter().copied().reduce(|best, a| if a.1.value > best.1.value { a } else { best })
}

fn rise(q: &Question) -> Finding {
    let stream = areas(q, Site::ResidPost);
    let early: Vec<&(usize, Estimate)> =
        stream.iter().filter(|(l, _)| (*l as f64) < EARLY * stream.len() as f64).collect();
    let first = early.iter().map(|(_, e)| e.value).sum::<f64>() / early.len().max(1) as f64;
    let peak = best(&stream);
    let (layer, top) = peak.map_or((0, f64::NAN), |(l, e)| (l, e.value));
    // a tenth of the way to the peak in the first layers would be a signal there already
    let absent = first < 0.5 + 0.1 * (top - 0.5).max(0.0) + 0.02;
    Finding {
        claim: "the conflict signal is absent in the first layers and rises to its peak in the middle".into(),
        holds: if absent && layer > 0 && layer + 1 < stream.len() { Holds::Yes } else { Holds::No },
        because: format!(
            "mean AUROC of the first {} layers {first:.2}; peak {top:.2} at layer {layer} of {}",
            early.len(),
            stream.len()
        ),
    }
}

fn best_site(q: &Question) -> Finding {
    let tops: Vec<(Site, (usize, Estimate))> =
        super::activations::SITES.into_iter().filter_map(|site| Some((site, best(&areas(q, site))?))).collect();
    let stream = tops.iter().find(|t| t.0 == Site::ResidPost).map_or(f64::NAN, |t| t.1.1.value);
    let others = tops.iter().filter(|t| t.0 != Site::ResidPost).map(|t| t.1.1.value).fold(f64::NAN, f64::max);
    let parts: Vec<String> =
        tops.iter().map(|(site, (layer, e))| format!("{} {} at layer {layer}", site.name(), figure(e))).collect();
    Finding {
        claim: "the whole stream is the best site".into(),
        holds: if stream > others { Holds::Yes } else { Holds::No },
        because: parts.join(", "),
    }
}

fn late_decline(q: &Question) -> Option<Finding> {
    let drop_of = |site: Site| {
        let all = areas(q, site);
        let (_, top) = best(&all)?;
        let last = all.last()?.1;
        Some(top.value - last.value)
    };
    let drops = super::activations::SITES.map(drop_of);
    let [stream, attention, mlp] = [drops[0]?, drops[1]?, drops[2]?];
    Some(Finding {
        claim: "behind the peak the sublayers' outputs decline more than the stream".into(),
        holds: if attention > stream && mlp > stream { Holds::Yes } else { Holds::No },
        because: format!(
            "AUROC falls from its peak to the last layer by {stream:.2} in the stream, {attention:.2} in attn_out, \
             {mlp:.2} in mlp_out"
        ),
    })
}

fn beats(q: &Question) -> Finding {
    let parts: Vec<String> = q
        .baselines
        .iter()
        .map(|b| format!("{} {}, lead {}", b.name, figure(&b.evaluation.auroc), figure(&b.lead)))
        .collect();
    let ahead = q.baselines.iter().all(|b| b.lead.low > 0.0);
    let behind = q.baselines.iter().any(|b| b.lead.high < 0.0);
    Finding {
        claim: "the source probe beats predictors that need no probe".into(),
        holds: if ahead {
            Holds::Yes
        } else if behind {
            Holds::No
        } else {
            Holds::Unclear
        },
        because: format!("probe {}; {}", figure(&q.choice.seen.auroc), parts.join("; ")),
    }
}

fn order(r: &Results) -> Option<Finding> {
    let order = r.order.as_ref()?;
    let [value, low, high] = order.difference;
    Some(Finding {
        claim: "detection comes before decision: the source signal peaks in a later layer than the conflict signal"
            .into(),
        holds: if low > 0.0 {
            Holds::Yes
        } else if high < 0.0 {
            Holds::No
        } else {
            Holds::Unclear
        },
        because: format!(
            "peaks at layer {:.0} [{:.0}, {:.0}] and {:.0} [{:.0}, {:.0}]; difference {value:.0} [{low:.0}, {high:.0}]",
            order.conflict[0], order.conflict[1], order.conflict[2], order.source[0], order.source[1], order.source[2]
        ),
    })
}

/// Layers of a site where a measure parts the sources by the sign test after Holm: (larger with the text, smaller).
fn split_layers(r: &Results, site: Site, measure: &str) -> (Vec<usize>, Vec<usize>) {
    let mut larger = Vec::new();
    let mut smaller = Vec::new();
    for place in r.spreads.iter().filter(|p| p.place.site == site) {
        let Some(s) = place.of.measures.get(measure) else { continue };
        if s.p_holm < LEVEL {
            if s.facts[0] > s.facts[1] { &mut larger } else { &mut smaller }.push(place.layer);
        }
    }
    (larger, smaller)
}

fn tails(r: &Results) -> Vec<Finding> {
    if r.spreads.is_empty() {
        return Vec::new();
    }
    let words = |site: Site, measure: &str| {
        let (larger, smaller) = split_layers(r, site, measure);
        format!("{} {measure}: larger with the text in layers {larger:?}, smaller in {smaller:?}", site.name())
    };
    let any = |site: Site, measure: &str| {
        let (larger, smaller) = split_layers(r, site, measure);
        !larger.is_empty() || !smaller.is_empty()
    };
    let heavy = ["kurtosis", "hoyer", "gini"];
    let later_half = |layers: &[usize]| layers.iter().filter(|l| 2 * **l >= r.layers).count();
    let all_heavier = heavy.iter().all(|m| {
        let (larger, smaller) = split_layers(r, Site::ResidPost, m);
        later_half(&larger) > 0 && later_half(&smaller) == 0
    });
    let join = |sites: &[Site], measures: &[&str]| {
        let parts: Vec<String> = sites.iter().flat_map(|s| measures.iter().map(|m| words(*s, m))).collect();
        format!("sign test over facts, Holm over layers, 5%; {}", parts.join("; "))
    };
    let sublayers = [Site::AttnOut, Site::MlpOut];
    let none = |sites: &[Site], measures: &[&str]| !sites.iter().any(|s| measures.iter().any(|m| any(*s, m)));
    let yes = |b: bool| if b { Holds::Yes } else { Holds::No };
    vec![
        Finding {
            claim: "in later layers the stream has heavier tails when the answer follows the text".into(),
            holds: yes(all_heavier),
            because: join(&[Site::ResidPost], &heavy),
        },
        Finding {
            claim: "outputs of attention and feed-forward show no such split".into(),
            holds: yes(none(&sublayers, &heavy)),
            because: join(&sublayers, &heavy),
        },
        Finding {
            claim: "norms of the stream show no split".into(),
            holds: yes(none(&[Site::ResidPost], &["l1", "l2"])),
            because: join(&[Site::ResidPost], &["l1", "l2"]),
        },
    ]
}

fn steering(r: &Results) -> Option<Finding> {
    let steering = r.steering.as_ref()?;
    let none = steering.arms.iter().find(|a| a.strength == 0.0)?;
    let strongest = |sign: f64| {
        let side = steering.arms.iter().filter(move |a| a.strength * sign > 0.0);
        side.max_by(|a, b| a.strength.abs().total_cmp(&b.strength.abs()))
    };
    let (up, down) = (strongest(1.0)?, strongest(-1.0)?);
    // two points' worth of prompts is noise; ten points are the study's measure of a real shift
    let moved = up.shares[0] - none.shares[0] >= 0.1 || down.shares[1] - none.shares[1] >= 0.1;
    let arm = |a: &super::steer::Arm| {
        let [c, m, n] = a.shares.map(|s| format!("{:.0}", 100.0 * s));
        format!("strength {}: context {c}%, memory {m}%, neither {n}%", a.strength)
    };
    let arms: Vec<String> = steering.arms.iter().map(arm).collect();
    Some(Finding {
        claim: "pushing the stream along the difference of means moves answers by ten points or more".into(),
        holds: if moved { Holds::Yes } else { Holds::No },
        because: format!("{} prompts, layer {}; {}", none.prompts, steering.layer, arms.join("; ")),
    })
}
