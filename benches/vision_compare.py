"""A vision transformer beside PyTorch, in turn, on this machine.

usage: vision_compare.py VIT_BENCH MODEL [--rounds 5] [--batches 8 1] [--side 224] [--threads 2]
       vision_compare.py STEP_BENCH MODEL --train [--rounds 3] [--batches 8] …
VIT_BENCH and STEP_BENCH are the built examples of meden-vision and meden-train, MODEL a folder with config.json and
model.safetensors. Needs torch and transformers. Every round runs Meden, then PyTorch (eager, float32,
scaled_dot_product_attention; training: AdamW, cross-entropy on the class token). The figures are medians over rounds of
the best within a round (three passes, or three steps after one), and their ratio (above 1: Meden is faster).
"""
import argparse, re, statistics, subprocess, sys, time

p = argparse.ArgumentParser()
p.add_argument("bench"); p.add_argument("model")
p.add_argument("--rounds", type=int, default=5); p.add_argument("--batches", type=int, nargs="+", default=[8, 1])
p.add_argument("--side", type=int, default=224); p.add_argument("--threads", type=int, default=2)
p.add_argument("--train", action="store_true"); p.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
a = p.parse_args()


def peer(batch):
    """In a process of its own, so that its peak is its own: prints seconds, then the peak."""
    import torch
    from transformers import AutoModel
    torch.set_num_threads(a.threads)
    model, x, times = AutoModel.from_pretrained(a.model), torch.randn(batch, 3, a.side, a.side), []
    if a.train:
        model.train()
        head, y = torch.nn.Linear(model.config.hidden_size, 10), torch.arange(batch) % 10
        optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-5)
        def once():
            optimizer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(head(model(x).last_hidden_state[:, 0]), y)
            loss.backward()
            optimizer.step()
    else:
        model.eval()
        def once():
            with torch.no_grad():
                model(x)
    once()
    for _ in range(3):
        start = time.perf_counter(); once(); times.append(time.perf_counter() - start)
    peak = re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())
    print(min(times), int(peak[1]) / 1024)


def ours(batch):
    more = ["4", str(a.threads), "full"] if a.train else ["3", str(a.threads)]
    said = subprocess.run([a.bench, a.model, str(batch), str(a.side), *more], capture_output=True, text=True, check=True)
    times = [float(line.split()[0]) for line in said.stdout.splitlines()]
    peak = re.search(r"peak (\d+) kB", said.stderr)
    return min(times[1:] if a.train else times), int(peak[1]) / 1024 if peak else None


def theirs(batch):
    flags = ["--train"] if a.train else []
    more = ["--peer", "--batches", str(batch), "--side", str(a.side), "--threads", str(a.threads), *flags]
    said = subprocess.run([sys.executable, __file__, a.bench, a.model, *more], capture_output=True, text=True, check=True)
    return tuple(map(float, said.stdout.split()))


if a.peer:
    peer(a.batches[0])
    sys.exit()
print(f"{'training step' if a.train else 'forward'}, {a.threads} threads, {a.side} px")
for batch in a.batches:
    pairs = [(ours(batch), theirs(batch)) for _ in range(a.rounds)]
    m, t = (statistics.median(x[0] for x in side) for side in zip(*pairs))
    ratios = sorted(t[0] / m[0] for m, t in pairs)
    line = f"batch {batch}: Meden {m:.4f} s, PyTorch {t:.4f} s, ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    if pairs[0][0][1]:
        line += f"; peak {max(p[0][1] for p in pairs):.0f} against {max(p[1][1] for p in pairs):.0f} MiB"
    print(line, flush=True)
