#!/usr/bin/env python3
"""What the kernels' integer arithmetic costs: each model file against its own weights dequantised to f32.

    benches/accuracy.py TEXT MODEL.gguf [MODEL.gguf ...] [--meden FILE] [--tokens 16384] [--threads 0]

Both paths read the same windows of the same text; the losses of each token are paired, and the mean difference comes
with a 95% interval from the means of 30 runs of tokens (neighbouring tokens are not independent). Needs Python 3.8 and
nothing else; prints a Markdown table. Exit code 1 if a difference is beyond 0.5% of the mean loss.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys

RUNS = 30
# Quantile 0.975 of Student's t with 29 degrees of freedom.
T = 2.045
MOST = 0.005


def losses(options, model, *more):
    command = [options.meden, "eval", "perplexity", "-f", options.text, "-m", model, "--max-tokens",
               str(options.tokens), "--context", "1024", "--stride", "1024", "--threads", str(options.threads),
               "--json", "--nll", "--quiet", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-300:]}{done.stderr[-300:]}")
    return json.loads(done.stdout)["nll"]


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--meden", default=os.path.join(here, "..", "target", "release", "meden"))
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    print("| file | mean loss, f32 | difference | 95% interval | of the loss |\n| --- | --- | --- | --- | --- |")
    worst = 0.0
    for model in options.models:
        reference = losses(options, model, "--weights", "f32", "--kv", "f32")
        kernels = losses(options, model)
        differences = [k - r for k, r in zip(kernels, reference)]
        size = len(differences) // RUNS
        means = [statistics.fmean(differences[i * size:(i + 1) * size]) for i in range(RUNS)]
        mean, base = statistics.fmean(differences), statistics.fmean(reference)
        half = T * statistics.stdev(means) / math.sqrt(RUNS)
        worst = max(worst, abs(mean) / base)
        print(f"| {os.path.basename(model)} | {base:.4f} | {mean:+.5f} | {mean - half:+.5f} to {mean + half:+.5f} | "
              f"{100 * mean / base:+.3f}% |", flush=True)
    return 1 if worst > MOST else 0


if __name__ == "__main__":
    sys.exit(main())
