//! `meden lens` in the real binary, on tiny models and the default one.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Said, default_model, run, scratch, shared, start};
use safetensors::SafeTensors;
use serde_json::Value;

fn tiny(name: &str) -> Option<String> {
    Some(shared("oracle/tiny")?.join(name).to_str().expect("UTF-8").to_owned())
}

fn path(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

fn lens<'a>(verb: &'a str, model: &'a str, more: &[&'a str]) -> Said {
    let said = run(["lens", verb, "-m", model, "--threads", "1"].iter().chain(more));
    assert_eq!(said.code, 0, "{verb} {more:?}: {}", said.err);
    said
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).expect(name);
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4"))).collect()
}

fn integers(file: &SafeTensors<'_>, name: &str) -> Vec<i32> {
    let tensor = file.tensor(name).expect(name);
    tensor.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("4"))).collect()
}

/// Reference values of the lens, by model.
fn references() -> Vec<(String, Vec<u8>)> {
    let Some(folder) = shared("oracle/lens") else { return Vec::new() };
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let file = entry.expect("readable").path();
        let stem = file.file_stem().expect("a name").to_string_lossy().to_string();
        if let Some(model) = stem.strip_prefix("tiny-").and_then(tiny) {
            all.push((model, fs::read(file).expect("readable")));
        }
    }
    assert!(!all.is_empty(), "no reference values of tiny models");
    all
}

fn ids(file: &SafeTensors<'_>) -> String {
    integers(file, "ids").iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn capture_writes_the_reference_values_under_the_names_of_the_guide() {
    let folder = scratch("lens-capture");
    for (number, (model, bytes)) in references().into_iter().enumerate() {
        let expected = SafeTensors::deserialize(&bytes).expect("safetensors");
        let out = path(&folder.join(format!("{number}.safetensors")));
        let prompt = ids(&expected);
        let sites = "resid_pre,attn_out,resid_mid,mlp_act,mlp_out,blocks.*.hook_resid_post,hook_z,logits";
        let flags = ["--ids", &prompt, "--sites", sites, "--positions", "all", "--out", &out, "--json"];
        let said = lens("capture", &model, &flags).json();
        let written = fs::read(&out).expect("written");
        let file = SafeTensors::deserialize(&written).expect("safetensors");
        let mut compared = 0;
        for name in file.names() {
            let Ok(want) = expected.tensor(name) else { continue };
            assert_eq!(file.tensor(name).expect("there").shape(), want.shape(), "{name}");
            let pairs = floats(&file, name).into_iter().zip(floats(&expected, name));
            let off = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(off <= 2e-4, "{model} {name}: {off}");
            compared += 1;
        }
        assert!(compared >= 7 && compared + 1 == said["tensors"].as_array().expect("a list").len(), "{compared}");
        assert_eq!(integers(&file, "token"), integers(&expected, "ids"));
        assert_eq!(said["rows"], integers(&expected, "ids").len());
        // the last logits are those of a run
        let logits = floats(&file, "logits");
        let vocab = file.tensor("logits").expect("there").shape()[1];
        let best = logits[logits.len() - vocab..].iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        let wrote = run(["run", "-m", &model, "--ids", &prompt, "-n", "1", "--kv", "f32", "--threads", "1", "--json"]);
        assert_eq!(wrote.json()["ids"][0], best.expect("some").0);
    }
}

#[test]
fn many_prompts_are_read_from_lines_and_a_killed_capture_goes_on() {
    let Some(model) = tiny("llama") else { return };
    let folder = scratch("lens-prompts");
    let prompts = folder.join("prompts.jsonl");
    let line = |i: usize| {
        let ids: Vec<String> = (0..120).map(|t| (3 + (i * 31 + t * 7) % 300).to_string()).collect();
        format!("{{\"ids\": [{}]}}\n", ids.join(", "))
    };
    fs::write(&prompts, (0..400).map(line).collect::<String>()).expect("written");
    let (whole, broken) = (folder.join("whole.safetensors"), folder.join("broken.safetensors"));
    let (prompts, partial) = (path(&prompts), folder.join("broken.safetensors.partial"));
    let (whole_name, broken_name) = (path(&whole), path(&broken));
    let flags = |out: &str| -> Vec<String> {
        let flags =
            ["lens", "capture", "-m", &model, "--prompts", &prompts, "--sites", "resid_post,logits", "--out", out];
        flags.iter().chain(&["--threads", "1", "--json"]).map(|f| (*f).to_owned()).collect()
    };
    let mut child = start(flags(&broken_name));
    let begun = Instant::now();
    while !partial.exists() && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(30));
    let _ = child.kill();
    let _ = child.wait();
    let again = run(flags(&broken_name));
    assert_eq!(again.code, 0, "{}", again.err);
    let said = run(flags(&whole_name)).json();
    assert_eq!((&said["prompts"], &said["rows"]), (&400.into(), &(400 * 120).into()));
    assert_eq!(said["resumed_prompts"], 0);
    assert!(fs::read(&whole).expect("there") == fs::read(&broken).expect("there"), "the resumed file differs");
    assert!(!partial.exists());
    for (text, says) in [("{\"ids\": []}", "line 1"), ("{\"ids\": [1]}\n{nonsense", "line 2"), ("\n\n", "no prompt")] {
        let bad = folder.join("bad.jsonl");
        fs::write(&bad, text).expect("written");
        let out = path(&folder.join("x.safetensors"));
        let said = run(["lens", "capture", "-m", &model, "--prompts", &path(&bad), "--out", &out]);
        assert!(said.code == 2 || said.code == 3, "{}", said.err);
        assert!(said.complaint().contains(says), "{}", said.err);
    }
}

/// Numbers of a JSON array of rows, a row of which has the key.
fn numbers(rows: &Value, key: &str) -> Vec<f64> {
    rows.as_array().expect("rows").iter().map(|row| row[key].as_f64().expect("a number")).collect()
}

#[test]
fn lenses_attribution_patching_and_ablation_are_those_of_the_reference() {
    for (model, bytes) in references() {
        let expected = SafeTensors::deserialize(&bytes).expect("safetensors");
        let prompt = ids(&expected);
        let tokens = integers(&expected, "dla.tokens");
        let (a, b) = (format!("#{}", tokens[0]), format!("#{}", tokens[1]));
        let vocab = expected.tensor("lens.logits").expect("there").shape()[1];
        let of = |what: &str, layer: usize, token: usize| {
            f64::from(floats(&expected, &format!("{what}.logits"))[layer * vocab + tokens[token] as usize])
        };
        let near = |got: f64, want: f64, at: &str| assert!((got - want).abs() <= 1e-3, "{model} {at}: {got}, {want}");

        let asked = format!("{a},{b}");
        let said = lens("logits", &model, &["--ids", &prompt, "--tokens", &asked, "--json"]).json();
        for (layer, readings) in said["readings"].as_array().expect("places").iter().enumerate() {
            let logits = numbers(&readings[0]["tokens"], "logit");
            near(logits[0], of("lens", layer, 0), "logit lens");
            near(logits[1], of("lens", layer, 1), "logit lens");
        }
        let said = lens("attribute", &model, &["--ids", &prompt, "--a", &a, "--b", &b, "--json"]).json();
        let want: Vec<f64> = floats(&expected, "dla").into_iter().map(f64::from).collect();
        let got = numbers(&said["contributions"], "value");
        assert_eq!(got.len(), want.len());
        got.iter().zip(&want).for_each(|(got, want)| near(*got, *want, "attribution"));
        let flags = ["--ids", &prompt, "--a", &a, "--b", &b, "--sites", "attn_out", "--json"];
        let ablated = numbers(&lens("ablate", &model, &flags).json()["cells"], "value");
        let other: Vec<String> = integers(&expected, "ids_other").iter().map(i32::to_string).collect();
        let flags = ["--clean-ids", &other.join(","), "--corrupt-ids", &prompt, "--a", &a, "--b", &b, "--json"];
        let said = lens("patch", &model, &[&flags[..], &["--positions", "last"]].concat()).json();
        let patched = numbers(&said["denoise"]["cells"], "value");
        for (layer, (ablated, patched)) in ablated.iter().zip(&patched).enumerate() {
            near(*ablated, of("ablate", layer, 0) - of("ablate", layer, 1), "ablation");
            near(*patched, of("patch", layer, 0) - of("patch", layer, 1), "patching");
        }
        let said = lens("patterns", &model, &["--ids", &prompt, "--full", "--json"]).json();
        for head in said["heads"].as_array().expect("heads") {
            let (layer, number) = (head["layer"].as_u64().expect("a layer"), head["head"].as_u64().expect("a head"));
            let want = floats(&expected, &format!("{layer}.pattern"));
            let got: Vec<f64> = serde_json::from_value(head["pattern"].clone()).expect("numbers");
            let want = &want[number as usize * got.len()..(number as usize + 1) * got.len()];
            let off = got.iter().zip(want).map(|(a, &b)| (a - f64::from(b)).abs()).fold(0.0, f64::max);
            assert!(off <= 2e-4, "{model} pattern {layer} {number}: {off}");
        }
    }
}

#[test]
fn pages_stand_alone_and_show_what_was_asked() {
    let Some(model) = default_model().map(path) else { return };
    let folder = scratch("lens-pages");
    let prompt = "The capital of France is";
    let (a, b) = ("--a", "--b");
    let jobs: [(&str, &[&str], &str); 6] = [
        ("logits", &["--prompt", prompt, "--tokens", " Paris, Rome"], "·Paris"),
        ("attribute", &["--prompt", prompt, a, " Paris", b, " Rome", "--by", "head"], "23.head.4"),
        ("patterns", &["--prompt", prompt], "capital"),
        ("ablate", &["--prompt", prompt, a, " Paris", "--layers", "22-23"], "change of the metric"),
        ("stats", &["--prompt", prompt], "kurtosis"),
        (
            "patch",
            &[
                "--clean",
                prompt,
                "--corrupt",
                "The capital of Italy is",
                a,
                " Paris",
                b,
                " Rome",
                "--by",
                "position",
                "--layers",
                "20-25",
            ],
            "·Italy",
        ),
    ];
    for (verb, flags, shows) in jobs {
        let page = folder.join(format!("{verb}.html"));
        let page_name = path(&page);
        let said = lens(verb, &model, &[flags, &["--html", &page_name]].concat());
        assert!(!said.out.is_empty() && said.err.contains("page: "), "{verb}: {}", said.err);
        let html = fs::read_to_string(&page).expect("written");
        assert!(html.starts_with("<!doctype html>") && html.contains(shows), "{verb} does not show {shows}");
        for outside in ["http:", "https:", "<script src", "@import", "url("] {
            assert!(!html.contains(outside), "{verb}: {outside}");
        }
    }
    // a prompt that is markup stays text
    let page = folder.join("evil.html");
    let page_name = path(&page);
    let evil = "</script><img src=x onerror=alert(1)>";
    for verb in ["logits", "patterns", "attribute"] {
        lens(verb, &model, &["--prompt", evil, "--html", &page_name]);
        let html = fs::read_to_string(&page).expect("written");
        assert!(!html.contains("<img"), "{verb}");
    }
}

#[test]
fn the_model_knows_paris_and_the_lenses_say_where() {
    let Some(model) = default_model().map(path) else { return };
    let prompt = "The capital of France is";
    let said = lens("logits", &model, &["--prompt", prompt, "--tokens", " Paris", "--json"]).json();
    let ranks: Vec<u64> = said["readings"]
        .as_array()
        .expect("places")
        .iter()
        .map(|r| r[0]["tokens"][0]["rank"].as_u64().expect("a rank"))
        .collect();
    assert_eq!(*ranks.last().expect("layers"), 1);
    assert!(ranks[0] > 100, "{ranks:?}");
    let last = &said["readings"][ranks.len() - 1][0];
    assert_eq!((&last["kl"], &last["js"]), (&0.0.into(), &0.0.into()));
    let said = lens("attribute", &model, &["--prompt", prompt, "--a", " Paris", "--b", " Rome", "--json"]).json();
    let (sum, own) = (said["total"].as_f64().expect("a sum"), said["model_value"].as_f64().expect("a difference"));
    assert!((sum - own).abs() < 0.05 * own.abs(), "{sum} {own}");
    let patch = ["--clean", prompt, "--corrupt", "The capital of Italy is", "--a", " Paris", "--b", " Rome"];
    let said =
        lens("patch", &model, &[&patch[..], &["--layers", "29", "--direction", "both", "--json"]].concat()).json();
    for direction in ["denoise", "noise"] {
        let effect = said[direction]["cells"][0]["effect"].as_f64().expect("an effect");
        assert!((effect - 1.0).abs() < 1e-3, "{direction}: {effect}");
    }
}

#[test]
fn a_tuned_lens_is_trained_saved_and_looked_through() {
    let Some(model) = default_model().map(path) else { return };
    let folder = scratch("lens-tune");
    let (text, out) = (folder.join("text.txt"), path(&folder.join("tuned.safetensors")));
    let book = include_str!("../assets/pride-and-prejudice-1-3.txt");
    fs::write(&text, book).expect("written");
    let flags =
        ["--text", &path(&text), "--out", &out, "--window", "64", "--tokens", "1024", "--ridges", "0.1", "--json"];
    let said = lens("tune", &model, &flags).json();
    let layers = said["layers"].as_array().expect("layers");
    let mean = |key: &str| layers.iter().map(|l| l[key].as_f64().expect("KL")).sum::<f64>() / layers.len() as f64;
    assert!(mean("kl_tuned") < 0.5 * mean("kl_logit_lens"), "{} {}", mean("kl_tuned"), mean("kl_logit_lens"));
    let said = lens("logits", &model, &["--prompt", "It is a truth universally", "--lens", &out, "--json"]).json();
    assert_eq!(said["lens"], "tuned lens");
    let Some(other) = tiny("llama") else { return };
    let said = run(["lens", "logits", "-m", &other, "--ids", "1,2,3", "--lens", &out]);
    assert_eq!(said.code, 3, "{}", said.err);
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() {
    let Some(model) = tiny("llama") else { return };
    let out = path(&scratch("lens-refusals").join("x.safetensors"));
    let cases: [(&[&str], i32, &str); 16] = [
        (&["capture", "--ids", "1,2"], 2, "--out"),
        (&["capture", "--ids", "1,2", "--out", &out, "--sites", "resid_pots"], 2, "resid_post"),
        (&["capture", "--ids", "1,2", "--out", &out, "--layers", "9"], 2, "layers 0 to 3"),
        (&["capture", "--ids", "1,2", "--out", &out, "--positions", "5"], 2, "2 tokens"),
        (&["capture", "--ids", "1,2", "--out", &out, "--positions", "none"], 2, "generate"),
        (&["capture", "--ids", "1,2", "--out", &out, "--dtype", "f64"], 2, "bf16"),
        (&["capture", "--ids", "1,2", "--out", &out, "--seed", "1"], 2, "--generate"),
        (&["capture", "--prompt", "x", "--out", &out], 3, "tokenizer.json"),
        (&["logits", "--ids", "1,2", "--tokens", "Paris"], 2, "#42"),
        (&["logits", "--ids", "1,2", "--sites", "z"], 2, "logit lens reads"),
        (&["logits", "--ids", "1,2,999999"], 2, "999999"),
        (&["attribute", "--ids", "1,2", "--b", "#3"], 2, "--a"),
        (&["patch", "--clean-ids", "1,2", "--corrupt-ids", "1,2,3", "--a", "#3"], 2, "one length"),
        (&["ablate", "--ids", "1,2", "--sites", "z", "--by", "head", "--heads", "9"], 2, "query heads"),
        (&["ablate", "--ids", "1,2", "--with", "mean"], 2, "--reference"),
        (&["patterns", "--ids", "1,2", "--sort", "colour"], 2, "induction"),
    ];
    for (args, code, says) in cases {
        let said = run(["lens", args[0], "-m", &model].into_iter().chain(args[1..].iter().copied()));
        assert_eq!(said.code, code, "{args:?}: {}", said.err);
        assert!(said.complaint().contains(says), "{args:?}: {}", said.err);
        assert_eq!(said.out, "", "{args:?}");
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn statistics_of_a_file_are_those_of_its_prompt() {
    let Some(model) = tiny("qwen3") else { return };
    let out = path(&scratch("lens-stats").join("a.safetensors"));
    lens("capture", &model, &["--ids", "1,2,3,4,5", "--out", &out]);
    let file = run(["lens", "stats", "--from", &out, "--json"]).json();
    let direct = lens("stats", &model, &["--ids", "1,2,3,4,5", "--json"]).json();
    assert_eq!(file["places"], direct["places"]);
    let mean = &direct["places"][0]["mean"];
    for name in ["kurtosis", "hoyer", "gini", "gini_code", "l1", "l2", "participation"] {
        assert!(mean[name].is_f64(), "{name} is missing: {mean}");
    }
    let said = run(["lens", "stats", "--from", &out, "--layers", "0"]);
    assert_eq!(said.code, 2, "{}", said.err);
    let said = run(["lens", "sites", "-m", &model, "--layers", "all", "--json"]).json();
    let names: Vec<&str> =
        said["sites"].as_array().expect("a list").iter().map(|s| s["name"].as_str().expect("a name")).collect();
    assert!(names.contains(&"3.resid_post") && names.contains(&"logits"), "{names:?}");
}
