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
