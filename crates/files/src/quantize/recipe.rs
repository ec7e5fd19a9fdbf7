//! Which format each tensor gets. The rules are those of llama.cpp, so that files mean the same under the same name.

use std::fmt;
use std::str::FromStr;

use meden_kernels::DType;
use serde::{Deserialize, Serialize};

use super::QuantizeError;

/// A name on the command line: a weight format for all matrices, or a mix of formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Recipe(usize);

/// Name, format of most matrices, whether some get more bits, and `general.file_type`.
const RECIPES: [(&str, DType, bool, u32); 17] = [
    ("f32", DType::F32, false, 0),
    ("f16", DType::F16, false, 1),
    ("bf16", DType::BF16, false, 32),
    ("q8_0", DType::Q8_0, false, 7),
    ("q6_k", DType::Q6K, false, 18),
    ("q5_k_m", DType::Q5K, true, 17),
    ("q5_k", DType::Q5K, false, 16),
    ("q5_1", DType::Q5_1, false, 9),
    ("q5_0", DType::Q5_0, false, 8),
    ("q4_k_m", DType::Q4K, true, 15),
    ("q4_k", DType::Q4K, false, 14),
    ("q4_1", DType::Q4_1, false, 3),
    ("q4_0", DType::Q4_0, false, 2),
    ("iq4_nl", DType::IQ4NL, false, 25),
    ("iq4_xs", DType::IQ4XS, false, 30),
    ("q3_k", DType::Q3K, false, 11),
    ("q2_k", DType::Q2K, false, 10),
];

/// What of a model decides beside the tensor itself.
#[derive(Clone, Copy, Debug)]
pub struct Outline {
    /// Number of layers.
    pub layers: usize,
    /// Whether the embedding serves as output matrix.
    pub tied: bool,
}

/// The format of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What it gets.
    pub dtype: DType,
    /// What the recipe gives to tensors of this name; another than `dtype` where its rows do not divide into blocks.
    pub wanted: DType,
}

impl Recipe {
    /// Every name, from many bits to few.
    pub fn names() -> impl Iterator<Item = &'static str> {
        RECIPES.iter().map(|r| r.0)
    }

    /// Every recipe, from many bits to few.
    pub fn all() -> impl Iterator<Item = Recipe> {
        (0..RECIPES.len()).map(Recipe)
    }

    /// Its name: "q4_k_m".
    pub fn name(self) -> &'static str {
        RECIPES[self.0].0
    }

    /// The format of most matrices.
    pub fn base(self) -> DType {
        RECIPES[self.0].1
    }

    /// The number that `general.file_type` has for it.
    pub fn file_type(self) -> u32 {
        RECIPES[self.0].3
    }

    /// The format of a tensor. `name` is the GGUF name, `shape` row-major.
    ///
    /// Vectors (norms, biases, rotation factors) stay F32: they are few, and the kernels want them so.
    pub fn choose(self, model: Outline, name: &str, shape: &[usize]) -> Choice {
        if shape.len() < 2 || name.contains("norm") || !name.ends_with("weight") || name.starts_with("rope_") {
            return Choice { dtype: DType::F32, wanted: DType::F32 };
        }
        let wanted = self.wanted(model, name);
        let cols = shape[shape.len() - 1];
        let mut dtype = wanted;
        while !cols.is_multiple_of(dtype.block_len()) {
            dtype = instead_of(dtype);
        }
        Choice { dtype, wanted }
    }

    fn wanted(self, model: Outline, name: &str) -> DType {
        let (_, base, mixed, _) = RECIPES[self.0];
        if base.is_float() || base == DType::Q8_0 {
            return base;
        }
        // every logit goes through this matrix
        if name == "output.weight" || model.tied && name == "token_embd.weight" {
            return DType::Q6K;
        }
        if !mixed {
            return base;
        }
        let more = if base == DType::Q4K { DType::Q5K } else { DType::Q6K };
        let layer = || name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')?.0.parse().ok());
        match name.rsplit('.').nth(1) {
            Some("attn_v" | "ffn_down") if layer().is_some_and(|l| matters(l, model.layers)) => DType::Q6K,
            Some("attn_qkv") => more,
            _ => base,
        }
    }
}

/// The first and last eighth of the layers, and every third between: they are hurt most by few bits.
fn matters(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// The next format for rows that this one cannot cut into blocks; ends at F16, which has none.
fn instead_of(dtype: DType) -> DType {
    match dtype {
        DType::Q2K | DType::Q3K | DType::IQ4XS => DType::IQ4NL,
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        DType::Q6K => DType::Q8_0,
        _ => DType::F16,
    }
}

impl TryFrom<String> for Recipe {
    type Error = QuantizeError;
    fn try_from(text: String) -> Result<Recipe, QuantizeError> {
        text.parse()
    }
}

impl From<Recipe> for String {
    fn from(recipe: Recipe) -> String {
        recipe.name().to_owned()
    }
}

impl FromStr for Recipe {
    type Err = QuantizeError;
    fn from_str(text: &str) -> Result<Recipe, QuantizeError> {
        let found = RECIPES.iter().position(|r| r.0.eq_ignore_ascii_case(text));
        found.map(Recipe).ok_or_else(|| QuantizeError::Recipe {
            name: text.to_owned(),
            known: Recipe::names().collect::<Vec<_>>().join(", "),
        })
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tensors that did not get the format they were to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Substitute {
    /// The recipe's format.
    pub wanted: String,
    /// What they got.
    pub used: String,
    /// Values in a block of the recipe's format.
    pub block: usize,
    /// How many.
    pub tensors: usize,
}

/// Counts of substitutes, a row for each pair of formats, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Substitutes(Vec<Substitute>);

impl Substitutes {
    /// Counts one tensor, if it got a substitute.
    pub fn count(&mut self, choice: Choice) {
        if choice.dtype == choice.wanted {
            return;
        }
        let (wanted, used) = (choice.wanted.name(), choice.dtype.name());
        // In a fixed order, since tensors are counted in whatever order threads come to them; Q before F.
        let order = |s: &Substitute| s.wanted.as_str().cmp(wanted).then(used.cmp(s.used.as_str()));
        match self.0.binary_search_by(order) {
            Ok(at) => self.0[at].tensors += 1,
            Err(at) => self.0.insert(
                at,
                Substitute {
                    wanted: wanted.to_owned(),
                    used: used.to_owned(),
                    block: choice.wanted.block_len(),
                    tensors: 1,
                },
            ),
        }
    }

    /// The rows.
    pub fn rows(&self) -> &[Substitute] {
        &self.0
    }
}

impl fmt::Display for Substitute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Substitute { wanted, used, block, tensors } = self;
        let noun = if *tensors == 1 { "tensor" } else { "tensors" };
        write!(f, "{tensors} {noun} in {used} instead of {wanted}: rows are no multiple of {block}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(recipe: &str, name: &str, shape: &[usize]) -> Choice {
        let recipe: Recipe = recipe.parse().expect("a recipe");
        recipe.choose(Outline { layers: 32, tied: false }, name, shape)
    }

    #[test]
    fn names_are_unique_and_found_in_any_case() {
        for recipe in Recipe::all() {
            assert_eq!(recipe.name().to_uppercase().parse::<Recipe>().expect("known"), recipe);
        }
        for recipe in Recipe::all() {
            let json = serde_json::to_string(&recipe).expect("a name");
            assert_eq!(json, format!("{:?}", recipe.name()));
            assert_eq!(serde_json::from_str::<Recipe>(&json).expect("known"), recipe);
        }
        assert!(serde_json::from_str::<Recipe>("\"q9\"").is_err());
        let error = "q9".parse::<Recipe>().expect_err("unknown").to_string();
        assert!(error.contains("q9") && error.contains("q4_k_m"), "{error}");
    }

    #[test]
    fn vectors_norms_and_rotation_factors_stay_f32() {
        for recipe in Recipe::names() {
            for (name, shape) in [
                ("blk.0.attn_norm.weight", &[256][..]),
                ("blk.0.attn_q.bias", &[256]),
                ("blk.0.attn_q_norm.weight", &[4, 64]),
                ("rope_freqs.weight", &[32]),
                ("rope_factors_long.weight", &[1, 32]),
            ] {
                assert_eq!(choose(recipe, name, shape).dtype, DType::F32, "{recipe} {name}");
            }
        }
    }

    #[test]
    fn rows_that_cannot_be_cut_get_the_substitute_of_llama_cpp() {
        for (recipe, narrow) in [
            ("q4_k", DType::Q5_0),
            ("q5_k", DType::Q5_1),
            ("q6_k", DType::Q8_0),
            ("q2_k", DType::IQ4NL),
            ("q3_k", DType::IQ4NL),
            ("iq4_xs", DType::IQ4NL),
            ("q4_0", DType::Q4_0),
        ] {
            let base = recipe.parse::<Recipe>().expect("a recipe").base();
            assert_eq!(choose(recipe, "blk.3.ffn_up.weight", &[8, 512]), Choice { dtype: base, wanted: base });
            assert_eq!(choose(recipe, "blk.3.ffn_up.weight", &[8, 576]), Choice { dtype: narrow, wanted: base });
            assert_eq!(choose(recipe, "blk.3.ffn_up.weight", &[8, 100]).dtype, DType::F16);
        }
    }

    #[test]
    fn the_output_matrix_keeps_six_bits_tied_or_not() {
        let recipe: Recipe = "q4_0".parse().expect("a recipe");
        let of = |tied, name| recipe.choose(Outline { layers: 2, tied }, name, &[100, 512]).dtype;
        assert_eq!(of(false, "output.weight"), DType::Q6K);
        assert_eq!(of(false, "token_embd.weight"), DType::Q4_0);
        assert_eq!(of(true, "token_embd.weight"), DType::Q6K);
        assert_eq!(choose("q8_0", "output.weight", &[100, 512]).dtype, DType::Q8_0);
        assert_eq!(choose("bf16", "output.weight", &[100, 512]).dtype, DType::BF16);
    }

    #[test]
    fn mixes_give_more_bits_to_the_layers_that_matter() {
        let high: Vec<usize> = (0..32)
            .filter(|l| choose("q4_k_m", &format!("blk.{l}.ffn_down.weight"), &[8, 256]).dtype == DType::Q6K)
            .collect();
        assert_eq!(high, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        assert_eq!(choose("q4_k_m", "blk.0.ffn_up.weight", &[8, 256]).dtype, DType::Q4K);
        assert_eq!(choose("q5_k_m", "blk.0.attn_v.weight", &[8, 256]).dtype, DType::Q6K);
        assert_eq!(choose("q4_k_m", "blk.0.attn_qkv.weight", &[8, 256]).dtype, DType::Q5K);
        assert_eq!(choose("q4_k", "blk.0.ffn_down.weight", &[8, 256]).dtype, DType::Q4K);
    }
}
