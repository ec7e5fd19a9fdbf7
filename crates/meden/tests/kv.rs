//! `meden kv` in the real binary, on tiny models and files of its own.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Said, run, scratch, shared, start};
use serde_json::Value;

fn tiny(name: &str) -> Option<String> {
    Some(shared("oracle/tiny")?.join(name).to_str().expect("UTF-8").to_owned())
}

fn path(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_plan_is_what_a_run_then_measures() {
    for family in ["llama", "gemma3", "mistral-sliding"] {
        let Some(model) = tiny(family) else { return };
        for (budget, schedule) in
            [("40%", "prefill_end"), ("48", "prefill_chunk:16,decode_every:4"), ("128KiB", "prefill_end")]
        {
            let flags =
                ["--press", "knorm", "--kv-budget", budget, "--sinks", "2", "--recents", "8", "--schedule", schedule];
            let flags = flags.into_iter().chain(["--skip-layers", "0"]);
            let plan = ["kv", "plan", "-m", &model, "--json", "--context", "200", "--decode", "5", "--kv", "q8"];
            let plan = run(plan.into_iter().chain(flags.clone()));
            assert_eq!(plan.code, 0, "{}", plan.err);
            let plan = plan.json();
            let row = &plan["rows"][1];
            let ids: Vec<String> = (0..200).map(|i| (3 + i % 300).to_string()).collect();
            let ids = ids.join(",");
            // the last token that is written is not read back
            let real = ["run", "-m", &model, "--ids", &ids, "-n", "6", "--json", "--kv", "q8"];
            let real = run(real.into_iter().chain(flags));
            if family == "mistral-sliding" {
                assert_ne!(real.code, 0, "all its layers slide");
                assert!(row["refused"].as_str().expect("a reason").contains("sliding"), "{row}");
                continue;
            }
            assert_eq!(real.code, 0, "{}", real.err);
            let cache = &real.json()["cache"];
            for name in [
                "seen",
                "kv_bytes",
                "page_bytes",
                "metadata_bytes",
                "dense_bytes",
                "peak_page_bytes",
                "kept_tokens_mean",
            ] {
                assert_eq!(row[name], cache[name], "{family} {budget} {schedule}: {name}");
            }
        }
    }
}

#[test]
fn a_plan_is_a_table_and_refuses_nonsense() {
    let Some(model) = tiny("llama") else { return };
    let said = run(["kv", "plan", "-m", &model, "--context", "100,300", "--kv", "f16,q8"]);
    assert!(said.code == 0 && said.out.contains("dense") && said.out.contains("knorm"), "{}", said.out);
    assert!(said.out.matches("12.5%").count() >= 4, "{}", said.out);
    for (flags, says) in [
        (vec!["--context", "0"], "--context"),
        (vec!["--context", "100000"], "context of 512"),
        (vec!["--kv-budget", "nothing"], "KV budget"),
        (vec!["--press", "nothing"], "knorm"),
    ] {
        let said = run(["kv", "plan", "-m", &model].into_iter().chain(flags));
        assert!(said.code == 2 || said.code == 6, "{}", said.err);
        assert!(said.complaint().contains(says), "{}", said.err);
    }
}

#[test]
fn presses_names_every_press_with_its_parameters() {
    let said = run(["kv", "presses", "--json"]).json();
    let presses = said["presses"].as_array().expect("a list");
    assert!(presses.len() >= 4);
    let Some(model) = tiny("llama") else { return };
    for press in presses {
        let name = press["name"].as_str().expect("a name");
        if press["needs"].is_null() || press["own_budget"] == true {
            continue;
        }
        let mut spec = press["parameters"].clone();
        spec["kind"] = name.into();
        // what is listed can be typed
        let plan =
            ["kv", "plan", "-m", &model, "--context", "200", "--schedule", "prefill_end", "--skip-layers", "none"];
        let said = run(plan.into_iter().chain(["--press", &spec.to_string(), "--json"]));
        assert_eq!(said.code, 0, "{name}: {}", said.err);
    }
    assert!(run(["kv", "presses"]).out.contains("2406.11430"));
}

fn sweep_flags(model: &str, out: &Path) -> Vec<String> {
    let out = path(out);
    let flags = [
        "kv",
        "sweep",
        "-m",
        model,
        "--tasks",
        "continuation,passkey",
        "--lengths",
        "350",
        "--press",
        "knorm,streaming_llm",
        "--ratios",
        "0.5,0.9",
        "--items",
        "3",
        "--sinks",
        "2",
        "--recents",
        "8",
        "--out",
        &out,
    ];
    flags.iter().map(|f| (*f).to_owned()).collect()
}

#[test]
fn a_sweep_writes_results_and_a_page_and_a_second_one_measures_nothing() {
    let Some(model) = tiny("llama") else { return };
    let out = scratch("sweep");
    let flags = sweep_flags(&model, &out);
    let said = run(flags.iter().cloned().chain(["--json".into(), "--quiet".into()]));
    assert_eq!(said.code, 0, "{}", said.err);
    let report = said.json();
    assert_eq!(report["done"]["measured"], 2 * 3 * 5);
    assert_eq!(report["lines"].as_array().expect("lines").len(), 2 * 5);
    let results = fs::read_to_string(out.join("results.jsonl")).expect("results");
    assert_eq!(results.lines().count(), 30);
    for line in results.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(line["kv_bytes"].as_u64().expect("bytes") > 0 && line["kept_tokens"].as_f64().expect("kept") > 0.0);
    }
    let page = fs::read_to_string(out.join("report.html")).expect("a page");
    assert!(page.contains("<svg") && page.contains("knorm") && page.contains("passkey") && !page.contains("NaN"));
    let again = run(flags.iter().cloned().chain(["--markdown".into()]));
    assert_eq!(again.code, 0, "{}", again.err);
    assert!(again.err.contains("measured 0, 30 were there already"), "{}", again.err);
    assert!(again.out.lines().filter(|l| l.starts_with("| ")).count() >= 11, "{}", again.out);
    assert_eq!(fs::read_to_string(out.join("results.jsonl")).expect("results"), results);
}

#[test]
fn a_killed_sweep_goes_on_where_it_was_and_says_what_it_dropped() {
    let Some(model) = tiny("llama") else { return };
    let out = scratch("sweep-killed");
    let file = out.join("results.jsonl");
    let mut flags = sweep_flags(&model, &out);
    let whole = scratch("sweep-whole");
    let said = run(sweep_flags(&model, &whole));
    assert_eq!(said.code, 0, "{}", said.err);
    let lines = |folder: &Path| {
        let text = fs::read_to_string(folder.join("results.jsonl")).expect("results");
        let mut lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        lines.iter_mut().for_each(|l| drop(l.as_object_mut().expect("an object").remove("press_ms")));
        lines
    };
    let mut child = start(flags.clone());
    let begun = Instant::now();
    while fs::metadata(&file).map_or(0, |m| m.len()) < 1500 && begun.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    // what a kill in the middle of a line leaves
    let text = fs::read_to_string(&file).expect("results");
    let cut = text.trim_end().len() - 10;
    fs::write(&file, &text[..cut]).expect("writable");
    flags.push("--json".into());
    let said = run(flags);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("cut short"), "{}", said.err);
    assert!(said.json()["done"]["skipped"].as_u64().expect("a count") > 0);
    assert_eq!(lines(&out), lines(&whole), "the same results as in one go");
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_a_sweep_with_code_10_and_whole_lines() {
    let Some(model) = tiny("llama") else { return };
    let out = scratch("sweep-ctrl-c");
    let mut flags = sweep_flags(&model, &out);
    flags.extend(["--seeds", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20"].map(str::to_owned));
    let child = start(flags);
    let file = out.join("results.jsonl");
    let begun = Instant::now();
    while fs::metadata(&file).map_or(0, |m| m.len()) < 1500 && begun.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let killed =
        std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let said = Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, 10, "{}", said.err);
    assert!(said.err.contains("the same command goes on"), "{}", said.err);
    let text = fs::read_to_string(file).expect("results");
    assert!(text.ends_with('\n') && text.lines().all(|l| serde_json::from_str::<Value>(l).is_ok()));
}

#[test]
fn a_results_file_of_something_else_is_refused_with_its_line() {
    let Some(model) = tiny("llama") else { return };
    let out = scratch("sweep-foreign");
    fs::write(out.join("results.jsonl"), "{\"a\": 1}\n").expect("writable");
    let said = run(sweep_flags(&model, &out).into_iter().chain(["--quiet".to_owned()]));
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.complaint().contains("line 1"), "{}", said.err);
    assert_eq!(fs::read_to_string(out.join("results.jsonl")).expect("readable"), "{\"a\": 1}\n");
}

#[test]
fn show_tells_which_tokens_stay_and_writes_a_page() {
    let Some(model) = tiny("gemma3") else { return };
    let page = path(&scratch("show").join("kept.html"));
    let base = ["kv", "show", "-m", &model, "--tokens", "200", "--html", &page, "--kv-budget", "25%"];
    let base = base.into_iter().chain(["--recents", "8", "--skip-layers", "none"]);
    let said = run(base.clone().chain(["--json"]));
    assert_eq!(said.code, 0, "{}", said.err);
    let report = said.json();
    let share: Vec<f64> = serde_json::from_value(report["kept"]["share"].clone()).expect("shares");
    assert_eq!(share.len(), 200);
    assert!(share[..4].iter().chain(&share[192..]).all(|s| *s > 0.999), "sinks and recents stay: {share:?}");
    let kept = share.iter().sum::<f64>();
    assert!((kept - 50.0).abs() < 1e-6, "a quarter of the text over all heads: {kept}");
    assert_eq!(report["kept"]["sliding"].as_array().expect("a list").len(), 6);
    let html = fs::read_to_string(&page).expect("a page");
    assert!(html.contains("id=\"map\"") && html.matches("<span style").count() == 200);
    let plain = run(base.clone().chain(["--color", "never"]));
    assert!(!plain.out.contains('\u{1b}') && plain.out.contains("slides"), "{}", plain.out);
    assert!(run(base.chain(["--color", "always"])).out.contains("\u{1b}[38;5;16;48;5;"));
}

#[test]
fn alr_maps_every_press_and_needs_a_token_more_than_it_reads() {
    let Some(model) = tiny("llama") else { return };
    let page = path(&scratch("alr").join("alr.html"));
    let said =
        run(["kv", "alr", "-m", &model, "--tokens", "150", "--html", &page, "--press", "knorm,random", "--json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let maps = said.json()["maps"].clone();
    assert_eq!(maps.as_array().expect("maps").len(), 2);
    assert_eq!(maps[0]["alr"].as_array().expect("layers").len(), 4);
    assert_eq!(fs::read_to_string(&page).expect("a page").matches("<svg").count(), 2);
    let text = path(&scratch("alr-text").join("short.txt"));
    fs::write(&text, "short").expect("writable");
    let said = run(["kv", "alr", "-m", &model, "--text", &text, "--html", &page]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.complaint().contains("5 tokens"), "{}", said.err);
}

#[test]
fn tune_meets_its_goal_or_says_what_it_would_take() {
    let Some(model) = tiny("llama") else { return };
    let base = ["kv", "tune", "-m", &model, "--length", "200", "--items", "2", "--sinks", "2", "--recents", "8"];
    let base = base.into_iter().chain(["--ratios", "0.25,0.5,0.75"]);
    let near = run(base.clone().chain(["--max-kl", "10", "--json"]));
    assert_eq!(near.code, 0, "{}", near.err);
    let near = near.json();
    let least = near["tried"].as_array().expect("lines").iter().filter_map(|l| l["kv_bytes"].as_f64());
    let least = least.fold(f64::INFINITY, f64::min);
    assert_eq!(near["chosen"]["kv_bytes"].as_f64(), Some(least), "under a wide limit the smallest wins");
    let flags = near["flags"].as_str().expect("flags").to_owned();
    let ids: Vec<String> = (0..200).map(|i| (3 + i % 300).to_string()).collect();
    let ids = ids.join(",");
    let words: Vec<&str> = flags.split_whitespace().map(|w| w.trim_matches('\'')).collect();
    let said = run(["run", "-m", &model, "--ids", &ids, "-n", "1", "--json"].into_iter().chain(words));
    assert_eq!(said.code, 0, "the flags can be typed: {flags}: {}", said.err);
    let strict = run(base.clone().chain(["--max-kl", "1e-12", "--json"])).json();
    assert_eq!(strict["chosen"]["press"], Value::Null, "only the dense cache is that near");
    let budget = format!("{}B", least as u64 - 1);
    let said = run(base.clone().chain(["--budget", &budget, "--quiet"]));
    assert_eq!(said.code, 5, "{}", said.err);
    assert!(said.complaint().contains("--ratios"), "{}", said.err);
    assert_eq!(run(base.chain(["--budget", "25%"])).code, 2);
}

#[test]
fn a_saved_document_answers_as_if_it_had_just_been_read() {
    let Some(model) = tiny("llama") else { return };
    let folder = scratch("save");
    let (text, file) = (path(&folder.join("text.txt")), path(&folder.join("text.kv")));
    fs::write(&text, "The quick brown fox jumps over the lazy dog. ".repeat(5)).expect("writable");
    let flags = ["--kv-budget", "50%", "--recents", "8", "--schedule", "prefill_end"];
    let said = run(["kv", "save", "-m", &model, "-f", &text, "-o", &file, "--json"].into_iter().chain(flags));
    assert_eq!(said.code, 0, "{}", said.err);
    let saved = said.json();
    assert!(saved["cache"]["evicted"].as_u64().expect("a count") > 0);
    let ask = ["kv", "load", "-m", &model, &file, "--prompt", "Who jumps?", "-n", "5", "--json"];
    let (first, second) = (run(ask), run(ask));
    assert_eq!(first.code, 0, "{}", first.err);
    let (first, second) = (first.json(), second.json());
    assert_eq!(first["ids"], second["ids"], "asking changes nothing");
    assert_eq!(first["document_tokens"], saved["tokens"]);
    let Some(other) = tiny("llama3-rope") else { return };
    let said = run(["kv", "load", "-m", &other, &file, "--prompt", "Who?"]);
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.complaint().contains("another model"), "{}", said.err);
}

#[test]
fn kvzip_is_told_what_to_repeat_in_every_verb_that_takes_a_press() {
    let Some(model) = tiny("llama") else { return };
    let folder = scratch("repeat");
    let [text, html, cache, sweep] = ["text.txt", "page.html", "text.kv", "sweep"].map(|name| path(&folder.join(name)));
    fs::write(&text, "The quick brown fox jumps over the lazy dog. ".repeat(4)).expect("writable");
    let budget = ["--press", "kvzip", "--kv-budget", "50%", "--recents", "8"];
    let show = ["kv", "show", "-m", &model, "--text", &text, "--tokens", "150", "--html", &html];
    let save = ["kv", "save", "-m", &model, "-f", &text, "-o", &cache];
    for verb in [&show[..], &save[..]] {
        let said = run(verb.iter().chain(&budget).copied().chain(["--json"]));
        assert_eq!(said.code, 0, "{verb:?}: {}", said.err);
        assert!(said.json()["cache"]["evicted"].as_u64().expect("a count") > 0, "{verb:?}");
        assert!(said.err.contains("kvzip reads the text again"), "{verb:?}: {}", said.err);
    }
    let flags = ["--press", "knorm,kvzip", "--tasks", "passkey,capped", "--lengths", "350", "--ratios", "0.5"];
    let said = run(["kv", "sweep", "-m", &model, "--items", "1", "--recents", "8", "--out", &sweep]
        .into_iter()
        .chain(flags)
        .chain(["--markdown"]));
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("kvzip reads the text again"), "{}", said.err);
    assert!(said.err.contains("left out of capped") && said.out.contains("| kvzip |"), "{}{}", said.err, said.out);
}

#[test]
fn what_is_calibrated_is_taken_by_its_press() {
    let Some(model) = tiny("llama") else { return };
    let folder = scratch("calibrate");
    let text = path(&folder.join("text.txt"));
    fs::write(&text, "The quick brown fox jumps over the lazy dog, and then over the moon. ".repeat(20))
        .expect("writable");
    let ids: Vec<String> = (0..450).map(|i| (3 + i * 7 % 300).to_string()).collect();
    let ids = ids.join(",");
    let made = |press: &str, field: &str| {
        let out = path(&folder.join(press));
        let base = ["kv", "calibrate", "-m", &model, "--text", &text, "--press", press, "--out", &out];
        let said = run(base.into_iter().chain(["--sequence", "100", "--json"]));
        assert_eq!(said.code, 0, "{press}: {}", said.err);
        assert_eq!(said.json()["press"], press);
        format!("{press}({field}={out})")
    };
    let recipes = [
        ("expected_attention_stats", "file", "25%"),
        ("qfilter", "file", "25%"),
        ("kvzap", "file", "25%"),
        ("duo_attention", "pattern", "press"),
    ];
    for (press, field, budget) in recipes {
        let spec = made(press, field);
        let base = ["run", "-m", &model, "--ids", &ids, "-n", "4", "--json", "--press", &spec, "--kv-budget", budget];
        let said = run(base);
        assert_eq!(said.code, 0, "{press}: {}", said.err);
        assert!(said.json()["cache"]["evicted"].as_u64().expect("a count") > 0, "{press}");
    }
}

/// A browser that can be run without a window, or a printed line and `None`.
fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = names.into_iter().find(|name| {
        let mut command = std::process::Command::new(name);
        command.arg("--version").stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.status().is_ok_and(|s| s.success())
    });
    if found.is_none() {
        println!("skipped: no Chromium here");
    }
    found
}

/// The document as the browser has it after its scripts ran, and what it wrote to its console.
fn opened(browser: &str, page: &Path) -> (String, Vec<String>) {
    let profile = scratch("browser-profile");
    let output = std::process::Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"])
        .args(["--virtual-time-budget=3000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let console = said.lines().filter(|l| l.contains("CONSOLE")).map(str::to_owned).collect();
    (String::from_utf8_lossy(&output.stdout).into_owned(), console)
}

#[test]
fn pages_open_in_a_browser_without_an_error_and_their_scripts_run() {
    let (Some(browser), Some(model)) = (browser(), tiny("gemma3")) else { return };
    let folder = scratch("pages");
    let broken = folder.join("broken.html");
    fs::write(&broken, "<script>nothing.here()</script>").expect("writable");
    let (_, console) = opened(browser, &broken);
    assert!(!console.is_empty(), "an error in a script is seen by this test");

    let [show, alr] = ["show.html", "alr.html"].map(|name| path(&folder.join(name)));
    let said = run(["kv", "show", "-m", &model, "--tokens", "200", "--html", &show, "--kv-budget", "50%"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let said = run(["kv", "alr", "-m", &model, "--tokens", "150", "--html", &alr]);
    assert_eq!(said.code, 0, "{}", said.err);
    let said = run(sweep_flags(&model, &folder));
    assert_eq!(said.code, 0, "{}", said.err);
    for page in ["show.html", "alr.html", "report.html"] {
        let (document, console) = opened(browser, &folder.join(page));
        assert!(console.is_empty(), "{page}: {console:?}");
        assert!(document.contains("</html>"), "{page}: {document}");
        if page == "show.html" {
            assert!(document.contains("all pressed layers</option>"), "the script filled the list of layers");
            assert!(document.contains("title=\"token 0, kept by 2 of 2 heads\""), "gemma3 has one full layer");
        }
    }
}
