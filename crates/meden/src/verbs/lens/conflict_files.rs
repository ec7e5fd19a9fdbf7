//! What a conflict study leaves beside its report: everything as JSON, the curves as CSV, a summary for the terminal.

use std::fmt::Write as _;
use std::path::Path;

use meden_eval::study::conflict::findings::{Holds, figure};
use meden_eval::study::conflict::results::Results;
use meden_lens::probe::{Estimate, ProbeFile};
use meden_report::Table;

use super::input::write_page;

/// Writes `results.json`, the CSV files, and each saved probe as JSON (the form that the program carries) into a folder.
pub fn write(folder: &Path, results: &Results) -> anyhow::Result<()> {
    write_page(&folder.join("results.json"), &format!("{}\n", serde_json::to_string_pretty(results)?))?;
    for live in &results.live {
        let probe = ProbeFile::load(&folder.join(&live.file))?;
        let name = Path::new(&live.file).with_extension("json");
        write_page(&folder.join(name), &format!("{}\n", serde_json::to_string(&probe)?))?;
    }
    for (name, text) in [
        ("probes.csv", probes(results)),
        ("spreads.csv", spreads(results)),
        ("tug.csv", tug(results)),
        ("heads.csv", heads(results)),
        ("steering.csv", steering(results)),
        ("paper.csv", paper(results)),
    ] {
        // a header alone says nothing
        if text.lines().count() > 1 {
            write_page(&folder.join(name), &text)?;
        }
    }
    Ok(())
}

fn three(e: &Estimate) -> String {
    format!("{},{},{}", e.value, e.low, e.high)
}

fn probes(r: &Results) -> String {
    let mut out = String::from("question,site,layer,contexts");
    for name in ["auroc", "average_precision", "auprc_trapezoid", "accuracy", "balanced_accuracy"] {
        let _ = write!(out, ",{name},{name}_low,{name}_high");
    }
    out.push_str(",shuffled_low,shuffled_high,prevalence,rows\n");
    for q in &r.questions {
        for p in &q.places {
            for (contexts, e) in [("seen", &p.of.seen), ("held_out", &p.of.held_out)] {
                let _ = write!(out, "{},{},{},{contexts}", q.asks.name(), p.site, p.layer);
                let figures = [&e.auroc, &e.average_precision, &e.auprc_trapezoid, &e.accuracy, &e.balanced_accuracy];
                for figure in figures {
                    let _ = write!(out, ",{}", three(figure));
                }
                let chance = e.auroc_of_shuffled_labels;
                let _ = writeln!(out, ",{},{},{},{}", chance.low, chance.high, e.prevalence, e.rows);
            }
        }
    }
    out
}

fn spreads(r: &Results) -> String {
    let mut out = String::from(
        "site,layer,measure,context,context_low,context_high,memory,memory_low,memory_high,auroc,auroc_low,auroc_high,\
         facts_larger,facts_smaller,p,p_holm\n",
    );
    for place in &r.spreads {
        for (name, s) in &place.of.measures {
            let _ = writeln!(
                out,
                "{},{},{name},{},{},{},{},{},{},{}",
                place.site,
                place.layer,
                three(&s.context),
                three(&s.memory),
                three(&s.auroc),
                s.facts[0],
                s.facts[1],
                s.p,
                s.p_holm
            );
        }
    }
    out
}

fn tug(r: &Results) -> String {
    let mut out = String::from("layer,answer,won_by,logprob,logprob_low,logprob_high,median_rank,margin_auroc\n");
    for (layer, t) in r.tug.iter().enumerate() {
        for (answer, logprobs, ranks) in
            [("context", &t.context, &t.context_rank), ("memory", &t.memory, &t.memory_rank)]
        {
            for (class, won) in ["memory", "context"].into_iter().enumerate() {
                let (e, rank) = (three(&logprobs[class]), ranks[class]);
                let _ = writeln!(out, "{layer},{answer},{won},{e},{rank},{}", t.margin.value);
            }
        }
    }
    out
}

fn heads(r: &Results) -> String {
    let mut out = String::from("layer,head,won_by,contribution,low,high\n");
    for head in &r.heads {
        for (class, won) in ["memory", "context"].into_iter().enumerate() {
            let _ = writeln!(out, "{},{},{won},{}", head.layer, head.head, three(&head.mean[class]));
        }
    }
    out
}

fn steering(r: &Results) -> String {
    let mut out = String::from("strength,layer,conflict_auroc,kurtosis,context,memory,neither,prompts\n");
    for arm in r.steering.iter().flat_map(|s| &s.arms) {
        for (layer, (auroc, kurtosis)) in arm.conflict_auroc.iter().zip(&arm.kurtosis).enumerate() {
            let [c, m, n] = arm.shares;
            let _ = writeln!(out, "{},{layer},{auroc},{kurtosis},{c},{m},{n},{}", arm.strength, arm.prompts);
        }
    }
    out
}

fn paper(r: &Results) -> String {
    let mut out =
        String::from("site,layer,accuracy,accuracy_sd,auroc,auroc_sd,auprc_trapezoid,auprc_trapezoid_sd,prevalence\n");
    for p in &r.paper {
        let (a, b, c) = (p.of.accuracy, p.of.auroc, p.of.auprc_trapezoid);
        let _ = writeln!(
            out,
            "{},{},{},{},{},{},{},{},{}",
            p.site, p.layer, a[0], a[1], b[0], b[1], c[0], c[1], p.of.prevalence
        );
    }
    out
}

/// A word for a verdict.
pub fn verdict(holds: Holds) -> &'static str {
    match holds {
        Holds::Yes => "holds",
        Holds::No => "does not hold",
        Holds::Unclear => "unclear",
    }
}

/// The summary for a terminal.
pub fn summary(r: &Results) -> String {
    let mut out = format!(
        "{}: {} of {} facts known, {} tested, {} answers\n\n",
        r.settings.data,
        r.memory.iter().map(|m| m.known).sum::<usize>(),
        r.memory.iter().map(|m| m.facts).sum::<usize>(),
        r.plan.facts,
        r.plan.answers
    );
    if !r.questions.is_empty() {
        let mut table = Table::new(["question", "layers", "AUROC", "contexts held out", "facts"]);
        for q in &r.questions {
            let mut layers = q.choice.layers.clone();
            layers.dedup();
            let layers: Vec<String> = layers.iter().map(usize::to_string).collect();
            let (seen, held) = (figure(&q.choice.seen.auroc), figure(&q.choice.held_out.auroc));
            let facts = format!("{} / {}", q.facts[0], q.facts[1]);
            table.row([q.asks.name().to_owned(), layers.join(","), seen, held, facts]);
        }
        let _ = writeln!(out, "{table}");
    }
    for f in &r.findings {
        let _ = writeln!(out, "- {}: {}\n  {}", f.claim, verdict(f.holds), f.because);
    }
    out.push('\n');
    out
}
