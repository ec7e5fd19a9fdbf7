//! `meden vision`, with a small random model and images drawn by code.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{run, scratch};
use meden::stats::Rng;
use meden::vision::image::{Fit, Preprocess};
use meden::vision::vit::{Head, Naming, Params, VitConfig, save};

const SIDE: usize = 16;

/// A 24-bit BMP of one colour, blue first, rows padded to four bytes.
fn bmp(width: u32, height: u32, [r, g, b]: [u8; 3]) -> Vec<u8> {
    let row = (width * 3).next_multiple_of(4);
    let mut out = b"BM".to_vec();
    for v in [54 + row * height, 0, 54, 40, width, height, 1 | 24 << 16, 0, row * height, 2835, 2835, 0, 0] {
        out.extend(v.to_le_bytes());
    }
    for _ in 0..height {
        let mut line = [b, g, r].repeat(width as usize);
        line.resize(row as usize, 0);
        out.extend(line);
    }
    out
}

/// A model without a classifier, and red and blue images for training and validation.
fn setting(name: &str) -> PathBuf {
    let root = scratch(name);
    let config = VitConfig {
        naming: Naming::Vit,
        prefix: String::new(),
        layers: 2,
        width: 16,
        heads: 2,
        mlp: 32,
        patch: 4,
        image: (SIDE, SIDE),
        eps: 1e-6,
        qkv_bias: true,
        layer_scale: false,
        class_token: true,
        distilled: false,
        registers: 0,
        prefix_positions: 1,
        antialias: false,
        head: Head::None,
        norm_after_pool: false,
        adapter_rank: 0,
        classes: Vec::new(),
    };
    let mut params = Params::zeros(&config, |_| true);
    let mut rng = Rng::new(1, 0);
    for (_, values) in params.iter_mut() {
        values.iter_mut().for_each(|v| *v = (rng.normal() * 0.3) as f32);
    }
    let raw = serde_json::json!({
        "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "hidden_act": "gelu", "layer_norm_eps": 1e-6, "image_size": SIDE, "patch_size": 4,
    });
    let preprocess = Preprocess { fit: Fit::Squash, ..Preprocess::new((SIDE, SIDE)) };
    save(&root.join("model"), &config, &params, &raw, &preprocess).unwrap();
    for (part, count) in [("train", 6u32), ("validation", 3)] {
        for (class, colour) in [("blue", [20, 30, 220]), ("red", [220, 30, 20])] {
            let folder = root.join("data").join(part).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for i in 0..count {
                let shade = colour.map(|c: u8| c.saturating_add(3 * i as u8));
                std::fs::write(folder.join(format!("{i}.bmp")), bmp(20 + i, 17, shade)).unwrap();
            }
        }
    }
    root
}

fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}

#[test]
fn a_model_is_tuned_then_tells_classes_apart() {
    let root = setting("vision-tune");
    let (data, out, model) = (root.join("data"), root.join("run"), root.join("model"));
    let said =
        run(["vision", "finetune", "--data", path(&data), "--out", path(&out), "-m", path(&model), "--method", "full"]
            .into_iter()
            .chain(["--epochs", "15", "--lr", "5e-3", "--batch", "4", "--json", "--threads", "1"]));
    assert_eq!(said.code, 0, "{}", said.err);
    let report = said.json();
    assert_eq!(report["outcome"]["best"][0], 1.0, "{report}");
    assert_eq!((report["train_images"].as_u64(), report["classes"].as_u64()), (Some(12), Some(2)));

    let tuned = out.join("best");
    let said = run(["vision", "predict", "-m", path(&tuned), path(&data.join("validation")), "--top-k", "1", "--json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    for image in said.json()["images"].as_array().unwrap() {
        let (file, class) =
            (image["path"].as_str().unwrap().to_owned(), image["top"][0]["class"].as_str().unwrap().to_owned());
        assert!(file.contains(&class), "{file}: {class}");
        assert_eq!(image["top"].as_array().unwrap().len(), 1);
    }
    // A folder that holds a run is not overwritten.
    let again = run(["vision", "finetune", "--data", path(&data), "--out", path(&out), "-m", path(&model)]);
    assert_eq!(again.code, 3);
    assert!(again.complaint().contains("--resume"), "{}", again.err);
}

#[test]
fn embeddings_are_written_and_judged() {
    let root = setting("vision-embed");
    let (data, model, out) = (root.join("data"), root.join("model"), root.join("e.safetensors"));
    let train = data.join("train");
    let said =
        run(["vision", "embed", path(&train), "-m", path(&model), "--out", path(&out), "--pool", "cls+mean", "--json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(said.json()["width"], 32);
    let bytes = std::fs::read(&out).unwrap();
    let (_, head) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("embeddings").unwrap().shape(), [12, 32]);
    let paths: Vec<String> = serde_json::from_str(&head.metadata().as_ref().unwrap()["paths"]).unwrap();
    assert_eq!(paths.len(), 12);
    // In batches of one the same numbers.
    let one =
        run(["vision", "embed", &paths[3], "-m", path(&model), "--pool", "cls+mean", "--batch", "1", "--json"]).json();
    let row: Vec<f32> = serde_json::from_value(one["images"][0]["embedding"].clone()).unwrap();
    let all = file.tensor("embeddings").unwrap().data().to_vec();
    let same: Vec<f32> = all.as_chunks::<4>().0[3 * 32..4 * 32].iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(row, same);

    let test = data.join("validation");
    let said = run([
        "vision",
        "evaluate",
        "--train",
        path(&train),
        "--test",
        path(&test),
        "-m",
        path(&model),
        "--neighbours",
        "3",
        "--json",
    ]);
    assert_eq!(said.code, 0, "{}", said.err);
    let report = said.json();
    assert_eq!((&report["knn"]["accuracy"], &report["linear"]["accuracy"]), (&1.0.into(), &1.0.into()), "{report}");
    assert_eq!(report["linear_converged"], true);
}

#[test]
fn what_cannot_be_done_is_said() {
    let root = setting("vision-refused");
    let (data, model) = (root.join("data"), root.join("model"));
    let photo = data.join("train/red/0.bmp");
    let bad = root.join("bad.jpg");
    std::fs::write(&bad, b"no image").unwrap();
    for (args, code, word) in [
        (vec!["vision", "predict", "-m", path(&model), path(&photo)], 2, "no classifier"),
        (vec!["vision", "embed", "-m", path(&model), path(&bad)], 3, "bad.jpg"),
        (vec!["vision", "embed", "-m", path(&model), "nowhere.jpg"], 3, "nowhere.jpg"),
        (vec!["vision", "embed", "-m", path(&model), path(&photo), "--image-size", "18"], 2, "16x16"),
        (vec!["vision", "embed", "-m", path(&model), path(&photo), "--pool", "max"], 2, "cls+mean"),
        (vec!["vision", "embed", "-m", path(&data), path(&photo)], 3, "model.safetensors"),
        (vec!["vision", "finetune", "--data", path(&data), "--out", "x", "-m", path(&model), "--b0", "1.5"], 2, "b0"),
        (vec!["vision", "finetune", "--data", path(&data), "--out", "x", "-m", path(&model), "--k", "3"], 2, "2"),
        (
            vec!["vision", "finetune", "--data", path(&data), "--out", "x", "-m", path(&model), "--layers", "best"],
            2,
            "uniform",
        ),
    ] {
        let said = run(&args);
        assert_eq!(said.code, code, "{args:?}: {}", said.err);
        assert!(said.complaint().contains(word), "{args:?}: {}", said.err);
    }
    let said = run(["vision", "embed", "-m", path(&model), path(&photo), path(&bad), "--skip-bad", "--json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(said.json()["skipped"].as_array().unwrap().len(), 1);
}

#[test]
fn runs_are_planned_and_compared() {
    let root = setting("vision-compare");
    let (data, model, page) = (root.join("data"), root.join("model"), root.join("compare.html"));
    let tune = |name: &str, flags: &[&str]| {
        let out = root.join(name);
        let mut args = vec!["vision", "finetune", "--data", path(&data), "--out", path(&out), "-m", path(&model)];
        args.extend(["--epochs", "3", "--batch", "4", "--json", "--threads", "1"]);
        args.extend(flags);
        run(&args)
    };
    let plan = tune("planned", &["--method", "full", "--plan"]);
    assert_eq!(plan.code, 0, "{}", plan.err);
    let plan = plan.json();
    assert!(!root.join("planned").exists(), "a plan leaves nothing behind");
    assert_eq!(plan["rehearsal"]["steps"], 9);
    assert_eq!(plan["flops"], plan["full_flops"]);
    let refused = tune("planned", &["--method", "full", "--memory", "1M"]);
    assert!(refused.code == 2 && refused.complaint().contains("MiB"), "{}", refused.err);
    assert_eq!(tune("full", &["--method", "full"]).code, 0);
    assert_eq!(tune("lora", &["--method", "lora", "--rank", "2"]).code, 0);
    assert!(root.join("lora/best/adapter/adapter_model.safetensors").is_file());
    let (full, lora) = (root.join("full"), root.join("lora"));
    let said = run(["vision", "compare", path(&full), path(&lora), "--page", path(&page), "--json"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let told = said.json();
    assert_eq!(told["runs"][1]["name"], "lora");
    let number = |run: usize, field: &str| told["runs"][run][field].as_u64().unwrap();
    assert!(number(1, "trainable_parameters") < number(0, "trainable_parameters"));
    assert_eq!(told["runs"][0]["flops_per_image_mean"].as_f64(), told["runs"][0]["full_flops_per_image"].as_f64());
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("lora") && html.matches("<svg").count() == 4);
    let said = run(["vision", "compare", path(&data)]);
    assert!(said.code == 2 && said.complaint().contains("no folder of a finished"), "{}", said.err);
}

#[test]
fn a_replica_runs_from_split_to_table_and_is_not_done_twice() {
    let root = setting("vision-replica");
    let (data, model, out) = (root.join("data"), root.join("model"), root.join("replica"));
    for class in ["blue", "red"] {
        let folder = data.join("test").join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..3u32 {
            let colour = if class == "red" { [200, 10 + 40 * i as u8, 0] } else { [0, 10 + 40 * i as u8, 200] };
            std::fs::write(folder.join(format!("{i}.bmp")), bmp(18, 15 + i, colour)).unwrap();
        }
    }
    let go = |epochs: &str| {
        run(["vision", "replica", "--data", path(&data), "--out", path(&out), "-m", path(&model)].into_iter().chain([
            "--per-class",
            "3",
            "--epochs",
            epochs,
            "--seeds",
            "2",
            "--arms",
            "full,alast,static",
            "--batch",
            "4",
            "--duplicate",
            "1.1",
            "--threads",
            "1",
            "--json",
        ]))
    };
    let first = go("2");
    assert_eq!(first.code, 0, "{}", first.err);
    let told = first.json();
    assert_eq!((&told["counts"]["train"], &told["counts"]["test"]), (&6.into(), &12.into()));
    let arms = told["arms"].as_array().unwrap();
    assert_eq!(arms.iter().map(|a| a["name"].as_str().unwrap()).collect::<Vec<_>>(), ["full", "alast", "static"]);
    assert!(arms[1]["against_full"].is_array() && arms[0]["against_full"].is_null());
    assert!(std::fs::read_to_string(out.join("replica.html")).unwrap().contains("static"));
    // A run that is lost is done again, the others are read, and the answers are the same.
    let runs = || std::fs::read_dir(out.join("runs")).unwrap().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let (lost, kept) = (runs()[0].clone(), runs()[1].join("result.json"));
    let written = std::fs::metadata(&kept).unwrap().modified().unwrap();
    std::fs::remove_dir_all(&lost).unwrap();
    let again = go("2");
    assert_eq!(again.code, 0, "{}", again.err);
    assert!(lost.is_dir() && std::fs::metadata(&kept).unwrap().modified().unwrap() == written);
    let accuracies = |v: &serde_json::Value| -> Vec<f64> {
        v["arms"].as_array().unwrap().iter().map(|a| a["accuracy"].as_f64().unwrap()).collect()
    };
    assert_eq!(accuracies(&told), accuracies(&again.json()));
    let other = go("3");
    assert!(other.code == 2 && other.complaint().contains("other settings"), "{}", other.err);
}
