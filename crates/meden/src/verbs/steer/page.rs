//! The report of `meden steer eval`, as a table and as a page.

use std::io::Write;
use std::path::Path;

use meden_eval::study::steer::summary::Share;
use meden_files::AtomicFile;
use meden_report::html::Page;
use meden_report::{Align, Table};

use super::compare::Report;

fn percent(x: f64) -> String {
    if x.is_nan() { "-".into() } else { format!("{:.1}", 100.0 * x) }
}

fn interval(share: &Share) -> String {
    format!("{} [{}, {}]", percent(share.value), percent(share.low), percent(share.high))
}

/// One line an arm, in percent.
pub fn table(report: &Report<'_>) -> Table {
    let head =
        ["", "text", "memory", "neither", "text±", "memory±", "T→M", "M→T", "closed", "agree", "KL", "prose", "|dh|"];
    let mut table = Table::new(head).align(0, Align::Left);
    for arm in report.arms {
        let (row, damage) = (&arm.row, &arm.damage);
        table.row([
            row.arm.as_str(),
            &percent(row.context.value),
            &percent(row.memory.value),
            &percent(row.neither.value),
            &interval(&row.context_change),
            &interval(&row.memory_change),
            &percent(row.switched[0]),
            &percent(row.switched[1]),
            &percent(damage.closed),
            &percent(damage.agreeing),
            &if damage.kl.is_nan() { "-".into() } else { format!("{:.3}", damage.kl) },
            &damage.prose.map_or("-".into(), |p| format!("{p:.3}")),
            &format!("{:.2}", row.relative),
        ]);
    }
    table
}

/// Writes the page.
pub fn write(path: &Path, report: &Report<'_>) -> anyhow::Result<()> {
    let lead = format!(
        "{}; layers {:?}; {} prompts that followed the text and {} that did not were collected",
        report.model, report.layers, report.rows_collected[0], report.rows_collected[1]
    );
    let mut page = Page::new("Steering between text and memory", &lead);
    page.paragraph(
        "Known facts are asked with a text that says otherwise. Every edit was fitted on four folds of answers and tested \
         on the fifth, with a context that no edit was fitted on. Percent; intervals are 95% over answers as clusters.",
    );
    page.list(&[
        format!("demonstrations of the tested prompts: {}", report.demos),
        format!("how edits were fitted: {}", serde_json::to_string(report.options)?),
        "T→M: of the prompts that followed the text, the share that follows memory under the edit; M→T the other way round"
            .into(),
        "closed, agree: known facts that are right without a text, and with a text that agrees".into(),
        "KL: of the first token, closed book, nats; prose: perplexity of 32 tokens behind an edited one over that without"
            .into(),
        "|dh|: length of the edit over that of the row, summed over layers".into(),
    ]);
    let head = [
        "arm",
        "prompts",
        "answers",
        "from the text",
        "from memory",
        "neither",
        "change, text",
        "change, memory",
        "p, text",
        "p, memory",
        "T→M",
        "M→T",
        "T kept",
        "M kept",
        "leaning, nats",
        "closed",
        "agree",
        "KL",
        "prose",
        "|dh|",
    ];
    let rows: Vec<Vec<String>> = report
        .arms
        .iter()
        .map(|arm| {
            let (r, d) = (&arm.row, &arm.damage);
            vec![
                r.arm.clone(),
                r.prompts.to_string(),
                r.clusters.to_string(),
                interval(&r.context),
                interval(&r.memory),
                interval(&r.neither),
                interval(&r.context_change),
                interval(&r.memory_change),
                format!("{:.2e}", r.p[0]),
                format!("{:.2e}", r.p[1]),
                percent(r.switched[0]),
                percent(r.switched[1]),
                percent(r.kept[0]),
                percent(r.kept[1]),
                format!("{:+.3}", r.leaning),
                percent(d.closed),
                percent(d.agreeing),
                if d.kl.is_nan() { "-".into() } else { format!("{:.4}", d.kl) },
                d.prose.map_or("-".into(), |p| format!("{p:.4}")),
                format!("{:.3}", r.relative),
            ]
        })
        .collect();
    page.table(&head, &rows, 1);
    let mut file = AtomicFile::create(path)?;
    file.write_all(page.finish().as_bytes())?;
    Ok(file.commit()?)
}
