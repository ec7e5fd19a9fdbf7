"""Forward pass of a vision transformer beside PyTorch, in turn, on this machine.

usage: vision_compare.py BENCH MODEL [--rounds 5] [--batches 8 1] [--side 224] [--threads 2]
BENCH is the built example `vit_bench` of meden-vision, MODEL a folder with config.json and model.safetensors.
Needs torch and transformers. Every round runs Meden, then PyTorch (eager, float32, scaled_dot_product_attention); the
figures are medians over rounds of the best of three within a round, and their ratio (above 1: Meden is faster).
"""
import argparse, statistics, subprocess, time

import torch
from transformers import AutoModel

p = argparse.ArgumentParser()
p.add_argument("bench"); p.add_argument("model")
p.add_argument("--rounds", type=int, default=5); p.add_argument("--batches", type=int, nargs="+", default=[8, 1])
p.add_argument("--side", type=int, default=224); p.add_argument("--threads", type=int, default=2)
a = p.parse_args()
torch.set_num_threads(a.threads)
model = AutoModel.from_pretrained(a.model).eval()


def ours(batch):
    said = subprocess.run([a.bench, a.model, str(batch), str(a.side), "3", str(a.threads)], capture_output=True, text=True, check=True)
    return min(float(line.split()[0]) for line in said.stdout.splitlines())


def theirs(batch):
    x, times = torch.randn(batch, 3, a.side, a.side), []
    with torch.no_grad():
        model(x)
        for _ in range(3):
            start = time.perf_counter()
            model(x)
            times.append(time.perf_counter() - start)
    return min(times)


print(f"torch {torch.__version__}, {a.threads} threads, {a.side} px")
for batch in a.batches:
    pairs = [(ours(batch), theirs(batch)) for _ in range(a.rounds)]
    m, t = (statistics.median(x) for x in zip(*pairs))
    ratios = sorted(t / m for m, t in pairs)
    print(f"batch {batch}: Meden {m:.4f} s, PyTorch {t:.4f} s, ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
