#!/usr/bin/env python3
"""Meden beside kvpress on transformers: the same ids, the same presses; kept sets, seconds, memory.

    python benches/kvpress_compare.py MODEL.gguf TEXT [--meden FILE] [--tokens 4096] [--ratio 0.5] [--repeats 3]
                                      [--presses knorm,snapkv,expected_attention,adakv] [--kept-tokens 1024]

FILE is the program `press_run` (cargo build --release -p meden-engine --example press_run). Needs torch, transformers
and kvpress. Kept sets are compared with f32 weights and an f32 cache on both sides, speed with what each runs best:
transformers in float32 with sdpa, Meden with the file's own weights and an f16 cache. Both decode the same forced tokens
at their true positions. Every run is a process of its own, in turn; figures are medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

SPEC = {
    "knorm": "knorm",
    "snapkv": "snapkv",
    "expected_attention": "expected_attention(epsilon=0.01)",
    "adakv": "adakv(snapkv)",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", nargs="?")
    parser.add_argument("--meden", default="target/release/examples/press_run")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--kept-tokens", type=int, default=1024)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--presses", default="none," + ",".join(SPEC))
    parser.add_argument("--job", help=argparse.SUPPRESS)  # this script runs itself for the kvpress side
    return parser.parse_args()


def load(path):
    import torch
    from transformers import AutoModelForCausalLM
    folder, file = os.path.split(os.path.abspath(path))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval()


def rss(field):
    with open("/proc/self/status") as status:
        line = next(l for l in status if l.startswith(field))
    return int(line.split()[1]) * 1024


class Kept:
    """Notes which positions kvpress gathers in each layer, from the keys that are left."""

    def __init__(self):
        self.layers = []

    def note(self, dense, pressed):
        import torch
        for before, after in zip(dense, pressed):
            heads = []
            for h in range(before.shape[1]):
                distance = torch.cdist(after[0, h], before[0, h])
                heads.append(sorted(distance.argmin(-1).tolist()))
            self.layers.append(heads)


def theirs(job, path):
    """One run of kvpress, in this process."""
    import time
    import torch
    from kvpress import AdaKVPress, ExpectedAttentionPress, KnormPress, SnapKVPress
    from transformers import DynamicCache
    presses = {
        "none": lambda r: None,
        "knorm": KnormPress,
        "snapkv": SnapKVPress,
        "expected_attention": lambda r: ExpectedAttentionPress(r, epsilon=0.01),
        "adakv": lambda r: AdaKVPress(SnapKVPress(r)),
    }
    torch.set_num_threads(job["threads"])
    model = load(path)
    loaded = rss("VmRSS")
    ids, forced = torch.tensor([job["ids"]]), job["forced"]
    press = presses[job["name"]](job["ratio"])
    out = {}
    with torch.inference_mode():
        if job["kept"]:
            whole = DynamicCache()
            model.model(ids, past_key_values=whole)
            dense = [layer.keys.clone() for layer in whole.layers]
        cache = DynamicCache()
        start = time.monotonic()
        if press is None:
            model.model(ids, past_key_values=cache)
        else:
            with press(model):
                model.model(ids, past_key_values=cache)
        out["prefill_s"] = time.monotonic() - start
        if job["kept"]:
            kept = Kept()
            masked = [getattr(layer.self_attn, "masked_key_indices", None) for layer in model.model.layers]
            if any(m is not None for m in masked):
                for (_, heads, positions), layer in zip(masked, cache.layers):
                    gone = set(zip(heads.tolist(), positions.tolist()))
                    kept.layers.append([[p for p in range(ids.shape[1]) if (h, p) not in gone]
                                        for h in range(layer.keys.shape[1])])
            else:
                kept.note(dense, [layer.keys for layer in cache.layers])
            out["kept"] = kept.layers
        out["cache_bytes"] = sum(t.numel() * t.element_size() for l in cache.layers for t in (l.keys, l.values))
        start = time.monotonic()
        for i, token in enumerate(forced):
            position = torch.tensor([[ids.shape[1] + i]])
            model(torch.tensor([[token]]), past_key_values=cache, position_ids=position)
        out["decode_tokens_per_s"] = len(forced) / max(time.monotonic() - start, 1e-9) if forced else 0
    out.update(loaded_bytes=loaded, peak_bytes=rss("VmHWM"))
    print(json.dumps(out))


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def both(o, job, folder):
    path = os.path.join(folder, "job.json")
    with open(path, "w") as file:
        json.dump(job, file)
    peer = run([sys.executable, __file__, o.model, "--job", path])
    job = dict(job, press=SPEC.get(job["name"]))
    with open(path, "w") as file:
        json.dump(job, file)
    return peer, run([o.meden, o.model, path])


def overlap(a, b):
    same = total = equal = heads = 0
    for x, y in zip((h for l in a for h in l), (h for l in b for h in l)):
        same += len(set(x) & set(y))
        total += len(set(y))
        equal += set(x) == set(y)
        heads += 1
    return f"{100 * same / max(total, 1):.2f}% of slots, {equal} of {heads} heads equal"


def main():
    o = arguments()
    if o.job:
        with open(o.job) as file:
            return theirs(json.load(file), o.model)
    from transformers import AutoTokenizer
    folder, file = os.path.split(os.path.abspath(o.model))
    with open(o.text, encoding="utf-8") as text:
        ids = AutoTokenizer.from_pretrained(folder, gguf_file=file)(text.read()[: 8 * o.tokens])["input_ids"]
    ids, forced = ids[: o.tokens], ids[o.tokens : o.tokens + 32]
    mib = lambda b: f"{b / 2**20:.0f}"
    with tempfile.TemporaryDirectory() as scratch:
        print(f"### {o.tokens} tokens, ratio {o.ratio}, {o.threads} threads, {os.path.basename(o.model)}\n")
        print("| press | prefill + press, s (kvpress; Meden; ratio) | decode, tokens/s | peak above the loaded model, MiB "
              f"| whole peak, MiB | cache, MiB | kept sets ({o.kept_tokens} tokens, f32) |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name in o.presses.split(","):
            job = {"name": name, "ratio": o.ratio, "threads": o.threads, "ids": ids, "forced": forced, "kept": False}
            runs = [both(o, job, scratch) for _ in range(o.repeats)]
            median = lambda side, key: statistics.median(r[side][key] for r in runs)
            ratio = lambda key, up: statistics.median((r[1][key] / r[0][key]) ** (1 if up else -1) for r in runs)
            peak = [statistics.median(r[s]["peak_bytes"] - r[s]["loaded_bytes"] for r in runs) for s in (0, 1)]
            kept = "-"
            if name != "none":
                small = dict(job, ids=ids[: o.kept_tokens], forced=[], kept=True, weights="f32", kv="f32")
                a, b = both(o, small, scratch)
                kept = overlap(a["kept"], b["kept"])
            print(f"| {name} | {median(0, 'prefill_s'):.2f}; {median(1, 'prefill_s'):.2f}; **{ratio('prefill_s', False):.2f}** "
                  f"| {median(0, 'decode_tokens_per_s'):.1f}; {median(1, 'decode_tokens_per_s'):.1f}; "
                  f"**{ratio('decode_tokens_per_s', True):.2f}** | {mib(peak[0])}; {mib(peak[1])}; **{peak[1] / peak[0]:.2f}** "
                  f"| {mib(median(0, 'peak_bytes'))}; {mib(median(1, 'peak_bytes'))} | {mib(median(0, 'cache_bytes'))}; "
                  f"{mib(median(1, 'cache_bytes'))} | {kept} |", flush=True)


if __name__ == "__main__":
    main()
