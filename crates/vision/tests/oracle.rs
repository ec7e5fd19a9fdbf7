//! Reference values of tiny models, by PyTorch and transformers.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{floats, shared};
use meden_kernels::{Isa, Pool};
use meden_vision::vit::{Trace, Vit, VitFiles};
use safetensors::SafeTensors;

fn size(file: &SafeTensors, pixels: &str) -> (usize, usize) {
    let shape = file.tensor(pixels).unwrap().shape().to_vec();
    (shape[2], shape[3])
}

fn near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: {worst} > {tolerance}");
    assert!(found.iter().all(|v| v.is_finite()), "{what}");
}

fn models(folder: &Path) -> Vec<(Isa, Vit)> {
    let files = VitFiles::open(folder).unwrap();
    let load = |isa| (isa, Vit::new(files.config.clone(), files.params().unwrap(), Pool::new(2), isa));
    Isa::available().into_iter().map(load).collect()
}

#[test]
fn dinov2_with_and_without_registers_at_native_and_resampled_sizes() {
    let Some(root) = shared("dinov2") else { return };
    let mut cases = 0;
    for entry in std::fs::read_dir(root).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("expected.safetensors").exists() {
            continue;
        }
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (isa, model) in models(&folder) {
            for name in file.names().iter().filter_map(|n| n.strip_prefix("pixels_")) {
                let what = format!("{} {name} {isa:?}", folder.display());
                let key = format!("pixels_{name}");
                let (pixels, size) = (floats(&file, &key), size(&file, &key));
                let mut trace = Trace::default();
                let last = model.hidden(&pixels, size, Some(&mut trace)).unwrap();
                near(&last, &floats(&file, &format!("{name}.last")), 2e-5, &what);
                near(&trace.hidden.concat(), &floats(&file, &format!("{name}.hidden")), 2e-5, &what);
                let again = model.hidden(&pixels, size, None).unwrap();
                assert!(again == last, "{what}: a trace changes bits");
                cases += 1;
            }
        }
    }
    assert!(cases > 0);
}

#[test]
fn a_classifier_with_class_attention() {
    let Some(root) = shared("vision") else { return };
    let bytes = std::fs::read(root.join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (pixels, size) = (floats(&file, "pixels"), size(&file, "pixels"));
    for (isa, model) in models(&root.join("vit")) {
        let what = format!("{isa:?}");
        near(&model.logits(&pixels, size).unwrap(), &floats(&file, "logits"), 1e-5, &what);
        let mut trace = Trace::default();
        model.hidden(&pixels, size, Some(&mut trace)).unwrap();
        near(&trace.hidden.concat(), &floats(&file, "hidden"), 1e-5, &what);
        near(&trace.class_attention.concat(), &floats(&file, "attn_cls"), 1e-5, &what);
    }
}
