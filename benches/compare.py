#!/usr/bin/env python3
"""Meden beside other engines on the same machine, in turn: one run of each, then again, and the median of the ratios.

    benches/compare.py [--models DIR] [--meden FILE] [--llama DIR] [--candle FILE] [--mistralrs PYTHON]
                       [--repeats 5] [--threads 2] [--only NAME ...] [--json FILE]

DIR holds GGUF files of one model in several formats, named `<model>-<format>.gguf`. Engines that are not there are
left out, with a line that says so. Needs Python 3.8 and nothing else; prints Markdown tables.

A ratio above 1 means that Meden is ahead. Each cell is the median over rounds of (Meden / peer in the same round), with
the smallest and largest ratio behind it, because a machine is never quite idle.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

FORMATS = ["q4_1", "q4_0", "q4_k_m", "q8_0"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    home = os.path.expanduser("~/.cache/meden-peers")
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--models", default=f"{home}/models", help="folder of GGUF files")
    parser.add_argument("--model", default="smollm2", help="first part of the files' names")
    parser.add_argument("--formats", default=",".join(FORMATS), help="second parts of the files' names")
    parser.add_argument("--meden", default=os.path.join(here, "..", "target", "release", "meden"))
    parser.add_argument("--llama", default=f"{home}/llama.cpp/build/bin", help="folder with llama-bench")
    parser.add_argument("--candle", default=f"{home}/candle_run", help="program: MODEL PROMPT DECODE REPEATS")
    parser.add_argument("--mistralrs", default=f"{home}/mistralrs/bin/python", help="Python that has its wheel")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--json", help="also write every single figure to this file")
    return parser.parse_args()


def run(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.strip()[-500:]}")
    return done.stdout


class Meden:
    name = "Meden"

    def __init__(self, options):
        self.program, self.threads = options.meden, options.threads

    def bench(self, model, test, n, depth=0, press="none", kv="f16"):
        counts = ["--prompt", str(n), "--gen", "0"] if test == "prompt" else ["--prompt", "0", "--gen", str(n)]
        out = run([self.program, "bench", "--json", "--quiet", "-m", model, *counts, "--depth", str(depth), "--press",
                   press, "--kv", kv, "--threads", str(self.threads), "--repeat", "1"])
        return json.loads(out)[0]

    def rate(self, *case, **more):
        return self.bench(*case, **more)["tokens_per_second"]

    def first_token(self, model):
        ids = ",".join(str(100 + i) for i in range(10))
        return seconds([self.program, "run", "--quiet", "-m", model, "--ids", ids, "--max-tokens", "1", "--threads",
                        str(self.threads)])


class Llama:
    """llama-bench. `flash` is left to the caller: the faster of the two counts."""

    name = "llama.cpp"

    def __init__(self, options):
        self.folder, self.threads = options.llama, options.threads

    def available(self):
        return os.path.exists(f"{self.folder}/llama-bench")

    def command(self, model, test, n, depth, flash, kv):
        counts = ["-p", str(n), "-n", "0"] if test == "prompt" else ["-p", "0", "-n", str(n)]
        return [f"{self.folder}/llama-bench", "-m", model, "-t", str(self.threads), *counts, "-d", str(depth), "-fa",
                str(flash), "-ctk", kv, "-ctv", kv, "-r", "1", "-o", "json"]

    def rate(self, model, test, n, depth=0, flash=1, kv="f16"):
        return json.loads(run(self.command(model, test, n, depth, flash, kv)))[0]["avg_ts"]

    def peak(self, model, n):
        return peak_rss(self.command(model, "prompt", n, 0, 1, "f16"))

    def first_token(self, model):
        """llama-bench without its warm-up: load, a prompt of 10, one token. It has no smaller program for ids."""
        return seconds([f"{self.folder}/llama-bench", "-m", model, "-t", str(self.threads), "-p", "0", "-n", "0", "-pg",
                        "10,1", "-r", "1", "--no-warmup"])


class Candle:
    name = "candle"

    def __init__(self, options):
        self.program, self.threads = options.candle, options.threads

    def available(self):
        return os.path.exists(self.program)

    def both(self, model, prompt, decode):
        env = dict(os.environ, RAYON_NUM_THREADS=str(self.threads))
        words = run([self.program, model, str(prompt), str(decode), "1"], env=env).split()
        return float(words[words.index("prefill") + 1]), float(words[words.index("at") + 1])


class MistralRs:
    def __init__(self, options):
        self.program, self.threads = options.mistralrs, options.threads
        self.script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mistralrs_run.py")

    def available(self):
        return os.access(self.program, os.X_OK)

    def both(self, model, prompt, decode):
        threads = str(self.threads)
        env = {**os.environ, "RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        out = run([self.program, self.script, model, str(prompt), str(decode)], env=env)
        rates = json.loads(out.strip().splitlines()[-1])
        return rates["prompt"], rates["gen"]


def seconds(command):
    start = time.monotonic()
    run(command)
    return time.monotonic() - start


def peak_rss(command):
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status) if hasattr(os, "waitstatus_to_exitcode") else status
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {child.returncode}")
    return usage.ru_maxrss * 1024


class Table:
    """Rows of alternated measurements; prints each as soon as it is there."""

    def __init__(self, title, meden, peer, unit, lower_is_better=False):
        self.log, self.unit, self.lower = [], unit, lower_is_better
        print(f"\n### {title}\n\n| {unit} | {meden} | {peer} | ratio | smallest to largest |\n| --- | --- | --- | --- | --- |")

    def row(self, name, ours, theirs, repeats):
        self.rows({name: ours}, theirs, repeats)

    def rows(self, ours, theirs, repeats):
        """Several of our ways beside one of theirs: {name: way}. In turn, so that all meet the same neighbours."""
        figures, peer = {name: [] for name in ours}, []
        for _ in range(repeats):
            peer.append(theirs())
            for name, way in ours.items():
                figures[name].append(way())
        show = (lambda v: f"{v:.3g}" if v < 100 else f"{v:.0f}")
        for name, a in figures.items():
            ratios = [y / x if self.lower else x / y for x, y in zip(a, peer)]
            print(f"| {name} | {show(statistics.median(a))} | {show(statistics.median(peer))} | "
                  f"**{statistics.median(ratios):.2f}** | {min(ratios):.2f} to {max(ratios):.2f} |", flush=True)
            self.log.append({"name": name, "unit": self.unit, "ours": a, "theirs": peer, "ratios": ratios})


def speed(o, meden, llama, models):
    table = Table(f"Speed, {o.threads} threads, f16 cache, flash attention on", "Meden", "llama.cpp", "tokens/s")
    for name, model in models:
        for test, n in [("prompt", 512), ("prompt", 2048), ("gen", 128)]:
            case = (model, test, n)
            table.row(f"{name}, {test} {n}", lambda: meden.rate(*case), lambda: llama.rate(*case), o.repeats)
    return table.log


def depth(o, meden, llama, models):
    """llama.cpp always keeps the whole cache, in f16; with flash attention or without, whichever decodes faster."""
    name, model = models[0]
    table = Table(f"Long context, {name}, {o.threads} threads", "Meden", "llama.cpp dense f16", "tokens/s")
    few = max(1, o.repeats // 3)
    prompt = (model, "prompt", 8192 - 64)
    ways = {
        "prompt 8128, dense": lambda: meden.rate(*prompt),
        "prompt 8128, knorm:2048 in chunks of 256": lambda: meden.rate(*prompt, press="knorm:2048"),
    }
    table.rows(ways, lambda: llama.rate(*prompt), few)
    flash = max([0, 1], key=lambda f: llama.rate(model, "gen", 16, 2048, flash=f))
    print(f"| (below: llama.cpp with flash attention {'on' if flash else 'off'}, the faster) | | | | |")
    for at in [2048, 8128]:
        gen = (model, "gen", 32, at)
        ways = {
            f"gen 32 behind {at}, {press}, {kv}": lambda press=press, kv=kv: meden.rate(*gen, press=press, kv=kv)
            for press, kv in [("none", "f16"), ("none", "q8"), ("knorm:25%", "f16"), ("knorm:25%", "q8")]
        }
        table.rows(ways, lambda: llama.rate(*gen, flash=flash), few)
    return table.log


def memory(o, meden, llama, models):
    name, model = models[0]
    table = Table(f"Peak memory of a prompt of 8,128 tokens, {name}", "Meden", "llama.cpp", "MiB", lower_is_better=True)
    for press, kv in [("none", "f16"), ("knorm:25%", "q8")]:
        def ours():
            row = meden.bench(model, "prompt", 8192 - 64, press=press, kv=kv)
            return row["peak_rss_bytes"] / 2**20
        table.row(f"{press}, {kv}", ours, lambda: llama.peak(model, 8192 - 64) / 2**20, 1)
    return table.log


def load(o, meden, llama, models):
    table = Table("Load to first token: 10 tokens, warm file cache, whole process", "Meden", "llama.cpp", "seconds",
                  lower_is_better=True)
    for name, model in models:
        table.row(name, lambda: meden.first_token(model), lambda: llama.first_token(model), o.repeats)
    return table.log


def beside(o, meden, models, name, peer):
    """A peer that gives a prefill and a decode rate in one run."""
    if not peer.available():
        print(f"\n{name} is not at {peer.program}: left out")
        return []
    table = Table(f"{name}, {o.threads} threads", "Meden", name, "tokens/s")
    few = max(1, o.repeats // 2)
    for format, model in models:
        try:
            pairs = [peer.both(model, 512, 64)]
        except RuntimeError as error:
            print(f"| {format}: {str(error).splitlines()[-1]} | | | | |")
            continue
        def theirs():
            pairs.append(peer.both(model, 512, 64))
            return pairs[-1][0]
        table.row(f"{format}, prompt 512", lambda: meden.rate(model, "prompt", 512), theirs, few)
        decodes = iter(pairs[1:])
        ours = lambda: meden.rate(model, "gen", 64, 512)
        table.row(f"{format}, gen 64 behind 512", ours, lambda: next(decodes)[1], few)
    return table.log


def candle(o, meden, _, models):
    return beside(o, meden, models, "candle", Candle(o))


def mistralrs(o, meden, _, models):
    return beside(o, meden, models, "mistral.rs", MistralRs(o))


PARTS = {"speed": speed, "depth": depth, "memory": memory, "load": load, "candle": candle, "mistralrs": mistralrs}


def main():
    options = arguments()
    if shutil.which(options.meden) is None:
        sys.exit(f"{options.meden}: no such program; build it with `cargo build --release`, or name it with --meden")
    names = options.formats.split(",")
    models = [(name.upper(), f"{options.models}/{options.model}-{name}.gguf") for name in names]
    missing = [path for _, path in models if not os.path.exists(path)]
    if missing:
        sys.exit(f"{missing[0]}: no such file; name the folder with --models and the formats with --formats")
    meden, llama = Meden(options), Llama(options)
    print(run([options.meden, "bench", "--limits", "--threads", f"1,{options.threads}"]))
    log = {}
    for part in options.only:
        if part != "candle" and not llama.available():
            print(f"\n{part}: llama-bench is not in {options.llama}: left out")
            continue
        log[part] = PARTS[part](options, meden, llama, models)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(log, file, indent=1)


if __name__ == "__main__":
    main()
