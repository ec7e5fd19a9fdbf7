"""Decoding and resizing beside Pillow: usage: pil_compare.py DECODE_RGB IMAGE...   (needs pillow, numpy)

DECODE_RGB is the built example of meden-vision. Prints the largest difference a channel of the decoded pixels, of Pillow's
own resize of our decoded pixels against our resize (bicubic, antialiased), and of both steps together.
"""
import subprocess, sys, tempfile

import numpy as np
from PIL import Image, ImageOps

bench, files = sys.argv[1], sys.argv[2:]


def ours(file, *size):
    with tempfile.NamedTemporaryFile() as out:
        said = subprocess.run([bench, file, out.name, *map(str, size)], capture_output=True, text=True, check=True).stdout
        w, h = map(int, said.split())
        return np.frombuffer(open(out.name, "rb").read(), np.uint8).reshape(h, w, 3).astype(int)


worst = [0, 0, 0]
for file in files:
    theirs = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    mine = ours(file)
    decoded = np.abs(np.asarray(theirs).astype(int) - mine)
    for size in [(224, 224), (301, 97), (61, 80)]:
        resized = ours(file, *size)
        same = np.asarray(Image.fromarray(mine.astype(np.uint8)).resize(size, Image.BICUBIC)).astype(int)
        both = np.asarray(theirs.resize(size, Image.BICUBIC)).astype(int)
        worst[1] = max(worst[1], np.abs(same - resized).max()); worst[2] = max(worst[2], np.abs(both - resized).max())
    worst[0] = max(worst[0], decoded.max())
print(f"{len(files)} images: decoding {worst[0]}, resizing {worst[1]}, both {worst[2]} of 255")
