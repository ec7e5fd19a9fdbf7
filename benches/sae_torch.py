"""The training step of crates/train/examples/step_rate.rs with PyTorch: TopK autoencoder, Adam, unit directions.

Run: python benches/sae_torch.py [steps] [threads]   (needs torch)
"""
import sys, time
import torch

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
threads = int(sys.argv[2]) if len(sys.argv) > 2 else 1
torch.set_num_threads(threads)
torch.manual_seed(1)
d, n, k, batch = 576, 4608, 32, 4096
parts = torch.randn(64, d)
x = parts[torch.randint(64, (batch,))] + parts[torch.randint(64, (batch,))] + .3 * torch.randn(batch, d)
W_dec = torch.nn.functional.normalize(torch.randn(n, d), dim=1).requires_grad_()
W_enc = W_dec.detach().T.clone().requires_grad_()
b_enc, b_dec = torch.zeros(n, requires_grad=True), torch.zeros(d, requires_grad=True)
params = [W_enc, W_dec, b_enc, b_dec]
adam = torch.optim.Adam(params, lr=1e-4)
variance = ((x - x.mean(0)) ** 2).sum()


def step():
    p = torch.relu((x - b_dec) @ W_enc + b_enc)
    values, which = p.topk(k, dim=1)
    z = torch.zeros_like(p).scatter(1, which, values)
    loss = ((x - (z @ W_dec + b_dec)) ** 2).sum() / variance
    loss.backward()
    with torch.no_grad():
        W_dec.grad.sub_((W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec)
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    adam.step()
    adam.zero_grad()
    with torch.no_grad():
        W_dec.div_(W_dec.norm(dim=1, keepdim=True))
    return loss.item()


step()
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(steps):
    loss = step()
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
rows = steps * batch
print(f"{threads} threads: {rows / wall:.0f} rows/s by the clock, {rows / cpu:.0f} rows per second of processor time (FVU {loss:.3f})")
