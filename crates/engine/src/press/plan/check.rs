//! What of a policy cannot be: refused before anything is read, with what would do.

use super::bytes::{Extra, bytes_of_tokens, tokens_of_bytes};
use crate::cache::KvCache;
use crate::model::config::Config;
use crate::press::Press;
use crate::press::budget::{Budget, SkipOverflow};
use crate::press::policy::{Policy, PrefillSchedule, Rounding};
use crate::press::registry::{self, Adaptivity};

pub(super) fn skipped_layers(policy: &Policy, config: &Config) -> Result<Vec<bool>, String> {
    let mut skipped = vec![false; config.layers];
    for layer in policy.skipped() {
        // the press's own default skips what a small model may not have
        match skipped.get_mut(layer) {
            Some(skip) => *skip = true,
            None if policy.skip_layers.is_none() => {}
            None => {
                return Err(format!(
                    "skip layer {layer} does not exist: the model has layers 0 to {}",
                    config.layers - 1
                ));
            }
        }
    }
    Ok(skipped)
}

/// What a press can do, against what is asked of it.
pub(super) fn character(policy: &Policy, press: &dyn Press, pressed: usize, config: &Config) -> Result<(), String> {
    match (press.own_budget(), policy.budget) {
        (true, Budget::Press) | (false, Budget::Ratio(_) | Budget::Tokens(_) | Budget::Bytes(_)) => {}
        (true, other) => {
            return Err(format!(
                "it decides itself how much stays, so a budget of {other} would be ignored: write the budget `press`, and set its own parameters"
            ));
        }
        (false, Budget::Press) => {
            return Err("it needs a budget: a share such as 25%, tokens such as 512, or bytes such as 8MiB".into());
        }
    }
    let once = policy.schedule.prefill == PrefillSchedule::End && policy.schedule.decode_every.is_none();
    if let (Some(why), false) = (press.only_at_prefill_end(), once) {
        return Err(format!("{why}: use the schedule prefill_end (asked for: {})", policy.schedule));
    }
    if press.renumbers() && pressed < config.layers {
        return Err(format!(
            "it numbers positions anew, which all layers have to do alike, but {} of {} layers are skipped or slide; give --skip-layers none, or another press",
            config.layers - pressed,
            config.layers
        ));
    }
    Ok(())
}

/// Can the budget hold what is protected, and can it be met while skipped layers grow? Of `full` full-attention layers,
/// `pressed` are pressed. Where the budget is in bytes: the tokens that a head may hold.
pub(super) fn budget(
    policy: &Policy,
    press: &dyn Press,
    (full, pressed): (usize, usize),
    cache: &KvCache,
) -> Result<Option<usize>, String> {
    let protect = policy.protect();
    let floor = (protect.sinks + protect.recents).max(1);
    let grows = policy.skip_overflow == SkipOverflow::Grow && pressed < full;
    match policy.budget {
        Budget::Tokens(tokens) if tokens < floor => Err(format!(
            "a budget of {tokens} tokens cannot hold {} sinks and {} recents; the smallest is {floor} (or lower --sinks and --recents)",
            protect.sinks, protect.recents
        )),
        Budget::Bytes(_) if grows => {
            Err("a budget in bytes cannot hold while skipped layers grow: use skip overflow `window`".into())
        }
        Budget::Bytes(bytes) => {
            let extra = extra(policy, press);
            let tokens = tokens_of_bytes(bytes, cache, &extra);
            if tokens < floor {
                return Err(format!(
                    "{} cannot hold {} sinks and {} recents in pages of every head; the smallest budget is {}",
                    policy.budget,
                    protect.sinks,
                    protect.recents,
                    Budget::Bytes(bytes_of_tokens(floor, cache, &extra).next_multiple_of(1024))
                ));
            }
            Ok(Some(tokens))
        }
        Budget::Ratio(share) if grows && policy.rounding == Rounding::Meden => {
            let least = (full - pressed) as f64 / full as f64;
            if share <= least {
                return Err(format!(
                    "{} of {full} layers are skipped and grow, so no more than {} can be removed overall; keep more than {}, or use skip overflow `window`",
                    full - pressed,
                    Budget::Ratio(1.0 - least),
                    Budget::Ratio(least)
                ));
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// What the press costs beside the slots.
fn extra(policy: &Policy, press: &dyn Press) -> Extra {
    let own = press.name() == policy.press.name();
    let columns = if own { policy.press.columns() } else { usize::from(press.needs().attention_mass) };
    let adaptivity = registry::find(press.name()).map_or(Adaptivity::LayersAndHeads, |info| info.adaptivity);
    Extra { columns, ragged: adaptivity != Adaptivity::Uniform }
}
