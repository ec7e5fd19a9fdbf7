//! The real binary with the default model.

mod common;

use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{default_model, run, run_with, shared, start};
use serde_json::Value;

fn reference(part: &str) -> Option<Value> {
    let text = std::fs::read_to_string(shared(part)?).expect("readable");
    Some(serde_json::from_str(&text).expect("JSON"))
}

#[test]
fn run_with_json_is_one_object_with_everything_measured() {
    let Some(_) = default_model() else { return };
    let said = run(["run", "--raw", "--prompt", "The capital of France is", "-n", "6", "--logprobs", "2", "--json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let said = said.json();
    assert!(said["text"].as_str().expect("a text").contains("Paris"), "{said}");
    assert_eq!(said["prompt_tokens"], 5);
    assert_eq!(said["completion_tokens"], 6);
    assert_eq!(said["finish"], "max_tokens");
    assert!(said["timings"]["prefill_tokens_per_second"].as_f64().expect("a speed") > 0.0);
    assert!(said["memory"]["peak_bytes"].as_u64() >= said["memory"]["resident_bytes"].as_u64());
    assert_eq!(said["cache"]["seen"], 10, "the last token is not read back");
    let steps = said["logprobs"].as_array().expect("a list");
    assert_eq!(steps.len(), 6);
    for step in steps {
        assert_eq!(step["logprob"], step["top"][0][1], "a greedy token is the likeliest one: {step}");
    }
}

#[test]
fn greedy_ids_follow_the_reference_on_the_f32_path() {
    let (Some(_), Some(prompts)) = (default_model(), reference("oracle/smollm2/prompts.json")) else { return };
    let item = &prompts[0];
    let expected = item["greedy_ids"].as_array().expect("ids");
    let (prompt, count) = (item["prompt"].as_str().expect("a prompt"), expected.len().min(8));
    let count_text = count.to_string();
    let said = run([
        "run",
        "--raw",
        "--prompt",
        prompt,
        "-n",
        &count_text,
        "--weights",
        "f32",
        "--kv",
        "f32",
        "--ignore-eos",
        "--json",
    ]);
    assert_eq!(said.json()["ids"].as_array().expect("ids")[..], expected[..count]);
}

#[test]
fn tokenize_gives_the_reference_ids() {
    let (Some(_), Some(cases)) = (default_model(), reference("oracle/smollm2/tokenizer.json")) else { return };
    for case in cases.as_array().expect("a list") {
        let text = case["text"].as_str().expect("a text");
        let said = run_with(["tokenize", "--model", "smollm2", "--json"], text);
        assert_eq!(said.json(), serde_json::json!({ "ids": case["ids"] }), "{text:?}");
    }
}

#[test]
fn text_goes_to_standard_output_and_figures_to_standard_error() {
    let Some(_) = default_model() else { return };
    let said = run_with(["run", "--raw", "-n", "4"], "One, two, three,");
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("four"), "{}", said.out);
    assert!(said.err.contains("read 6 tokens") || said.err.contains("tokens in"), "{}", said.err);
    assert!(said.err.contains("cache ") && said.err.contains("process "), "{}", said.err);
    assert!(!said.err.contains('\u{1b}'), "no terminal, no terminal codes");
    let quiet = run_with(["run", "--raw", "-n", "4", "--quiet"], "One, two, three,");
    assert_eq!((quiet.out, quiet.err), (said.out, String::new()));
}

#[test]
fn a_stop_string_ends_the_answer_before_it() {
    let Some(_) = default_model() else { return };
    let args = ["run", "--raw", "--prompt", "One, two, three,", "-n", "20", "--stop", "five", "--json"];
    let said = run(args).json();
    assert_eq!(said["finish"], "stop_string");
    let text = said["text"].as_str().expect("a text");
    assert!(text.contains("four") && !text.contains("five"), "{text}");
}

#[test]
fn a_prompt_beyond_the_context_is_code_6_with_both_numbers() {
    let Some(_) = default_model() else { return };
    let said = run_with(["run", "--raw"], &"word ".repeat(9000));
    assert_eq!(said.code, 6, "{}", said.err);
    assert!(said.complaint().contains("9,00") && said.err.contains("8,192"), "{}", said.err);
}

#[test]
fn a_reader_that_goes_away_ends_the_run_quietly() {
    let Some(_) = default_model() else { return };
    let mut child = start(["run", "--raw", "--prompt", "Count: one, two,", "-n", "2000", "--ignore-eos"]);
    let mut pipe = child.stdout.take().expect("a pipe");
    pipe.read_exact(&mut [0; 4]).expect("some text comes");
    drop(pipe);
    let said = common::Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!((said.code, said.err.as_str()), (0, ""));
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_cleanly_with_code_10_and_what_was_written_so_far() {
    let Some(_) = default_model() else { return };
    let mut child = start(["run", "--raw", "--prompt", "Count: one, two,", "-n", "5000", "--ignore-eos"]);
    let mut pipe = child.stdout.take().expect("a pipe");
    pipe.read_exact(&mut [0; 4]).expect("some text comes");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let asked = Instant::now();
    let mut rest = String::new();
    pipe.read_to_string(&mut rest).expect("text");
    let said = common::Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, 10, "{}", said.err);
    assert!(asked.elapsed() < Duration::from_secs(20), "it stops soon");
    assert!(said.err.contains("wrote"), "the figures are still told: {}", said.err);
}

#[test]
fn a_piped_chat_answers_each_line_and_can_be_saved_and_loaded() {
    let Some(_) = default_model() else { return };
    let file = common::scratch("chat").join("talk.session");
    let file = file.to_str().expect("UTF-8");
    let script = format!("My name is Ada.\n/save {file}\n");
    let said = run_with(["chat", "-n", "12", "--json"], &script);
    assert_eq!(said.code, 0, "{}", said.err);
    let first = said.json();
    assert_eq!(first["messages"].as_array().expect("a list").len(), 2);
    let said = run_with(["chat", "-n", "8", "--load", file, "--json"], "What is my name?\n/stats\n");
    assert_eq!(said.code, 0, "{}", said.err);
    let second = said.json();
    let messages = second["messages"].as_array().expect("a list");
    assert_eq!(messages.len(), 4);
    assert_eq!(messages[..2], first["messages"].as_array().expect("a list")[..]);
    assert!(second["cache"]["seen"].as_u64() > first["cache"]["seen"].as_u64());
    let said = run_with(["chat"], "/nonsense\n");
    assert_eq!(said.code, 2, "{}", said.err);
}

#[test]
fn a_chat_that_goes_on_reads_only_what_is_new_and_says_the_same() {
    let Some(_) = default_model() else { return };
    let said = run_with(["chat", "-n", "10", "--kv", "f32", "--json"], "Name a colour.\nAnother one.\n").json();
    let messages = said["messages"].as_array().expect("a list");
    let turns: Vec<&str> = messages.iter().map(|m| m["content"].as_str().expect("text")).collect();
    // Read again from the start: one prompt that holds the whole conversation.
    let prompt = format!(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n\
         <|im_start|>assistant\n",
        turns[0], turns[1], turns[2]
    );
    let again = run(["run", "--raw", "--kv", "f32", "-n", "10", "--json", "--prompt", &prompt]).json();
    assert_eq!(again["text"], turns[3]);
}

#[test]
fn perplexity_is_one_number_with_its_interval() {
    let Some(_) = default_model() else { return };
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/pride-and-prejudice-1-3.txt");
    let base = ["eval", "perplexity", "-f", text, "--max-tokens", "600", "--json"];
    let dense = run(base.iter().copied().chain(["--running"])).json();
    let value = |said: &Value| said["perplexity"].as_f64().expect("a number");
    let (low, high) = (dense["interval"][0].as_f64().expect("low"), dense["interval"][1].as_f64().expect("high"));
    assert!(low < value(&dense) && value(&dense) < high, "{dense}");
    assert_eq!(dense["tokens"], 599);
    let press = ["--running", "--kv-budget", "128", "--schedule", "decode_every:32", "--sinks", "0", "--recents", "0"];
    let pressed = |name: &'static str| run(base.iter().copied().chain(press).chain(["--press", name])).json();
    let (low, high) = (pressed("knorm"), pressed("knorm_high"));
    assert!(value(&dense) < value(&low) && value(&low) < value(&high), "low norms are the ones to keep");
    assert!(low["cache"]["kept_tokens_mean"].as_f64().expect("a number") <= 160.0);
}

#[test]
fn demo_measures_both_sides_and_draws_them() {
    let Some(_) = default_model() else { return };
    let chart = common::scratch("demo").join("cache.svg");
    let said = run(["demo", "--json", "--svg", chart.to_str().expect("UTF-8")]);
    assert_eq!(said.code, 0, "{}", said.err);
    let said = said.json();
    let side = |name: &str, key: &str| said[name][key].as_f64().unwrap_or_else(|| panic!("{name} has no {key}"));
    assert!(side("dense", "prompt_tokens") > 4000.0);
    assert!(side("pressed", "kept_tokens_mean") < 0.5 * side("dense", "kept_tokens_mean"));
    assert!(side("pressed", "kv_bytes") < 0.5 * side("dense", "kv_bytes"));
    let memory = |name: &str| said[name]["memory"]["resident_bytes"].as_f64().expect("resident");
    // What the cache saved, the operating system sees, but for a reserve of pages.
    let saved = side("dense", "kv_bytes") - side("pressed", "kv_bytes");
    assert!(memory("dense") - memory("pressed") > 0.7 * saved, "{said}");
    assert_eq!(said["dense"]["right"], true, "{}", said["dense"]["answer"]);
    assert_eq!(said["pressed"]["right"], true, "{}", said["pressed"]["answer"]);
    let drawn = std::fs::read_to_string(chart).expect("the chart is there");
    assert!(drawn.starts_with("<svg") && drawn.matches("<polyline").count() == 2);
}

#[test]
#[cfg(unix)]
fn an_interrupted_demo_leaves_no_process_behind() {
    let Some(_) = default_model() else { return };
    let mut child = start(["demo"]);
    let mut first = [0; 8];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("the heading comes");
    std::thread::sleep(Duration::from_millis(600));
    let own = child.id().to_string();
    Command::new("kill").args(["-INT", &own]).status().expect("kill runs");
    let said = common::Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, 10, "{}", said.err);
    assert!(said.complaint().contains("interrupted"), "{}", said.err);
}

#[test]
fn standard_input_that_closes_early_is_no_panic() {
    let Some(_) = default_model() else { return };
    let mut child = start(["tokenize"]);
    child.stdin.take().expect("a pipe").write_all("naïve".as_bytes()).expect("written");
    let said = common::Said::from(child.wait_with_output().expect("it ends"));
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("na"), "{}", said.out);
}
