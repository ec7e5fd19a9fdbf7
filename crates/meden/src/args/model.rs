//! Which model, and how it is held and run.

use std::path::Path;

use meden_engine::{Isa, LoadOptions, WeightMode};
use meden_files::quantize::Recipe;
use serde::{Deserialize, Serialize};

/// Flags that choose a model and how it is loaded.
// As JSON they tell a second process of the program which model to measure.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A built-in name (smollm2, gemma3-270m), hf:owner/name[:file], a .gguf file, or a folder with safetensors
    #[arg(long, short, default_value = meden_files::source::DEFAULT, value_name = "NAME|PATH")]
    pub model: String,
    /// Threads; 0 means one for each physical core this process may use
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// How weights are held: native (as in the file), f32 (reference path), mapped (least memory; the file must not change)
    #[arg(long, default_value = "native", value_name = "native|f32|mapped")]
    pub weights: WeightMode,
    /// Instruction set of the kernels (scalar, avx2, avx512, amx); default: the best of this processor
    #[arg(long, value_name = "SET")]
    pub isa: Option<Isa>,
    /// Quantise weights while loading (q8_0, q4_k_m, ...; the types of `meden quantize`), vectors stay F32
    #[arg(long, value_name = "TYPE")]
    pub quantize: Option<Recipe>,
}

impl ModelArgs {
    /// How to load.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions { threads: self.threads, weights: self.weights, isa: self.isa, quantize: self.quantize }
    }

    /// The same for files that have been found already.
    pub fn at(&self, path: &Path) -> ModelArgs {
        ModelArgs { model: path.display().to_string(), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_gets_the_same_arguments() {
        for isa in Isa::ALL.map(Some).into_iter().chain([None]) {
            for quantize in Recipe::all().map(Some).chain([None]) {
                for weights in [WeightMode::Native, WeightMode::F32, WeightMode::Mapped] {
                    let args = ModelArgs { model: "a \"model\"".to_owned(), threads: 3, weights, isa, quantize };
                    let json = serde_json::to_string(&args).expect("plain values");
                    assert_eq!(serde_json::from_str::<ModelArgs>(&json).expect("what was written"), args);
                }
            }
        }
        let at =
            ModelArgs { model: "name".to_owned(), threads: 1, weights: WeightMode::F32, isa: None, quantize: None }
                .at(Path::new("/there/x.gguf"));
        assert_eq!((at.model.as_str(), at.weights), ("/there/x.gguf", WeightMode::F32));
    }
}
