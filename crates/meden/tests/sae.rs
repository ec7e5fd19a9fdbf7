//! `meden sae` and `meden steer` as a user meets them.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::run;
use meden_engine::Site;
use meden_lens::place::Place;
use meden_lens::steer::control_vector::ControlVector;
use meden_lens::steer::{Bound, Edit, Steering, Where};

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("meden-sae-cli-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain letters")
}

#[test]
fn a_corpus_is_made_of_ones_own_texts() {
    let folder = folder("corpus");
    let prose = "Whatever else may be said of it, the harbour was quiet that morning. ".repeat(20);
    std::fs::write(folder.join("one.txt"), &prose).expect("a text");
    std::fs::write(folder.join("two.md"), format!("{prose} What is the capital of France? {prose}")).expect("a text");
    let out = folder.join("corpus.jsonl");
    let made = ["sae", "corpus", "--json", "--no-packages", "--text", text(&folder), "--out", text(&out)];
    let said = run(made);
    assert_eq!(said.code, 0, "{}", said.err);
    let json = said.json();
    // a question of the conflict study must not be trained on
    assert_eq!((json["documents"].as_u64(), json["left_out"].as_u64()), (Some(1), Some(1)), "{json}");
    assert_eq!(json["sources"][0]["sha256"].as_str().map(str::len), Some(64));
    assert_eq!(run(["sae", "corpus", "--no-packages", "--out", text(&out)]).code, 2);
    assert_eq!(run(["sae", "corpus", "--out", "x.txt", "--text", text(&folder)]).code, 2);
    std::fs::remove_dir_all(&folder).expect("it is there");
}

#[test]
fn what_is_no_autoencoder_and_no_steering_is_refused_before_any_model_is_read() {
    let folder = folder("nothing");
    let said = run(["sae", "check", "--sae", text(&folder), "--text", "x"]);
    assert_eq!(said.code, 3);
    assert!(said.complaint().contains("no autoencoder is in it"), "{}", said.err);
    let file = folder.join("x.safetensors");
    std::fs::write(&file, "nonsense").expect("a file");
    for verb in
        [vec!["steer", "run", "--to", "memory", "--prompt", "x", "--steer"], vec!["run", "--prompt", "x", "--steer"]]
    {
        let said = run(verb.into_iter().chain([text(&file)]));
        assert_eq!(said.code, 3, "{}", said.err);
    }
    let said = run(["steer", "run", "--steer", text(&file), "--to", "nowhere"]);
    assert_eq!(said.code, 2);
    assert!(said.complaint().contains("context or memory"), "{}", said.err);
    let said = run(["steer", "fit", "--work", text(&folder), "--out", "y", "--rule", "share:7"]);
    assert_ne!(said.code, 0);
    std::fs::remove_dir_all(&folder).expect("it is there");
}

#[test]
fn a_steering_becomes_a_control_vector() {
    let folder = folder("export");
    let (file, out) = (folder.join("steer.safetensors"), folder.join("v.gguf"));
    let bound = Bound { model: "00".into(), architecture: "llama".into(), layers: 4, hidden: 3, sae: None };
    let vector = vec![1.0f32, -2.0, 0.5];
    let edit = Edit::Add { vector: vector.clone(), keep_norm: false };
    let edits = BTreeMap::from([(Place::new(Site::ResidPost, 2), edit)]);
    let steering = Steering { bound, edits, whereabouts: Where::LastPrompt, strength: 1.0, note: String::new() };
    steering.save(&file).expect("a file");
    let said = run(["steer", "export", "--json", "--steer", text(&file), "--out", text(&out)]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(said.json()["layers"], serde_json::json!([2]));
    assert_eq!(said.json()["approximate"], false);
    let read = ControlVector::read(&out).expect("what was written");
    assert_eq!((read.model.as_str(), read.directions), ("llama", BTreeMap::from([(2, vector)])));
    std::fs::remove_dir_all(&folder).expect("it is there");
}
