#!/usr/bin/env python3
"""A llama-shaped GGUF file of random F16 weights, wide enough for every weight format: for timing only.

    benches/generated_model.py OUT.gguf [--width 1024] [--layers 12]

Rows of 1,024 and 2,816 values hold whole blocks of 256, which the small published models do not. The file names no
tokenizer ("no_vocab"); `meden bench` and llama-bench need none. `meden quantize` makes the other formats of it.
"""

import argparse
import os
import struct

U32, F32, STRING = 4, 6, 8
F16 = 1


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key, kind, value):
    body = text(value) if kind == STRING else struct.pack("<f" if kind == F32 else "<I", value)
    return text(key) + struct.pack("<I", kind) + body


def halves(count):
    """Random halves of magnitude 2^-8 to 2^-5, either sign: sign and exponent from a table, the rest random."""
    high = bytes((b & 0x80) | ((7 + (b >> 2) % 3) << 2) | (b & 3) for b in range(256))
    out = bytearray(2 * count)
    out[0::2] = os.urandom(count)
    out[1::2] = os.urandom(count).translate(high)
    return bytes(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    width, layers, vocab = options.width, options.layers, 32000
    wide, kv = width * 11 // 4, width // 4
    heads = width // 64
    meta = [
        ("general.architecture", STRING, "llama"), ("general.name", STRING, "generated"),
        ("llama.context_length", U32, 16384), ("llama.embedding_length", U32, width),
        ("llama.block_count", U32, layers), ("llama.feed_forward_length", U32, wide),
        ("llama.attention.head_count", U32, heads), ("llama.attention.head_count_kv", U32, heads // 4),
        ("llama.rope.dimension_count", U32, 64), ("llama.rope.freq_base", F32, 10000.0),
        ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5), ("llama.vocab_size", U32, vocab),
        ("tokenizer.ggml.model", STRING, "no_vocab"), ("general.file_type", U32, 1),
    ]
    tensors = [("token_embd.weight", (width, vocab)), ("output_norm.weight", (width,)), ("output.weight", (width, vocab))]
    for i in range(layers):
        tensors += [
            (f"blk.{i}.attn_norm.weight", (width,)), (f"blk.{i}.ffn_norm.weight", (width,)),
            (f"blk.{i}.attn_q.weight", (width, width)), (f"blk.{i}.attn_k.weight", (width, kv)),
            (f"blk.{i}.attn_v.weight", (width, kv)), (f"blk.{i}.attn_output.weight", (width, width)),
            (f"blk.{i}.ffn_gate.weight", (width, wide)), (f"blk.{i}.ffn_up.weight", (width, wide)),
            (f"blk.{i}.ffn_down.weight", (wide, width)),
        ]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(meta)) + b"".join(pair(*m) for m in meta)
    offset = 0
    for name, shape in tensors:
        vector = len(shape) == 1
        count = shape[0] if vector else shape[0] * shape[1]
        header += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        header += struct.pack("<IQ", 0 if vector else F16, offset)
        offset += (count * (4 if vector else 2) + 31) // 32 * 32
    with open(options.out + ".part", "wb") as file:
        file.write(header + bytes(-len(header) % 32))
        for _, shape in tensors:
            vector = len(shape) == 1
            data = struct.pack("<f", 1.0) * shape[0] if vector else halves(shape[0] * shape[1])
            file.write(data + bytes(-len(data) % 32))
    os.replace(options.out + ".part", options.out)


if __name__ == "__main__":
    main()
