//! `meden run --context FILE --conflict`: does the answer come from the document or from memory?
//!
//! Two probes of a conflict study are asked at the token before the answer. They are asked in the layout that they were
//! judged in, and what is shown of them is what they were judged at.

use std::path::{Path, PathBuf};

use meden_engine::{Hook, Session, SessionOptions};
use meden_eval::study::conflict::live::{SURE, Verdict};
use meden_eval::study::conflict::prompt::{example, prompt};
use meden_eval::study::conflict::task::Asks;
use meden_lens::probe::file::MadeOn;
use meden_lens::probe::{ProbeFile, ProbeHook};
use serde::Serialize;

use super::Args;
use crate::cli::Global;
use crate::exit::{Exit, usage};
use crate::generate::{Finish, Request, generate_watched};
use crate::load::{self, Opened};
use crate::output;
use crate::progress::say;
use crate::prompt::read_text;
use crate::shown::Shown;

/// Flags of an answer about a document.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Conflict")]
pub struct ConflictArgs {
    /// A short document to answer from, - for standard input
    #[arg(long, value_name = "FILE", requires = "conflict", conflicts_with_all = ["file", "system", "raw", "ids", "probe", "steer"])]
    context: Option<PathBuf>,
    /// Estimate whether the answer comes from the document or from memory
    #[arg(long, requires = "context")]
    pub conflict: bool,
    /// Folder of a conflict study of this model (see `meden lens conflict`); built in for the default model
    #[arg(long, value_name = "FOLDER", requires = "conflict")]
    study: Option<PathBuf>,
}

/// Probes of studies that the program carries: those of the default model, as `meden lens conflict --per-answer 2` wrote
/// them (`*.probe.json` in the folder of its facts).
const BUILT_IN: &[(&str, &str)] =
    &[(include_str!("probes/smollm2-conflict.json"), include_str!("probes/smollm2-source.json"))];
/// Tokens of a document beyond which nothing was judged: the longest contexts of the built-in data have about a hundred.
const LONGEST: usize = 120;

/// The one object of `meden run --conflict --json`.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    text: &'a str,
    ids: &'a [u32],
    prompt_tokens: usize,
    finish: Finish,
    source: Verdict,
    /// Probability that the text and memory disagree.
    conflict_probability: f64,
    /// Probability that the document wins, given that they do.
    document_probability: f64,
    /// AUROC with its interval that each was judged at: conflict, document.
    validated_auroc: [Option<[f64; 3]>; 2],
    notes: &'a [String],
}

struct Probes {
    conflict: ProbeFile,
    source: ProbeFile,
}

/// Runs the verb.
pub fn run(args: &Args, global: Global) -> anyhow::Result<Exit> {
    let Some(question) = args.prompt.as_deref().map(str::trim).filter(|p| !p.is_empty()) else {
        return Err(usage("--conflict: give the question with --prompt"));
    };
    let Some(path) = &args.conflict.context else { return Err(usage("--conflict: give the document with --context")) };
    let document = read_text(path)?;
    let document: Vec<&str> = document.split_whitespace().collect();
    if document.is_empty() {
        return Err(usage(format!("--context {}: there is nothing in it", path.display())));
    }
    let options = args.cache.session_options()?;
    if options != SessionOptions::default() {
        return Err(usage(
            "--conflict: the probes were judged with a whole f16 or f32 cache; leave the cache flags out",
        ));
    }
    let opened = load::open(&args.model, global.quiet)?;
    let tokenizer = opened.tokenizer()?;
    let asked = example(Some(&document.join(" ")), question, None);
    let longest = tokenizer.encode(&asked, true)?.len() + 512 + args.sampling.max_tokens;
    let loaded = opened.load(&options, longest.min(opened.config.context))?;
    let made_on = MadeOn::of(&opened.name(), &loaded.model);
    let probes = probes(args.conflict.study.as_deref(), &made_on)?;
    probes.conflict.check(&opened.name(), &loaded.model)?;
    probes.source.check(&opened.name(), &loaded.model)?;

    let ids = tokenizer.encode(&prompt(&probes.source.about.preamble, &asked), true)?;
    opened.check_context("the prompt", ids.len() + args.sampling.max_tokens)?;
    let mut session = Session::new(loaded.model.clone(), options)?;
    let mut request = Request::new(&ids, true, &args.sampling);
    request.stop.push("\n".to_owned());
    let mut shown = Shown::new(global);
    let [mut conflict, mut source] = [hook(&probes.conflict)?, hook(&probes.source)?];
    let mut hooks: Vec<&mut dyn Hook> = vec![&mut conflict, &mut source];
    let answer = generate_watched(&mut session, Some(tokenizer), &request, (&mut shown, &mut hooks))?;
    drop((shown, hooks));
    if answer.finish == Finish::Interrupted {
        return Ok(Exit::Interrupted);
    }
    // the last token of the prompt: what the first token of the answer is chosen from
    let at = |hook: &ProbeHook<'_>| hook.values().get(ids.len() - 1).map_or(f64::NAN, |v| v.1);
    let conflict = probes.conflict.of_score(at(&conflict));
    let wins = probes.source.of_score(at(&source));
    let notes = notes(&opened, &document, conflict)?;
    let auroc = |file: &ProbeFile| file.about.evaluation.as_ref().map(|e| [e.auroc.value, e.auroc.low, e.auroc.high]);
    let validated_auroc = [auroc(&probes.conflict), auroc(&probes.source)];
    if global.json {
        output::object(&Report {
            model: opened.name(),
            text: answer.text.trim(),
            ids: &answer.ids,
            prompt_tokens: ids.len(),
            finish: answer.finish,
            source: Verdict::of(wins),
            conflict_probability: conflict,
            document_probability: wins,
            validated_auroc,
            notes: &notes,
        })?;
        return Ok(Exit::Ok);
    }
    if !answer.text.ends_with('\n') {
        output::text("\n")?;
    }
    output::text(&words(conflict, wins, validated_auroc))?;
    notes.iter().filter(|_| !global.quiet).for_each(|n| say(&format!("note: {n}")));
    Ok(Exit::Ok)
}

fn hook(file: &ProbeFile) -> anyhow::Result<ProbeHook<'_>> {
    let place = file.about.place.place()?;
    Ok(ProbeHook::new(&file.probe, place.site, place.layer))
}

/// The probes of a study's folder, or those that the program carries for this model.
fn probes(folder: Option<&Path>, model: &MadeOn) -> anyhow::Result<Probes> {
    if let Some(folder) = folder {
        let load = |asks: Asks| ProbeFile::load(&folder.join(format!("{}.probe.safetensors", asks.name())));
        return Ok(Probes { conflict: load(Asks::Conflict)?, source: load(Asks::Source)? });
    }
    for (conflict, source) in BUILT_IN {
        let probes = Probes { conflict: serde_json::from_str(conflict)?, source: serde_json::from_str(source)? };
        if probes.source.about.model.fingerprint == model.fingerprint {
            return Ok(probes);
        }
    }
    Err(usage(format!(
        "--conflict: no probes for {} are built in; make them with `meden lens conflict --model {} --out FOLDER`, then give --study FOLDER/facts",
        model.name, model.name
    )))
}

fn notes(opened: &Opened, document: &[&str], conflict: f64) -> anyhow::Result<Vec<String>> {
    let mut notes = Vec::new();
    let tokens = opened.tokenizer()?.encode(&document.join(" "), false)?.len();
    if tokens > LONGEST {
        notes.push(format!(
            "the document has {tokens} tokens; the probes were judged on contexts of up to about {LONGEST}, so the estimate may not hold"
        ));
    }
    if conflict < 1.0 - SURE {
        notes.push(
            "document and memory seem to agree, or the fact is not known; which of them an answer comes from then says little".to_owned(),
        );
    }
    Ok(notes)
}

fn words(conflict: f64, wins: f64, auroc: [Option<[f64; 3]>; 2]) -> String {
    let judged = |auroc: Option<[f64; 3]>| {
        auroc.map_or_else(
            || "never judged".to_owned(),
            |[value, low, high]| format!("AUROC {value:.2} [{low:.2}, {high:.2}]"),
        )
    };
    let verdict = match Verdict::of(wins) {
        Verdict::Document => "from the document",
        Verdict::Memory => "from memory",
        Verdict::Unsure => "unsure",
    };
    format!(
        "source: {verdict} (p(document) {wins:.2}; {})\nconflict: p {conflict:.2} ({})\n",
        judged(auroc[1]),
        judged(auroc[0])
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use meden_lens::probe::ProbeFile;

    use super::BUILT_IN;

    #[test]
    fn probes_that_the_program_carries_are_whole_and_say_what_they_were_judged_at() {
        assert!(!BUILT_IN.is_empty());
        for (conflict, source) in BUILT_IN {
            let files = [conflict, source].map(|text| serde_json::from_str::<ProbeFile>(text).unwrap());
            assert_eq!(files[0].about.model, files[1].about.model, "two probes of one model");
            assert_eq!(files[0].about.preamble, files[1].about.preamble, "asked behind the same demonstrations");
            for file in files {
                let auroc = file.about.evaluation.as_ref().unwrap().auroc;
                assert!(auroc.low > 0.5 && auroc.low <= auroc.value && auroc.value <= auroc.high);
                assert!(file.about.calibration.is_some() && file.about.place.place().is_ok());
                let width = file.probe.weight().len();
                let p = file.probability(&vec![0.0; width]).unwrap();
                assert!((0.0..=1.0).contains(&p));
            }
        }
    }
}
