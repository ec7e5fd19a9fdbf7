#!/usr/bin/env python3
"""Meden beside TransformerLens: capture of every layer's resid_post for one prompt, in seconds and memory.

    python benches/lens_compare.py MODEL.gguf TEXT [--meden FILE] [--tokens 1024] [--repeats 3] [--folder DIR]

MODEL.gguf is dequantised to a Hugging Face folder in DIR (kept, so that a second run finds it), which TransformerLens
(`TransformerBridge`, needs `pip install transformer-lens`) loads in float32; where it cannot, plain forward hooks of
transformers take its place, and the table says so. Meden runs the same ids from the GGUF file as it is, and with
`--weights f32`. Each run is a process of its own, in turn; seconds are those of reading the prompt and having all rows
(Meden: in a file; the others: in memory, copied out of the graph), once the model is loaded and one short prompt has been
read; memory is the most the process ever held. Figures are medians. Rows are compared with Meden's f32 path.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", nargs="?")
    parser.add_argument("--meden", default="target/release/meden")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", default=os.path.join(tempfile.gettempdir(), "meden-lens-compare"))
    parser.add_argument("--job", help=argparse.SUPPRESS)  # this script runs itself for the other side
    parser.add_argument("--ids", help=argparse.SUPPRESS)
    parser.add_argument("--rows", help=argparse.SUPPRESS)
    return parser.parse_args()


def dequantise(gguf, folder):
    """The GGUF file's weights in float32 with a configuration made by hand, as transformers reads them."""
    if os.path.exists(os.path.join(folder, "model.safetensors")):
        return
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": os.path.dirname(gguf) or ".", "gguf_file": os.path.basename(gguf)}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    os.makedirs(folder, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    tensors = {k: v.clone().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bridge(folder):
    """TransformerLens: a function from ids to every layer's resid_post."""
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)
    # a block's output has an older name and that of its module: one of them, so that no row is kept twice
    name = next(n for n in ("hook_resid_post", "hook_out") if f"blocks.0.{n}" in model.hook_dict)
    wanted = [f"blocks.{layer}.{name}" for layer in range(model.cfg.n_layers)]

    def run(ids):
        _, cache = model.run_with_cache(ids, names_filter=wanted, return_type=None)
        return [cache[name][0] for name in wanted]

    return run


def hooks(folder):
    """Plain transformers: the same with forward hooks."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    keep = lambda module, given, out: rows.append((out[0] if isinstance(out, tuple) else out)[0].clone())
    for layer in model.model.layers:
        layer.register_forward_hook(keep)

    def run(ids):
        rows.clear()
        with torch.no_grad():
            model.model(ids)
        return list(rows)

    return run


def job(args):
    import torch

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    with open(args.ids) as file:
        ids = torch.tensor([json.load(file)])
    run = bridge(args.folder) if args.job == "bridge" else hooks(args.folder)
    run(ids[:, :16])
    start = time.perf_counter()
    rows = run(ids)
    seconds = time.perf_counter() - start
    if args.rows:
        torch.save(torch.stack(rows), args.rows)
    print(json.dumps({"seconds": seconds, "peak": peak(), "layers": len(rows)}))


def other(args, which, ids, rows=None):
    command = [sys.executable, __file__, args.model, "--job", which, "--ids", ids]
    command += ["--folder", args.folder, "--threads", str(args.threads)]
    command += ["--rows", rows] if rows else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no word"
    return json.loads(done.stdout.strip().splitlines()[-1]), None


def meden(args, ids, out, weights):
    """Capture by the program, from the JSON that it prints."""
    if os.path.exists(out):
        os.remove(out)
    given = ",".join(map(str, ids))
    command = [args.meden, "lens", "capture", "-m", args.model, "--ids", given, "--sites", "resid_post", "--json"]
    command += ["--out", out, "--weights", weights, "--threads", str(args.threads)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"seconds": told["seconds"], "peak": told["peak_rss_bytes"], "layers": len(told["tensors"])}


def main():
    args = arguments()
    if args.job:
        return job(args)
    dequantise(args.model, args.folder)
    told = subprocess.run(
        [args.meden, "tokenize", "-m", args.model, "--json", "-f", args.text], capture_output=True, text=True, check=True
    )
    ids = json.loads(told.stdout)["ids"][: args.tokens]
    scratch = tempfile.mkdtemp()
    listed = os.path.join(scratch, "ids.json")
    with open(listed, "w") as file:
        json.dump(ids, file)
    _, why = other(args, "bridge", listed)
    which, name = ("bridge", "TransformerLens") if why is None else ("hooks", "transformers, forward hooks")
    if why is not None:
        print(f"TransformerLens cannot load this model here ({why}); plain hooks stand in for it")
    runs = {name: [], "Meden, the file's weights": [], "Meden, f32": []}
    out, rows = os.path.join(scratch, "rows.safetensors"), os.path.join(scratch, "rows.pt")
    for _ in range(args.repeats):
        done, failed = other(args, which, listed, rows)
        if done is None:
            sys.exit(failed)
        runs[name].append(done)
        runs["Meden, the file's weights"].append(meden(args, ids, out, "native"))
        runs["Meden, f32"].append(meden(args, ids, out, "f32"))
    print(f"\n{len(ids)} tokens, {runs[name][0]['layers']} layers, {args.threads} threads\n")
    print("| | seconds | most memory, MiB |\n| --- | --- | --- |")
    for who, each in runs.items():
        seconds = statistics.median(run["seconds"] for run in each)
        memory = statistics.median(run["peak"] for run in each) / 2**20
        print(f"| {who} | {seconds:.3f} | {memory:.0f} |")
    compare(rows, out)


def compare(theirs, ours):
    import torch
    from safetensors import safe_open

    theirs = torch.load(theirs)
    with safe_open(ours, "pt") as file:
        mine = torch.stack([file.get_tensor(f"{layer}.resid_post") for layer in range(theirs.shape[0])])
    off = (mine - theirs).abs().amax() / theirs.abs().amax()
    print(f"\nlargest difference of Meden's f32 rows from theirs, of their largest value: {off:.1e}")


if __name__ == "__main__":
    main()
