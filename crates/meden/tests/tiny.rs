//! The real binary on tiny models of every family, against reference ids, where the reference folder is there.

mod common;

use std::fs;

use common::{run, shared};
use safetensors::{Dtype, SafeTensors};

fn ids(bytes: &SafeTensors<'_>, name: &str) -> Vec<i64> {
    let tensor = bytes.tensor(name).expect("the reference has it");
    match tensor.dtype() {
        Dtype::I64 => tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8"))).collect(),
        Dtype::I32 => {
            tensor.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("4")).into()).collect()
        }
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn greedy_ids_of_every_family_are_those_of_the_reference() {
    let Some(folder) = shared("oracle/tiny") else { return };
    let mut families = 0;
    for entry in fs::read_dir(folder).expect("readable") {
        let model = entry.expect("readable").path();
        let bytes = fs::read(model.join("expected.safetensors")).expect("readable");
        let expected = SafeTensors::deserialize(&bytes).expect("safetensors");
        let greedy = ids(&expected, "greedy_ids");
        let prompt: Vec<String> = ids(&expected, "input_ids").iter().map(i64::to_string).collect();
        let count = greedy.len().to_string();
        let model = model.to_str().expect("UTF-8");
        let said = run(["run", "-m", model, "--ids", &prompt.join(","), "-n", &count, "--kv", "f32", "--json"]);
        assert_eq!(said.code, 0, "{model}: {}", said.err);
        let written: Vec<i64> = serde_json::from_value(said.json()["ids"].clone()).expect("ids");
        assert_eq!(written, greedy, "{model}");
        families += 1;
    }
    assert!(families > 0);
}

#[test]
fn a_model_without_a_tokenizer_writes_ids_and_refuses_text() {
    let Some(folder) = shared("oracle/tiny/llama") else { return };
    let model = folder.to_str().expect("UTF-8");
    let said = run(["run", "-m", model, "--ids", "5,6,7", "-n", "3", "--quiet"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert_eq!(said.out.trim().split(',').count(), 3, "{}", said.out);
    let said = run(["run", "-m", model, "--prompt", "hello"]);
    assert_eq!(said.code, 3);
    assert!(said.complaint().contains("tokenizer.json"), "{}", said.err);
    let said = run(["run", "-m", model, "--ids", "5,999999"]);
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.complaint().contains("999999"), "{}", said.err);
}

#[test]
fn a_cache_within_its_budget_stays_within_it_and_says_so() {
    let Some(folder) = shared("oracle/tiny/llama") else { return };
    let model = folder.to_str().expect("UTF-8");
    let ids: Vec<String> = (0..200).map(|i| (3 + i % 300).to_string()).collect();
    let base = ["run", "-m", model, "--ids", &ids.join(","), "-n", "8", "--json", "--sinks", "2", "--recents", "8"];
    let said = run(base.iter().copied().chain(["--kv-budget", "48", "--schedule", "prefill_chunk:16,decode_every:1"]));
    assert_eq!(said.code, 0, "{}", said.err);
    let cache = &said.json()["cache"];
    assert!(cache["kept_tokens_mean"].as_f64().expect("a number") <= 49.0, "{cache}");
    assert!(cache["evicted"].as_u64().expect("a number") > 0);
    let said = run(base.iter().copied().chain(["--kv-budget", "4"]));
    assert_eq!(said.code, 5, "a budget below what is protected cannot be met: {}", said.err);
}

#[test]
fn inspect_describes_a_folder_and_weights_alone() {
    let Some(folder) = shared("oracle/tiny/qwen3") else { return };
    let model = folder.to_str().expect("UTF-8");
    let said = run(["inspect", model, "--json"]).json();
    assert_eq!(said["architecture"], "qwen3");
    let tensors = said["tensors"].as_array().expect("a list");
    let listed: u64 = tensors.iter().map(|t| t["bytes"].as_u64().expect("bytes")).sum();
    assert_eq!(said["tensor_bytes"], listed);
    let alone = common::scratch("weights-alone").join("weights.safetensors");
    fs::copy(folder.join("model.safetensors"), &alone).expect("copied");
    let said = run(["inspect", alone.to_str().expect("UTF-8"), "--json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.json()["problem"].as_str().expect("a reason").contains("config.json"));
}

#[test]
fn bench_measures_every_combination_and_refuses_nonsense() {
    let Some(folder) = shared("oracle/tiny/llama") else { return };
    let model = folder.to_str().expect("UTF-8");
    let base = ["bench", "-m", model, "--repeat", "2", "--threads", "1"];
    let grid = ["--prompt", "70", "--gen", "3", "--depth", "0,90", "--press", "none,knorm:80", "--kv", "f32,q8"];
    let said = run(base.iter().copied().chain(grid).chain(["--batch", "1,2", "--json"]));
    assert_eq!(said.code, 0, "{}", said.err);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&said.out).expect("a list");
    assert_eq!(rows.len(), 2 * 2 * 2 * 2 * 2);
    for row in &rows {
        let [least, rate, most] = ["tokens_per_second_min", "tokens_per_second", "tokens_per_second_max"]
            .map(|name| row[name].as_f64().expect("a rate"));
        assert!(0.0 < least && least <= rate && rate <= most, "{row}");
        assert!(row["peak_rss_bytes"].as_u64().expect("bytes") > row["weight_bytes"].as_u64().expect("bytes"));
        assert_eq!(row["test"] == "gen", row["bytes_a_token"].is_u64(), "{row}");
        let tokens = row["depth"].as_u64().expect("a depth") + row["n"].as_u64().expect("a count");
        let pressed = row["press"] != "none";
        let kept = row["kept_tokens_mean"].as_f64().expect("a mean");
        assert!(if pressed { kept <= 80.0 + 32.0 } else { kept == tokens as f64 }, "{row}");
    }
    let grid = ["--prompt", "0", "--gen", "3", "--depth", "300", "--kv-rotate", "none,hadamard"];
    let said = run(base.iter().copied().chain(grid).chain(["--read", "none,quest:32", "--json"]));
    assert_eq!(said.code, 0, "{}", said.err);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&said.out).expect("a list");
    let named: Vec<_> = rows.iter().map(|row| (row["kv_rotate"].as_str(), row["read"].as_str())).collect();
    let (turned, paged) = (Some("hadamard"), Some("quest:32"));
    assert_eq!(named, [(None, None), (None, paged), (turned, None), (turned, paged)]);
    for pair in rows.chunks(2) {
        let bytes = |row: &serde_json::Value, name: &str| row[name].as_u64();
        assert_eq!(bytes(&pair[0], "kv_read_bytes"), None);
        let read = bytes(&pair[1], "kv_read_bytes").expect("bytes");
        assert!(read > 0 && Some(read) < bytes(&pair[0], "kv_bytes"), "{}", pair[1]);
        assert!(bytes(&pair[1], "bytes_a_token") < bytes(&pair[0], "bytes_a_token"), "{}", pair[1]);
    }
    let table = run(base.iter().copied().chain(["--gen", "0", "--prompt", "20"]));
    assert!(table.out.contains("prompt 20") && !table.out.contains("gen"), "{}", table.out);
    for (wrong, says) in [
        (["--press", "knorm"], "knorm:25%"),
        (["--repeat", "0"], "--repeat"),
        (["--batch", "0"], "--batch"),
        (["--read", "none,everything"], "quest:1024"),
        (["--kv-rotate", "twice"], "hadamard"),
        (["--schedule", "prefill_end"], "--press"),
    ] {
        let said = run(["bench", "-m", model].into_iter().chain(wrong));
        assert_eq!(said.code, 2, "{wrong:?}: {}", said.err);
        assert!(said.err.contains(says), "{wrong:?}: {}", said.err);
    }
    let long = run(["bench", "-m", model, "--depth", "1000000", "--repeat", "1"]);
    assert_eq!(long.code, 6, "{}", long.err);
}
