//! The arms of a replica: seven methods, and what is left when parts of ALaST are taken away.

/// An arm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arm {
    pub(super) name: &'static str,
    /// The method whose learning rate it takes.
    pub(super) rate_of: &'static str,
    /// The middle of the three rates that validation chooses from.
    pub(super) rate: f64,
    /// Flags of `meden vision finetune`.
    pub(super) flags: &'static [&'static str],
}

const fn method(name: &'static str, rate: f64, flags: &'static [&'static str]) -> Arm {
    Arm { name, rate_of: name, rate, flags }
}

const fn ablation(name: &'static str, flags: &'static [&'static str]) -> Arm {
    Arm { name, rate_of: "alast", rate: 3e-5, flags }
}

/// All arms. `alast` is sampled layers, default alpha, tokens on; with alpha at 0 all budgets are equal, so sampled, best
/// and even draws are one arm (and with tokens off too).
pub(super) static ARMS: [Arm; 13] = [
    method("full", 3e-5, &["--method", "full"]),
    method("probe", 1e-3, &["--method", "probe"]),
    method("last-k", 3e-5, &["--method", "last-k"]),
    method("bitfit", 3e-4, &["--method", "bitfit"]),
    method("lora", 1e-3, &["--method", "lora"]),
    method("lisa", 3e-5, &["--method", "lisa"]),
    method("alast", 3e-5, &["--method", "alast"]),
    ablation("alast-topk", &["--method", "alast", "--layers", "topk"]),
    ablation("alast-uniform", &["--method", "alast", "--layers", "uniform"]),
    ablation("alast-sample-no-tokens", &["--method", "alast", "--tokens", "off"]),
    ablation("alast-topk-no-tokens", &["--method", "alast", "--layers", "topk", "--tokens", "off"]),
    ablation("static", &["--method", "static"]),
    ablation("static-no-tokens", &["--method", "static", "--tokens", "off"]),
];

/// Factors of the three rates.
pub(super) const RATES: [f64; 3] = [1.0 / 3.0, 1.0, 3.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_rates_come_from_methods() {
        for (i, arm) in ARMS.iter().enumerate() {
            assert!(ARMS[..i].iter().all(|other| other.name != arm.name && other.flags != arm.flags), "{}", arm.name);
            assert!(ARMS.iter().any(|other| other.name == arm.rate_of && other.rate_of == other.name));
        }
        assert_eq!(ARMS.iter().filter(|a| a.name == a.rate_of).count(), 7);
    }
}
