//! The page of `meden lens conflict`: the paper's figures, redrawn from one's own model.

mod probes;

use meden_engine::Site;
use meden_eval::study::conflict::findings::{Holds, figure};
use meden_eval::study::conflict::results::Results;
use meden_eval::study::conflict::task::Asks;
use meden_lens::probe::Estimate;
use meden_report::html::{Page, escape};
use meden_report::svg::{HeatMap, LineChart, Series, Unit};

use super::conflict_files::verdict;
use probes::{both, predictors, probes};

const SITES: [(Site, &str); 3] =
    [(Site::ResidPost, "stream"), (Site::MlpOut, "feed-forward"), (Site::AttnOut, "attention")];
const STYLE: &str = "\
.finding{display:grid;grid-template-columns:110px 1fr;gap:4px 12px;margin:10px 0;max-width:100ch}\
.finding b{font-weight:600}.finding .because{grid-column:2;color:#5f6368;font-size:13px}\
.yes{color:#00704a}.no{color:#a33a00}.unclear{color:#5f6368}";

/// The page of one or more data sets.
pub fn page(model: &str, studies: &[Results]) -> String {
    let lead = "Where in the depth a model notices that a text contradicts what it knows, and where it decides which to \
                follow; after arXiv 2410.16090";
    let mut page = Page::new("Knowledge conflicts", &format!("{model}. {lead}"));
    page.style(STYLE);
    for (number, results) in studies.iter().enumerate() {
        study(&mut page, results, number);
    }
    page.finish()
}

fn study(page: &mut Page, r: &Results, number: usize) {
    page.heading(&format!("Data: {}", r.settings.data));
    about(page, r);
    page.heading("What holds");
    for f in &r.findings {
        let class = match f.holds {
            Holds::Yes => "yes",
            Holds::No => "no",
            Holds::Unclear => "unclear",
        };
        page.raw(&format!(
            "<div class=\"finding\"><b class=\"{class}\">{}</b><span>{}</span><span class=\"because\">{}</span></div>",
            escape(verdict(f.holds)),
            escape(&f.claim),
            escape(&f.because)
        ));
    }
    behaviour(page, r);
    let of = |asks: Asks| r.questions.iter().find(|q| q.asks == asks);
    if let Some(conflict) = of(Asks::Conflict) {
        // the paper draws its second data set as figure 2
        let name = if number == 0 { "Figure 1" } else { "Figure 2" };
        page.heading(&format!("{name}. Is there a conflict? A probe at every layer and site"));
        probes(page, r, conflict);
    }
    if !r.spreads.is_empty() {
        page.heading("Figure 3. How the stream is spread when the text wins and when memory wins");
        page.figures(&["kurtosis", "hoyer", "gini"].map(|m| spread(r, Site::ResidPost, m)));
        page.heading("Figure 4. The same for what attention and feed-forward add");
        let both = [Site::AttnOut, Site::MlpOut];
        let charts: Vec<String> =
            both.iter().flat_map(|s| ["kurtosis", "hoyer", "gini"].map(|m| spread(r, *s, m))).collect();
        page.figures(&charts);
        page.heading("Figure 5. Norms of the stream");
        page.figures(&["l1", "l2"].map(|m| spread(r, Site::ResidPost, m)));
        without(page, r);
    }
    if let (Some(conflict), Some(source)) = (of(Asks::Conflict), of(Asks::Source)) {
        page.heading("Figure 6. Detecting a conflict, and which source will win");
        page.figures(&[both(r, conflict, source)]);
        predictors(page, source);
    }
    if let Some(steering) = &r.steering {
        page.heading(&format!(
            "Figure 7. Pushing the stream of layer {} along the difference of means",
            steering.layer
        ));
        steered(page, r);
    }
    if !r.tug.is_empty() {
        page.heading("Figure 8. The two answers through the logit lens");
        tug(page, r);
    }
    if !r.heads.is_empty() {
        page.heading("Figure 9. Heads that write the text's answer, and memory's");
        heads(page, r);
    }
    if !r.live.is_empty() {
        live(page, r);
    }
}

fn about(page: &mut Page, r: &Results) {
    let known: usize = r.memory.iter().map(|m| m.known).sum();
    let all: usize = r.memory.iter().map(|m| m.facts).sum();
    let least = |v: Option<f64>| v.map_or_else(|| "none".to_owned(), |v| format!("{v:.2}"));
    page.paragraph(&format!(
        "{known} of {all} facts are known closed book (two of three wordings right); {} are tested, with {} answers, in \
         five folds. False answers are true answers of other facts of the same fold: {:.0}% have as many tokens, their \
         median closed-book rank is {:.0}, and {:.0}% of answers are false exactly twice as often as true.",
        r.plan.facts,
        r.plan.answers,
        100.0 * r.matching.same_tokens,
        r.matching.median_rank,
        100.0 * r.matching.balanced
    ));
    page.paragraph(&format!(
        "Said before the prompts were read: with so many facts, the smallest AUROC that is told from chance (two-sided \
         5%, power 80%) is {} for conflict and {} for the source.",
        least(r.plan.least_conflict_auroc),
        least(r.plan.least_source_auroc)
    ));
    if r.plan.underpowered {
        page.paragraph("Underpowered: fewer than 150 facts are tested, so nothing is claimed.");
    }
}

fn percent(v: f64) -> String {
    format!("{:.0}%", 100.0 * v)
}

fn behaviour(page: &mut Page, r: &Results) {
    page.heading("What the model answers under conflict");
    let shares = if r.shares.is_empty() { &r.premise.shares } else { &r.shares };
    let cell = |v: [f64; 3]| format!("{} [{}, {}]", percent(v[0]), percent(v[1]), percent(v[2]));
    let rows: Vec<Vec<String>> = shares
        .iter()
        .map(|s| {
            let words = s.demos.words().to_owned();
            vec![words, s.prompts.to_string(), cell(s.context), cell(s.memory), cell(s.neither)]
        })
        .collect();
    page.table(&["demonstrations", "prompts", "the text", "memory", "neither"], &rows, 1);
    let of = |name: &str| r.by_relation.iter().find(|s| s.relation == name);
    let rows: Vec<Vec<String>> = r
        .memory
        .iter()
        .map(|m| {
            let mut row = vec![m.relation.clone(), m.facts.to_string(), m.known.to_string(), m.tested.to_string()];
            row.extend(of(&m.relation).map_or([const { String::new() }; 3], |s| s.shares.map(percent)));
            row
        })
        .collect();
    page.table(&["relation", "facts", "known", "tested", "the text", "memory", "neither"], &rows, 1);
}

fn series(name: &str, points: impl Iterator<Item = (usize, Estimate)>) -> Series {
    let points: Vec<(usize, Estimate)> = points.collect();
    Series {
        name: name.to_owned(),
        points: points.iter().map(|(l, e)| (*l as f64, e.value)).collect(),
        intervals: points.iter().map(|(_, e)| (e.low, e.high)).collect(),
    }
}

fn chart(title: &str, subtitle: &str, y: &str, series: Vec<Series>) -> LineChart {
    LineChart {
        title: title.to_owned(),
        subtitle: subtitle.to_owned(),
        x_name: "layer".into(),
        y_name: y.into(),
        dots: true,
        series,
        ..LineChart::default()
    }
}

fn chance(mut chart: LineChart) -> String {
    chart.level = Some((0.5, "chance".into()));
    chart.svg()
}

fn spread(r: &Results, site: Site, measure: &str) -> String {
    let of = || r.spreads.iter().filter(move |p| p.place.site == site);
    let pick = |context: bool| {
        of().filter_map(move |p| {
            let s = p.of.measures.get(measure)?;
            Some((p.layer, if context { s.context } else { s.memory }))
        })
    };
    let parted: Vec<String> = of()
        .filter(|p| p.of.measures.get(measure).is_some_and(|s| s.p_holm < 0.05))
        .map(|p| p.layer.to_string())
        .collect();
    let subtitle = if parted.is_empty() {
        "no layer parts the two (sign test over facts, Holm, 5%)".to_owned()
    } else {
        format!("layers that part the two (sign test over facts, Holm, 5%): {}", parted.join(", "))
    };
    let lines = vec![series("text wins", pick(true)), series("memory wins", pick(false))];
    chart(&format!("{measure} of {site}"), &subtitle, measure, lines).svg()
}

/// Whether an effect is only that of a few massive channels.
fn without(page: &mut Page, r: &Results) {
    let stream: Vec<_> = r.spreads.iter().filter(|p| p.place.site == Site::ResidPost).collect();
    let Some(first) = stream.first() else { return };
    let mut lines = vec![series(
        "all channels",
        stream.iter().filter_map(|p| Some((p.layer, p.of.measures.get("kurtosis")?.auroc))),
    )];
    for (i, (left_out, _)) in first.of.kurtosis_without.iter().enumerate() {
        let points = stream.iter().filter_map(|p| Some((p.layer, p.of.kurtosis_without.get(i)?.1)));
        lines.push(series(&format!("without {left_out}"), points));
    }
    let five = series("five measures, regression", stream.iter().map(|p| (p.layer, p.of.together)));
    let sub = "within folds and kinds of demonstrations";
    page.figures(&[
        chance(chart("Kurtosis as a predictor of the source, massive channels left out", sub, "AUROC", lines)),
        chance(chart("All five measures as a predictor", sub, "AUROC", vec![five])),
    ]);
}

fn steered(page: &mut Page, r: &Results) {
    let Some(s) = &r.steering else { return };
    let strongest = |sign: f64| {
        let side = s.arms.iter().filter(move |a| a.strength * sign > 0.0);
        side.max_by(|a, b| a.strength.abs().total_cmp(&b.strength.abs()))
    };
    let none = s.arms.iter().find(|a| a.strength == 0.0);
    let arms = [("none", none), ("to the text", strongest(1.0)), ("to memory", strongest(-1.0))];
    let lines = |f: fn(&meden_eval::study::conflict::steer::Arm) -> &Vec<f64>| {
        let line = |(name, arm): &(&str, Option<&meden_eval::study::conflict::steer::Arm>)| {
            let arm = (*arm)?;
            let points = f(arm).iter().enumerate().map(|(l, &v)| (l as f64, v)).collect();
            Some(Series { name: format!("{name} ({})", arm.strength), points, intervals: Vec::new() })
        };
        arms.iter().filter_map(line).collect::<Vec<_>>()
    };
    let sub = "pushed conflicts against true contexts that were not pushed";
    page.figures(&[
        chance(chart("Conflict probe under a push", sub, "AUROC", lines(|a| &a.conflict_auroc))),
        chart("Kurtosis under a push", "mean over prompts", "kurtosis", lines(|a| &a.kurtosis)).svg(),
    ]);
    let rows: Vec<Vec<String>> = s
        .arms
        .iter()
        .map(|a| {
            let mut row = vec![format!("{}", a.strength), a.prompts.to_string()];
            row.extend(a.shares.map(percent));
            row
        })
        .collect();
    page.table(&["strength", "prompts", "the text", "memory", "neither"], &rows, 0);
}

fn tug(page: &mut Page, r: &Results) {
    let line = |name: &str, f: &dyn Fn(&meden_eval::study::conflict::tug::Tug) -> Estimate| {
        series(name, r.tug.iter().enumerate().map(|(l, t)| (l, f(t))))
    };
    let logprobs = vec![
        line("text's answer, text wins", &|t| t.context[1]),
        line("memory's, text wins", &|t| t.memory[1]),
        line("text's answer, memory wins", &|t| t.context[0]),
        line("memory's, memory wins", &|t| t.memory[0]),
    ];
    let rank = |name: &str, f: &dyn Fn(&meden_eval::study::conflict::tug::Tug) -> f64| Series {
        name: name.to_owned(),
        points: r.tug.iter().enumerate().map(|(l, t)| (l as f64, f(t).log10())).collect(),
        intervals: Vec::new(),
    };
    let ranks = vec![
        rank("text's answer, text wins", &|t| t.context_rank[1]),
        rank("memory's, text wins", &|t| t.memory_rank[1]),
        rank("text's answer, memory wins", &|t| t.context_rank[0]),
        rank("memory's, memory wins", &|t| t.memory_rank[0]),
    ];
    page.figures(&[
        chart("Log-probability of the first tokens", "nats; whiskers 95%", "log p", logprobs).svg(),
        chart("Median rank of the first tokens", "1 is the likeliest", "log10 of the rank", ranks).svg(),
    ]);
}

fn heads(page: &mut Page, r: &Results) {
    let heads = 1 + r.heads.iter().map(|h| h.head).max().unwrap_or(0);
    let map = |class: usize, title: &str| {
        let mut rows = vec![vec![f64::NAN; heads]; r.layers];
        r.heads.iter().for_each(|h| rows[h.layer][h.head] = h.mean[class].value);
        HeatMap {
            title: title.to_owned(),
            subtitle: "mean contribution to logit(text's answer) - logit(memory's answer)".into(),
            x_name: "head".into(),
            y_name: "layer".into(),
            unit: Unit::Plain,
            range: None,
            rows,
        }
        .svg()
    };
    page.figures(&[map(1, "Prompts that the text wins"), map(0, "Prompts that memory wins")]);
    let mut order: Vec<usize> = (0..r.heads.len()).collect();
    order.sort_by(|&a, &b| {
        let mean = |i: usize| r.heads[i].mean[0].value + r.heads[i].mean[1].value;
        mean(b).total_cmp(&mean(a))
    });
    let row = |&i: &usize| {
        let h = &r.heads[i];
        vec![format!("{}.{}", h.layer, h.head), figure(&h.mean[1]), figure(&h.mean[0])]
    };
    let most = 8.min(order.len() / 2);
    let header = ["head (layer.head)", "text wins", "memory wins"];
    page.paragraph("Heads that write most for the text's answer:");
    page.table(&header, &order.iter().take(most).map(row).collect::<Vec<_>>(), 1);
    page.paragraph("Heads that write most for memory's answer:");
    page.table(&header, &order.iter().rev().take(most).map(row).collect::<Vec<_>>(), 1);
}

fn live(page: &mut Page, r: &Results) {
    page.heading("Probes for live use");
    page.paragraph(
        "Trained on all facts; figures are those of cross-fitted scores on prompts with agreeing demonstrations. A verdict \
         is given from a probability of 80% on.",
    );
    let rows: Vec<Vec<String>> = r
        .live
        .iter()
        .map(|l| {
            let of = |[said, right]: [usize; 2]| format!("{right} of {said} right");
            vec![
                l.file.clone(),
                figure(&l.evaluation.auroc),
                format!("{:.3}", l.calibration_error),
                of(l.verdicts.document),
                of(l.verdicts.memory),
                l.verdicts.unsure.to_string(),
            ]
        })
        .collect();
    page.table(
        &["file", "AUROC", "calibration error", "conflict / document", "no conflict / memory", "unsure"],
        &rows,
        1,
    );
}
