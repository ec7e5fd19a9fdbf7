//! Figures of probes: by layer and place, beside their controls and beside what needs no probe.

use meden_engine::Site;
use meden_eval::study::conflict::findings::figure;
use meden_eval::study::conflict::results::{Question, Results};
use meden_lens::probe::Estimate;
use meden_report::html::Page;
use meden_report::svg::{Bar, BarChart};

use super::{SITES, chance, chart, series};

pub(super) fn probes(page: &mut Page, r: &Results, q: &Question) {
    let of = |site: Site, f: fn(&meden_lens::probe::Evaluation) -> Estimate, held: bool| {
        let places = q.places.iter().filter(move |p| p.place.site == site);
        places.map(move |p| (p.layer, f(if held { &p.of.held_out } else { &p.of.seen })))
    };
    let lines = |f: fn(&meden_lens::probe::Evaluation) -> Estimate, held: bool| {
        SITES.map(|(site, name)| series(name, of(site, f, held))).to_vec()
    };
    let sub = "exact probe, cross-fitted over answers; whiskers: 95%, answers drawn";
    let mut charts = vec![
        chance(chart("AUROC", sub, "AUROC", lines(|e| e.auroc, false))),
        chance(chart("AUROC, contexts held out", sub, "AUROC", lines(|e| e.auroc, true))),
        chance(chart("Balanced accuracy", sub, "share", lines(|e| e.balanced_accuracy, false))),
        chart("Area under precision and recall (trapezoid)", sub, "area", lines(|e| e.auprc_trapezoid, false)).svg(),
    ];
    if !r.paper.is_empty() {
        let prevalence = r.paper[0].of.prevalence;
        let sub = format!(
            "the paper's training and split, mean ± sd of {} seeds; prevalence {prevalence:.2}",
            r.settings.paper_seeds
        );
        type Pick = fn(&meden_eval::study::conflict::paper::Seeds) -> [f64; 2];
        let kinds: [(&str, Pick); 3] = [
            ("ACC, as in the paper", |s| s.accuracy),
            ("AUROC, as in the paper", |s| s.auroc),
            ("AUPRC, as in the paper", |s| s.auprc_trapezoid),
        ];
        for (title, pick) in kinds {
            let line = |(site, name): (Site, &str)| {
                let points = r.paper.iter().filter(|p| p.place.site == site).map(|p| {
                    let [mean, sd] = pick(&p.of);
                    (p.layer, Estimate { value: mean, low: mean - sd, high: mean + sd })
                });
                series(name, points)
            };
            charts.push(chart(title, &sub, "", SITES.map(line).to_vec()).svg());
        }
    }
    page.figures(&charts);
    controls(page, q);
}

fn controls(page: &mut Page, q: &Question) {
    let mut bars = vec![
        bar("probe, chosen layers", &q.choice.seen.auroc, 0),
        bar("probe, contexts held out", &q.choice.held_out.auroc, 0),
    ];
    bars.extend(q.within_relation.iter().map(|e| bar("probe, pairs of one relation", e, 0)));
    bars.extend(q.by_lambda.iter().map(|(l, e)| bar(&format!("penalty {l:e}"), e, 1)));
    bars.extend(q.controls.iter().map(|c| bar(c.kind.words(), &c.evaluation.auroc, 2)));
    let chart = BarChart {
        title: "The probe and its controls: AUROC".into(),
        subtitle: format!(
            "layers {:?} chosen on training folds; penalties and controls at layer {}",
            q.choice.layers, q.choice.layer
        ),
        bars,
        ..BarChart::default()
    };
    page.figures(&[chart.svg()]);
    let rows: Vec<Vec<String>> = q
        .controls
        .iter()
        .map(|c| {
            let i = c.evaluation.auroc_of_shuffled_labels;
            let verdict = match c.passes {
                Some(true) => "as chance",
                Some(false) => "NOT as chance",
                None => "a reference, no control",
            };
            let within = format!("{:.2} to {:.2}", i.low, i.high);
            vec![c.kind.words().to_owned(), figure(&c.evaluation.auroc), within, verdict.to_owned()]
        })
        .collect();
    page.table(&["control", "AUROC", "labels that say nothing", ""], &rows, 1);
}

fn bar(name: &str, e: &Estimate, group: usize) -> Bar {
    Bar { name: name.to_owned(), value: e.value, interval: Some((e.low, e.high)), group }
}

pub(super) fn both(r: &Results, conflict: &Question, source: &Question) -> String {
    let stream = |q: &Question| {
        let of = q.places.iter().filter(|p| p.place.site == Site::ResidPost);
        of.map(|p| (p.layer, p.of.seen.auroc)).collect::<Vec<_>>().into_iter()
    };
    let mut lines = vec![series("conflict", stream(conflict)), series("source", stream(source))];
    if !r.tug.is_empty() {
        lines.push(series("source, lens margin", r.tug.iter().enumerate().map(|(l, t)| (l, t.margin))));
    }
    let sub = r.order.as_ref().map_or_else(String::new, |o| {
        let [value, low, high] = o.difference;
        format!("peak of the source less peak of conflict: {value:.0} layers [{low:.0}, {high:.0}]")
    });
    chance(chart("Probes on the stream", &sub, "AUROC", lines))
}

pub(super) fn predictors(page: &mut Page, q: &Question) {
    controls(page, q);
    let rows: Vec<Vec<String>> =
        q.baselines.iter().map(|b| vec![b.name.clone(), figure(&b.evaluation.auroc), figure(&b.lead)]).collect();
    page.table(&["predictor without a probe", "AUROC", "lead of the probe"], &rows, 1);
}
