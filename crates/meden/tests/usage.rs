//! What the program says before any model is needed: help, exit codes, errors, completions.
#![allow(clippy::unwrap_used)]

mod common;

use common::{run, run_with, scratch};

#[test]
fn without_arguments_it_shows_two_examples_and_fails_as_wrong_usage() {
    let said = run::<&str>([]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("meden demo") && said.err.contains("meden run --prompt"), "{}", said.err);
    assert!(said.err.lines().count() < 40, "it fits on a screen");
}

#[test]
fn help_names_every_verb_and_every_exit_code() {
    let said = run(["--help"]);
    assert_eq!(said.code, 0);
    for verb in [
        "demo",
        "run",
        "chat",
        "tokenize",
        "inspect",
        "pull",
        "quantize",
        "eval",
        "kv",
        "lens",
        "probe",
        "sae",
        "steer",
        "vision",
        "bench",
        "completions",
        "man",
    ] {
        assert!(said.out.contains(&format!("  {verb} ")), "{verb} is missing");
        let own = run([verb, "--help"]);
        assert_eq!(own.code, 0);
        assert!(own.out.contains("--json"), "{verb} has no --json");
    }
    for code in [0, 1, 2, 3, 4, 5, 6, 10] {
        assert!(said.out.lines().any(|l| l.trim_start().starts_with(&format!("{code}  "))), "{code} is missing");
    }
    assert_eq!(run(["--version"]).out.trim(), concat!("meden ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_one_line_with_the_tip_and_code_2() {
    for (args, word) in [
        (&["run", "--pormpt", "x"][..], "--prompt"),
        (&["run", "--prompt", "x", "--kv-budget", "101%"], "25%"),
        (&["run", "--prompt", "x", "--press", "knorm"], "--kv-budget"),
        (&["run", "--prompt", "x", "--kv-budget", "64", "--press", "nonsense"], "streaming_llm"),
        (&["run", "--prompt", "x", "--kv-budget", "64", "--skip-layers", "a"], "0,1"),
        (&["run", "--prompt", "x", "--logprobs", "3"], "--json"),
        (&["run", "--prompt", "x", "--isa", "sse9"], "avx2"),
        (&["nonsense"], "meden --help"),
        (&["eval", "perplexity"], "--file"),
        (&["demo", "--depth", "101"], "100"),
        (&["man", "nonsense"], "tokenize"),
        (&["completions", "nonsense"], "bash"),
    ] {
        let said = run(args);
        assert_eq!(said.code, 2, "{args:?}: {}", said.err);
        assert!(said.complaint().contains(word), "{args:?}: {}", said.err);
        assert_eq!(said.out, "", "{args:?}");
    }
}

#[test]
fn with_json_an_error_is_the_one_object() {
    let said = run(["run", "--json", "--prompt", "x", "--kv-budget", "0"]);
    assert_eq!(said.code, 2);
    let error = &said.json()["error"];
    assert_eq!(error["exit_code"], 2);
    assert_eq!(error["kind"], "usage");
    assert_eq!(error["message"], said.complaint());
    let said = run(["inspect", "--json", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]);
    assert_eq!((said.code, &said.json()["error"]["kind"]), (3, &"bad_file".into()));
}

#[test]
fn a_file_that_is_no_model_is_told_by_name_with_code_3() {
    let folder = scratch("bad-files");
    let path = folder.join("broken.gguf");
    std::fs::write(&path, b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f").expect("writable");
    let path = path.to_str().expect("UTF-8");
    for args in [&["inspect", path][..], &["run", "-m", path, "--prompt", "x"], &["tokenize", "-m", path]] {
        let said = run(args);
        assert_eq!(said.code, 3, "{args:?}: {}", said.err);
        assert!(said.complaint().contains("broken.gguf"), "{}", said.err);
    }
    std::fs::write(folder.join("latin1.txt"), b"caf\xe9").expect("writable");
    std::fs::write(folder.join("policy.json"), b"{\"press\": 1}").expect("writable");
    let policy = folder.join("policy.json");
    let said = run(["run", "--prompt", "x", "--policy", policy.to_str().expect("UTF-8")]);
    assert_eq!(said.code, 3);
    assert!(said.complaint().contains("policy.json"), "{}", said.err);
}

#[test]
fn a_model_that_is_not_here_is_code_4_and_says_what_to_do() {
    let said = run(["run", "-m", "no-such-model", "--prompt", "x"]);
    assert_eq!(said.code, 4);
    assert!(said.complaint().contains("smollm2"), "{}", said.err);
    let empty = scratch("empty-cache");
    let output = common::meden(["run", "--prompt", "x"])
        .env("MEDEN_CACHE", &empty)
        .env("HF_HOME", &empty)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("the binary runs");
    let said = common::Said::from(output);
    assert_eq!(said.code, 4, "{}", said.err);
    assert!(said.complaint().contains("HF_HUB_OFFLINE") && said.err.contains("meden pull"), "{}", said.err);
}

#[test]
fn completions_and_manual_are_complete_also_as_json() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = run(["completions", shell]);
        assert_eq!(said.code, 0);
        assert!(said.out.contains("kv-budget"), "{shell}");
        assert_eq!(run(["completions", shell, "--json"]).json()["script"], said.out);
    }
    let said = run(["man"]);
    assert!(said.code == 0 && said.out.contains(".TH") && said.out.contains("demo"));
    let said = run(["man", "run", "--json"]);
    assert!(said.json()["page"].as_str().expect("a page").contains("kv\\-budget"));
}

#[test]
fn pull_lists_what_it_knows() {
    let said = run(["pull", "--list", "--json"]).json();
    assert_eq!(said["models"][0]["name"], "smollm2");
    assert!(run(["pull", "--list"]).out.contains("Apache-2.0"));
}

#[test]
fn input_that_is_not_text_is_refused_before_any_weight_is_read() {
    let Some(_) = common::default_model() else { return };
    let folder = scratch("not-text");
    let path = folder.join("latin1.txt");
    std::fs::write(&path, b"caf\xe9 au lait").expect("writable");
    let said = run(["run", "-f", path.to_str().expect("UTF-8")]);
    assert_eq!(said.code, 3);
    assert!(said.complaint().contains("byte 3"), "{}", said.err);
    let said = run_with(["run"], "  \n");
    assert_eq!(said.code, 2);
    assert!(said.complaint().contains("empty"), "{}", said.err);
}
