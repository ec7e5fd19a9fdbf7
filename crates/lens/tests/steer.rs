//! Steering: the edit against reference values, the hook, and files.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Tensor, max_diff, oracle, same_bits, tensors, tiny};
use meden_engine::{Control, LogitRows, Session, Site};
use meden_lens::LensError;
use meden_lens::capture::exact_session;
use meden_lens::place::Place;
use meden_lens::sae::{Activation, Codes, Normalize, Origin, Parts, Sae};
use meden_lens::steer::control_vector::ControlVector;
use meden_lens::steer::information::{BINS, bins, neighbours, of_bins};
use meden_lens::steer::{
    Bound, Edit, EditParts, Estimator, Latents, Mode, Rule, Selection, Spectral, SteerHook, Steering, Toward, Where,
};
use meden_stats::Rng;

fn codes_of(dense: &[&Tensor]) -> Codes {
    let n = dense[0].shape[1];
    let mut codes = Codes::new(n);
    for row in dense.iter().flat_map(|t| t.f.chunks(n)) {
        let latents: Vec<u32> = (0..n as u32).filter(|l| row[*l as usize] > 0.0).collect();
        let values: Vec<f32> = latents.iter().map(|l| row[*l as usize]).collect();
        codes.push(&latents, &values, None);
    }
    codes
}

fn sae_of(t: &BTreeMap<String, Tensor>) -> Sae {
    let (d, n) = (t["W_enc"].shape[0], t["W_enc"].shape[1]);
    let mut encoder = vec![0.0; n * d];
    (0..d).for_each(|i| (0..n).for_each(|j| encoder[j * d + i] = t["W_enc"].f[i * n + j]));
    let parts = Parts {
        d_in: d,
        d_out: d,
        width: n,
        encoder,
        decoder: t["W_dec"].f.clone(),
        b_enc: t["b_enc"].f.clone(),
        b_dec: t["b_dec"].f.clone(),
        skip: None,
        activation: Activation::Relu,
        normalize: Normalize::None,
        subtract_b_dec: true,
        rescale_by_decoder_norm: false,
        origin: Origin::default(),
    };
    Sae::new(parts, 1).unwrap()
}

#[test]
fn information_selection_and_edit_have_the_reference_values() {
    let Some(root) = oracle("sae") else { return };
    let t = tensors(&root.join("spare.safetensors"));
    let (z_c, z_m) = (&t["z_c"], &t["z_m"]);
    let n = z_c.shape[1];
    let labels: Vec<bool> = (0..z_c.shape[0] + z_m.shape[0]).map(|r| r < z_c.shape[0]).collect();
    for latent in 0..n {
        let column: Vec<f32> = [z_c, z_m].iter().flat_map(|t| t.f.chunks(n).map(|row| row[latent])).collect();
        let got = of_bins(&bins(&column, BINS), &labels);
        assert!((got - f64::from(t["mi_binned"].f[latent])).abs() < 1e-6, "latent {latent}: {got}");
    }
    let codes = codes_of(&[z_c, z_m]);
    let strata = vec![0; labels.len()];
    let selection =
        Selection { codes: &codes, labels: &labels, strata: &strata, estimator: Estimator::Binned, seed: 0 };
    let mut top = t["top"].ids();
    let selected = selection.choose(Rule::Top { count: top.len() });
    let mut found: Vec<u32> = selected.chosen.iter().map(|c| c.latent).collect();
    top.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, top);
    for c in &selected.chosen {
        let at = c.latent as usize;
        assert!((c.difference - f64::from(t["e"].f[at])).abs() < 1e-5);
        let target = if c.is_context() { &t["target_c"] } else { &t["target_m"] };
        assert!((c.target - f64::from(target.f[at])).abs() < 1e-5);
    }
    let sae = sae_of(&t);
    let latents: Vec<u32> = selected.chosen.iter().map(|c| c.latent).collect();
    let d = t["h"].shape[1];
    let mut cases = 0;
    for (name, want) in &t {
        let parts: Vec<&str> = name.split('.').collect();
        let (mode, toward) = match (parts[0], parts.last()) {
            ("code", Some(to)) => (Mode::Code, *to),
            ("paper", Some(to)) => (Mode::Paper, *to),
            _ => continue,
        };
        let strength: f32 = parts[1..parts.len() - 1].join(".").parse().unwrap();
        let toward = if toward == "to_context" { Toward::Context } else { Toward::Memory };
        let chosen = sae.chosen(&latents).unwrap();
        let edit = Edit::Latents(Box::new(Latents::new(chosen, &selected, mode, EditParts::Both)));
        let mut h = t["h"].f.clone();
        h.chunks_mut(d).for_each(|row| edit.apply(row, toward, strength));
        let off = max_diff(&h, &want.f);
        assert!(off < 1e-5, "{name}: {off}");
        cases += 1;
    }
    assert!(cases >= 4, "{cases}");
}

#[test]
fn the_neighbours_estimator_has_the_reference_values() {
    let Some(root) = oracle("sae") else { return };
    let text = std::fs::read_to_string(root.join("mi_knn.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let list = |v: &serde_json::Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<f64>>();
    let labels: Vec<bool> = list(&json["y"]).iter().map(|y| *y == 1.0).collect();
    for (column, want) in json["columns"].as_array().unwrap().iter().zip(list(&json["mi"])) {
        let values: Vec<f32> = list(column).iter().map(|v| *v as f32).collect();
        let got = neighbours(&values, &labels, 3);
        // stored to seven digits
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }
}

/// Directions are the axes: every number of the edit can be written down.
fn axes(d: usize) -> Sae {
    let unit: Vec<f32> = (0..d * d).map(|i| if i / d == i % d { 1.0 } else { 0.0 }).collect();
    let parts = Parts {
        d_in: d,
        d_out: d,
        width: d,
        encoder: unit.clone(),
        decoder: unit,
        b_enc: vec![0.0; d],
        b_dec: vec![0.0; d],
        skip: None,
        activation: Activation::Relu,
        normalize: Normalize::None,
        subtract_b_dec: false,
        rescale_by_decoder_norm: false,
        origin: Origin::default(),
    };
    Sae::new(parts, 1).unwrap()
}

fn by_hand(mode: Mode, parts: EditParts) -> Edit {
    let chosen = axes(4).chosen(&[0, 1, 2]).unwrap();
    let (context, memory) = (vec![2.0, 0.0, 0.0], vec![0.0, 1.5, 0.5]);
    Edit::Latents(Box::new(Latents { chosen, context, memory, mode, parts }))
}

#[test]
fn the_edit_is_what_the_formulas_say() {
    let h = [3.0, 1.0, -1.0, 7.0];
    let after = |edit: &Edit, toward, s| {
        let mut row = h;
        edit.apply(&mut row, toward, s);
        row
    };
    let code = by_hand(Mode::Code, EditParts::Both);
    // to memory: 3 loses min(3, 2), 1 rises to 1.5, the silent one (z = 0) rises by 0.5
    assert_eq!(after(&code, Toward::Memory, 1.0), [1.0, 1.5, -0.5, 7.0]);
    // twice: min(3, 4) goes, 1 rises to 3, and by 1
    assert_eq!(after(&code, Toward::Memory, 2.0), [0.0, 3.0, 0.0, 7.0]);
    // to the context: min(1, 1.5) goes, 3 is above 2 already
    assert_eq!(after(&code, Toward::Context, 1.0), [3.0, 0.0, -1.0, 7.0]);
    let paper = by_hand(Mode::Paper, EditParts::Both);
    for toward in Toward::BOTH {
        assert_eq!(after(&code, toward, 1.0), after(&paper, toward, 1.0));
    }
    // the paper's form takes out more than there is
    assert_eq!(after(&paper, Toward::Memory, 2.0), [-1.0, 2.0, 0.0, 7.0]);
    assert_eq!(after(&by_hand(Mode::Code, EditParts::Remove), Toward::Memory, 1.0), [1.0, 1.0, -1.0, 7.0]);
    assert_eq!(after(&by_hand(Mode::Code, EditParts::Add), Toward::Memory, 1.0), [3.0, 1.5, -0.5, 7.0]);
    assert_eq!(after(&by_hand(Mode::Code, EditParts::Blind), Toward::Memory, 1.0), [1.0, 2.5, -0.5, 7.0]);
    // what was brought in stays when it is done again
    let mut twice = h;
    code.apply(&mut twice, Toward::Memory, 1.0);
    let once = twice;
    code.apply(&mut twice, Toward::Memory, 1.0);
    assert_eq!(once[1], twice[1]);
    let nothing = Edit::Add { vector: vec![f32::MAX; 4], keep_norm: false };
    assert!(same_bits(&after(&nothing, Toward::Context, 0.0), &h) && same_bits(&after(&code, Toward::Memory, 0.0), &h));
}

fn steering(model: &meden_engine::Model, layer: usize, edit: Edit) -> Steering {
    Steering {
        bound: Bound::of(model, Some("abc".into())),
        edits: BTreeMap::from([(Place::new(Site::ResidPost, layer), edit)]),
        whereabouts: Where::LastPrompt,
        strength: 1.5,
        note: "a test".into(),
    }
}

fn vector(d: usize, seed: u64) -> Edit {
    let mut rng = Rng::new(seed, 0);
    Edit::Add { vector: (0..d).map(|_| rng.normal() as f32).collect(), keep_norm: false }
}

fn read(session: &mut Session, ids: &[u32], hook: &mut SteerHook<'_>) -> Vec<f32> {
    let mut control = Control::default();
    control.hooks.push(hook);
    session.forward(ids, LogitRows::Last, &mut control).unwrap()
}

#[test]
fn only_the_prompts_last_token_is_edited_whatever_the_pieces() {
    let Some(model) = tiny("llama") else { return };
    let ids = common::ids(30);
    let steer = steering(&model, 1, vector(model.config().hidden, 3));
    let plain = common::last_logits(&model, &ids);
    let mut first: Option<Vec<f32>> = None;
    for chunk in [1, 4, 7, 29, 30, 512] {
        let mut session = common::chunked(&model, chunk);
        let mut hook = SteerHook::new(&steer, (Toward::Context, 1.0), &session, ids.len());
        let logits = read(&mut session, &ids, &mut hook);
        assert_eq!(hook.applied().rows, 1);
        assert!(hook.applied().relative > 0.0);
        assert!(!same_bits(&logits, &plain));
        let same = first.get_or_insert_with(|| logits.clone());
        assert!(max_diff(same, &logits) < 1e-4);
        // written tokens are left alone; what the edit left in the cache stays
        read(&mut session, &[5], &mut hook);
        assert_eq!(hook.applied().rows, 1);
        // a fork keeps it, a rewind to before the last token drops it
        let mut fork = session.fork().unwrap();
        fork.rewind(ids.len() - 1).unwrap();
        let again = fork.forward(&ids[ids.len() - 1..], LogitRows::Last, &mut Control::default()).unwrap();
        assert!(max_diff(&again, &plain) < 1e-4);
    }
    for (whereabouts, rows) in [(Where::All, 31), (Where::Generated, 2)] {
        let mut session = exact_session(&model).unwrap();
        let mut hook = SteerHook::new(&steer, (Toward::Memory, 0.5), &session, ids.len()).at(whereabouts);
        read(&mut session, &ids, &mut hook);
        read(&mut session, &[5], &mut hook);
        assert_eq!(hook.applied().rows, rows);
    }
    let mut session = exact_session(&model).unwrap();
    let mut hook = SteerHook::new(&steer, (Toward::Memory, 0.0), &session, ids.len());
    assert!(same_bits(&read(&mut session, &ids, &mut hook), &plain), "strength 0 is no steering, bit for bit");
}

#[test]
fn a_file_holds_every_kind_of_edit_and_is_bound_to_its_model() {
    let (Some(model), Some(other)) = (tiny("llama"), tiny("qwen3")) else { return };
    let d = model.config().hidden;
    let path = std::env::temp_dir().join(format!("meden-steer-{}.safetensors", std::process::id()));
    let numbers = |seed: u64| (0..d).map(|i| ((i as u64 * 7 + seed) % 11) as f32 - 5.0).collect::<Vec<f32>>();
    let jump = Activation::JumpRelu { threshold: vec![0.25; d] };
    let parts = Parts { activation: jump, normalize: Normalize::LayerNorm, ..axes(d).parts() };
    let chosen = Sae::new(parts, 1).unwrap().chosen(&[4, 1]).unwrap();
    let latents =
        Latents { chosen, context: vec![1.0, 0.0], memory: vec![0.0, 2.0], mode: Mode::Paper, parts: EditParts::Both };
    let edits = [
        Edit::Latents(Box::new(latents)),
        Edit::Add { vector: numbers(1), keep_norm: true },
        Edit::Project { direction: numbers(2), targets: [1.0, -2.0] },
        Edit::Replace { context: numbers(3), memory: numbers(4) },
        Edit::Spectral(Spectral { context: numbers(5), memory: numbers(6), d, squared_exponential: true }),
    ];
    for edit in edits {
        let before = steering(&model, 1, edit);
        before.save(&path).unwrap();
        let after = Steering::open(&path).unwrap();
        after.check(&model, &path).unwrap();
        assert_eq!((after.strength, after.whereabouts, &after.note), (1.5, Where::LastPrompt, &before.note));
        for toward in Toward::BOTH {
            let (mut a, mut b) = (numbers(9), numbers(9));
            before.edits.values().for_each(|e| e.apply(&mut a, toward, 1.25));
            after.edits.values().for_each(|e| e.apply(&mut b, toward, 1.25));
            assert!(same_bits(&a, &b));
        }
        let refused = after.check(&other, &path).unwrap_err().to_string();
        assert!(refused.contains("llama") && refused.contains("qwen3"), "{refused}");
    }
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
    assert!(Steering::open(&path).is_err());
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn control_vectors_are_written_and_read_back() {
    let path = std::env::temp_dir().join(format!("meden-control-{}.gguf", std::process::id()));
    let vector = ControlVector {
        model: "llama".into(),
        directions: BTreeMap::from([(3, vec![1.0, -2.0, 0.5]), (12, vec![0.0, 4.0, 1e-8])]),
    };
    vector.write(&path).unwrap();
    assert_eq!(ControlVector::read(&path).unwrap(), vector);
    let first = ControlVector { directions: BTreeMap::from([(0, vec![1.0])]), ..vector.clone() };
    assert!(matches!(first.write(&path), Err(LensError::Unfit { .. })));
    let uneven = ControlVector { directions: BTreeMap::from([(1, vec![1.0]), (2, vec![1.0, 2.0])]), ..vector };
    assert!(uneven.write(&path).is_err());
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn sessions_of_a_batch_are_steered_each_by_its_own_strength() {
    use meden_engine::{BatchItem, Hook, forward_batch};
    let Some(model) = tiny("llama") else { return };
    let d = model.config().hidden;
    let vector: Vec<f32> = (0..d).map(|i| (i % 5) as f32 * 0.3 - 0.4).collect();
    let steering = Steering {
        bound: Bound::of(&model, None),
        edits: BTreeMap::from([(Place::new(Site::ResidPost, 0), Edit::Add { vector, keep_norm: false })]),
        whereabouts: Where::LastPrompt,
        strength: 1.0,
        note: String::new(),
    };
    let asked = [(Toward::Context, 1.5), (Toward::Memory, 0.5), (Toward::Context, 0.0)];
    let texts: [Vec<u32>; 3] = [(1..20).collect(), (3..9).collect(), (5..30).collect()];
    let open = || exact_session(&model).unwrap();
    let mut alone = Vec::new();
    for (&how, ids) in asked.iter().zip(&texts) {
        let mut session = open();
        let mut hook = SteerHook::new(&steering, how, &session, ids.len());
        let mut control = Control::default();
        control.hooks.push(&mut hook);
        let first = session.prefill(ids, &mut control).unwrap();
        drop(control);
        alone.push((first, session.decode(7, &mut Control::default()).unwrap().to_vec()));
    }
    let mut sessions = [open(), open(), open()];
    let mut hooks: Vec<SteerHook> = asked
        .iter()
        .zip(sessions.iter().zip(&texts))
        .map(|(&how, (session, ids))| SteerHook::new(&steering, how, session, ids.len()))
        .collect();
    let mut control = Control { items: vec![0, 1, 2], ..Control::default() };
    control.hooks.extend(hooks.iter_mut().map(|h| h as &mut dyn Hook));
    let mut read = |ids: [&[u32]; 3], control: &mut Control<'_>| {
        let mut out = vec![Vec::new(); 3];
        let mut items: Vec<BatchItem> = sessions
            .iter_mut()
            .zip(ids)
            .map(|(session, ids)| BatchItem { session, ids, rows: LogitRows::Last })
            .collect();
        let mut keep = |item: usize, _: usize, row: &[f32]| {
            out[item] = row.to_vec();
            Ok(())
        };
        forward_batch(&mut items, control, &mut keep).unwrap();
        out
    };
    let first = read([&texts[0], &texts[1], &texts[2]], &mut control);
    let second = read([&[7], &[7], &[7]], &mut Control::default());
    drop(control);
    for item in 0..3 {
        assert!(same_bits(&first[item], &alone[item].0), "session {item}");
        assert!(same_bits(&second[item], &alone[item].1), "session {item}, the token behind");
    }
    assert_eq!(hooks.iter().map(|h| h.applied().rows).collect::<Vec<_>>(), [1, 1, 0]);
    let mut plain = open();
    let unsteered = plain.prefill(&texts[2], &mut Control::default()).unwrap();
    assert!(same_bits(&first[2], &unsteered), "strength 0 changes no bit");
    assert!(!same_bits(&first[0], &open().prefill(&texts[0], &mut Control::default()).unwrap()));
}
