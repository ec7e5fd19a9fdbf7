//! The default model itself, fetched as a user's first run would.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod common;

use common::Notes;
use meden_files::ModelFiles;
use meden_files::source::{DEFAULT, ResolveOptions, resolve};
use meden_kernels::dtype::DType;

/// Without a network and without the model there is nothing to test; on a build server there is both.
#[test]
fn the_default_model_is_fetched_opened_and_read() {
    let path = match resolve(DEFAULT, &ResolveOptions::from_env(), &mut Notes::default()) {
        Ok(path) => path,
        Err(e) if std::env::var_os("CI").is_none() => {
            println!("skipped: the default model is not here ({e})");
            return;
        }
        Err(e) => panic!("{e}"),
    };
    let model = ModelFiles::open(&path).unwrap();
    let gguf = model.gguf().unwrap();
    assert_eq!((model.architecture(), gguf.version(), model.tensors().len()), ("llama", 3, 272));
    assert_eq!(gguf.u32("llama.block_count").unwrap(), 30);
    assert_eq!(gguf.str_array("tokenizer.ggml.tokens").unwrap().len(), 49_152);
    assert!(model.chat_template().unwrap().contains("<|im_start|>"));
    let mut types = std::collections::BTreeMap::new();
    for t in model.tensors() {
        *types.entry(t.dtype.name()).or_insert(0) += 1;
    }
    assert_eq!(types.into_iter().collect::<Vec<_>>(), [("F32", 61), ("Q4_1", 210), ("Q8_0", 1)]);
    let embedding = model.require("model.embed_tokens.weight").unwrap();
    assert_eq!((embedding.dtype, embedding.shape.as_slice()), (DType::Q8_0, &[49_152, 576][..]));
    let row = 576 / 32 * 34;
    assert_eq!(model.read_rows(embedding, 7..9).unwrap(), model.read(embedding).unwrap()[7 * row..9 * row]);
    for layer in [0, 29] {
        for name in ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"] {
            model.require(&format!("model.layers.{layer}.{name}.weight")).unwrap();
        }
    }
    assert_eq!(model.fingerprint().unwrap(), ModelFiles::open(&path).unwrap().fingerprint().unwrap());
}
