//! How the next token is chosen, and where the answer ends.

use std::collections::BTreeMap;

use meden_engine::text::SamplingConfig;

/// Flags of sampling and stopping.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Most tokens to write
    #[arg(long, short = 'n', default_value_t = 256, value_name = "N")]
    pub max_tokens: usize,
    /// Randomness: 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub temperature: f32,
    /// Choose among the K likeliest tokens; 0 means all
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub top_k: usize,
    /// Choose among the likeliest tokens that hold this share of probability; 1 means all
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest; 0 drops none
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub min_p: f32,
    /// Make tokens that have occurred less likely, by a factor; 1 means off
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    pub repetition_penalty: f32,
    /// Make tokens that have occurred less likely, by an amount
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// The same, for each time they have occurred
    #[arg(long, default_value_t = 0.0, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// How many of the last tokens the penalties look at; 0 means all
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub penalty_last_n: usize,
    /// Seed of the random choices: the same seed gives the same text
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    pub seed: u64,
    /// Add BIAS to a token's logit, as in 42=-100; may be repeated
    #[arg(long, value_name = "ID=BIAS", value_parser = parse_bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Give the log-probabilities of the N likeliest tokens at each step (with --json)
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub logprobs: usize,
    /// End where this text would appear; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Do not end at the model's end-of-text token
    #[arg(long)]
    pub ignore_eos: bool,
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let wrong = || "write a token id and a number, as in 42=-100".to_owned();
    let (id, bias) = text.split_once('=').ok_or_else(wrong)?;
    let bias: f32 = bias.trim().parse().map_err(|_| wrong())?;
    if bias.is_nan() {
        return Err(wrong());
    }
    Ok((id.trim().parse().map_err(|_| wrong())?, bias))
}

impl SamplingArgs {
    /// What a sampler is made with.
    pub fn config(&self) -> SamplingConfig {
        SamplingConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            penalty_last_n: self.penalty_last_n,
            seed: self.seed,
            logit_bias: self.logit_bias.iter().copied().collect::<BTreeMap<_, _>>(),
            logprobs: self.logprobs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_is_an_id_and_a_number() {
        assert_eq!(parse_bias("42=-100"), Ok((42, -100.0)));
        assert_eq!(parse_bias("7 = -inf").map(|b| b.1), Ok(f32::NEG_INFINITY));
        for bad in ["42", "x=1", "1=y", "1=nan", "-1=2"] {
            assert!(parse_bias(bad).is_err(), "{bad}");
        }
    }
}
