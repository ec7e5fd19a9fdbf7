"""Writes the tiny autoencoders of every family that the loaders are tested on, with what they compute.

Formulas are those of the families' own code, in numpy and torch; nothing of Meden runs here.
Run: python benches/golden_sae.py crates/lens/tests/golden/sae   (needs numpy, torch, safetensors)
"""
import json, os, sys
import numpy as np, torch
from safetensors.numpy import save_file

root = sys.argv[1]
rng = np.random.default_rng(20)
d, n, rows = 6, 20, 12
f = np.float32


def base():
    return dict(E=rng.normal(size=(d, n)).astype(f), D=rng.normal(size=(n, d)).astype(f),
                be=(rng.normal(size=n) * .3).astype(f), bd=(rng.normal(size=d) * .5).astype(f))


def put(name, cfg_name, cfg, weights, tensors, x, z, xhat, writer=None):
    folder = os.path.join(root, name)
    os.makedirs(os.path.dirname(os.path.join(folder, weights)), exist_ok=True)
    if cfg_name:
        json.dump(cfg, open(os.path.join(folder, cfg_name), "w"), indent=1)
    (writer or (lambda p: save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, p)))(os.path.join(folder, weights))
    save_file({"x": x, "z": z.astype(f), "xhat": xhat.astype(f)}, os.path.join(folder, "expected.safetensors"))


def topk(p, k):
    z = np.zeros_like(p)
    for r in range(len(p)):
        for i in sorted(range(p.shape[1]), key=lambda i: (-p[r, i], i))[:k]:
            z[r, i] = max(p[r, i], 0)
    return z


relu = lambda p: np.maximum(p, 0)
x = rng.normal(size=(rows, d)).astype(f)

w = base()
z = relu((x - w["bd"]) @ w["E"] + w["be"])
t = {"W_enc": w["E"], "W_dec": w["D"], "b_enc": w["be"], "b_dec": w["bd"]}
put("saelens-standard", "cfg.json", {"architecture": "standard", "d_in": d, "d_sae": n, "dtype": "float32",
    "apply_b_dec_to_input": True, "normalize_activations": "none",
    "metadata": {"hook_name": "blocks.3.hook_resid_post", "model_name": "tiny", "context_size": 64}},
    "sae_weights.safetensors", t, x, z, z @ w["D"] + w["bd"])

w = base()
z = topk((x - w["bd"]) @ w["E"] + w["be"], 4)
t = {"W_enc": w["E"], "W_dec": w["D"], "b_enc": w["be"], "b_dec": w["bd"]}
put("saelens-old-topk", "cfg.json", {"architecture": "standard", "d_in": d, "d_sae": n, "dtype": "torch.float32",
    "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "hook_point": "blocks.3.hook_resid_pre",
    "model_name": "tiny", "normalize_activations": False}, "sae_weights.safetensors", t, x, z, z @ w["D"] + w["bd"])

w = base()
nrm = np.linalg.norm(w["D"], axis=1)
p = ((x - w["bd"]) @ w["E"] + w["be"]) * nrm
z = topk(p, 4) / nrm
t = {"W_enc": w["E"], "W_dec": w["D"], "b_enc": w["be"], "b_dec": w["bd"]}
put("saelens-topk-rescaled", "cfg.json", {"architecture": "topk", "k": 4, "d_in": d, "d_sae": n, "dtype": "float32",
    "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": True, "normalize_activations": "none"},
    "sae_weights.safetensors", t, x, z, z @ w["D"] + w["bd"])

w = base()
th = np.abs(rng.normal(size=n)).astype(f)
p = x @ w["E"] + w["be"]
z = p * (p > th)
t = {"W_enc": w["E"], "W_dec": w["D"], "b_enc": w["be"], "b_dec": w["bd"], "threshold": th}
put("saelens-jumprelu", "cfg.json", {"architecture": "jumprelu", "d_in": d, "d_sae": n, "dtype": "float32",
    "apply_b_dec_to_input": False, "normalize_activations": "none"}, "sae_weights.safetensors", t, x, z, z @ w["D"] + w["bd"])

w = base()
bg, bm, rm = [(rng.normal(size=n) * .3).astype(f) for _ in range(3)]
xi = x - w["bd"]
z = ((xi @ w["E"] + bg) > 0) * relu(xi @ (w["E"] * np.exp(rm)) + bm)
t = {"W_enc": w["E"], "W_dec": w["D"], "b_gate": bg, "b_mag": bm, "r_mag": rm, "b_dec": w["bd"]}
put("saelens-gated", "cfg.json", {"architecture": "gated", "d_in": d, "d_sae": n, "dtype": "float32",
    "apply_b_dec_to_input": True, "normalize_activations": "none"}, "sae_weights.safetensors", t, x, z, z @ w["D"] + w["bd"])

w = base()
th = np.abs(rng.normal(size=n)).astype(f)
p = x @ w["E"] + w["be"]
z = p * (p > th)
arrays = {"W_enc": w["E"], "W_dec": w["D"], "b_enc": w["be"], "b_dec": w["bd"], "threshold": th}
put("layer_7-gemma-scope", None, None, "params.npz", None, x, z, z @ w["D"] + w["bd"], lambda p: np.savez(p, **arrays))
fortran = {k: np.asfortranarray(v.astype(np.float64)) for k, v in arrays.items()}
put("layer_7-gemma-scope-deflated-f64", None, None, "params.npz", None, x, z, z @ w["D"] + w["bd"],
    lambda p: np.savez_compressed(p, **fortran))

w = base()
z = topk((x - w["bd"]) @ w["E"] + w["be"], 3)
t = {"encoder.weight": w["E"].T, "encoder.bias": w["be"], "W_dec": w["D"], "b_dec": w["bd"]}
put("layers.5", "cfg.json", {"d_in": d, "expansion_factor": 4, "num_latents": n, "k": 3, "normalize_decoder": True},
    "sae.safetensors", t, x, z, z @ w["D"] + w["bd"])

w = base()
p = relu(x @ w["E"] + w["be"]).reshape(rows, 5, n // 5)
z = np.where(np.arange(n // 5) == p.argmax(-1)[..., None], p, 0).reshape(rows, n)
skip = rng.normal(size=(d, d)).astype(f)
t = {"encoder.weight": w["E"].T, "encoder.bias": w["be"], "W_dec": w["D"], "b_dec": w["bd"], "W_skip": skip}
put("layers.2.mlp", "cfg.json", {"d_in": d, "expansion_factor": 4, "num_latents": n, "k": 5, "activation": "groupmax",
    "transcode": True, "skip_connection": True}, "sae.safetensors", t, x, z, z @ w["D"] + w["bd"] + x @ skip.T)

w = base()
average = 3.5
s = np.sqrt(d) / average
p = (x * s) @ w["E"] + w["be"]
z = p * (p > .4)
bf = lambda a: torch.tensor(np.ascontiguousarray(a)).to(torch.bfloat16)
from safetensors.torch import save_file as save_torch
t = {"encoder.weight": bf(w["E"].T), "encoder.bias": bf(w["be"]), "decoder.weight": bf(w["D"].T), "decoder.bias": bf(w["bd"])}
E, be, D, bd = [t[k].float().numpy() for k in ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")]
p = (x * s) @ E.T + be
z = p * (p > .4)
put("llama-scope", "hyperparams.json", {"d_model": d, "hook_point_in": "blocks.9.hook_resid_post", "jump_relu_threshold": .4,
    "dataset_average_activation_norm": {"in": average, "out": average}}, "checkpoints/final.safetensors", None, x, z,
    (z @ D.T + bd) / s, lambda p: save_torch({k: v.contiguous() for k, v in t.items()}, p))

w = base()
z = topk((x - w["bd"]) @ w["E"] + w["be"], 3)
t = {"encoder.weight": w["E"].T, "encoder.bias": w["be"], "decoder.weight": w["D"].T, "b_dec": w["bd"]}
put("dictionary-learning", "config.json", {"trainer": {"dict_class": "AutoEncoderTopK", "k": 3, "layer": 4,
    "lm_name": "tiny", "submodule_name": "resid_post_layer_4"}}, "ae.safetensors", t, x, z, z @ w["D"] + w["bd"])
