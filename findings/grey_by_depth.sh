#!/usr/bin/env bash
# How grey is grey: the same value in 8-bit and 10-bit video, converted to RGB by PyAV's default.
# Versions: PyAV 18.1.0 (swscale 9.5), numpy 2.4.6.
# Guess: to_ndarray(format="rgb24") is the BT.601 formula, rounded, for both depths.
# Seen (x86-64): colours come out 1 to 1.8 of 255 darker than the formula, by another amount in each channel, and by other amounts from
# ten bits than from eight, so that one picture in two depths differs by up to 0.9 and changes its hue.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import av
import numpy as np
from av.video.reformatter import VideoReformatter

SEEN = {8: [-1.0, -1.5, -1.0], 10: [-1.8, -1.2, -1.5]}  # mean of (RGB - formula) by channel, of 255


def formula(y, u, v):
    """BT.601, limited range."""
    y, u, v = 255 / 219 * (y - 16), 255 / 224 * (u - 128), 255 / 224 * (v - 128)
    return np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u])


def frame(depth, y, u, v):
    made = av.VideoFrame(64, 64, "yuv420p" if depth == 8 else "yuv420p10le")
    for plane, value in zip(made.planes, (y, u, v)):
        shape = plane.height, plane.line_size // (1 if depth == 8 else 2)
        kind = np.uint8 if depth == 8 else np.uint16
        plane.update(np.full(shape, value << (depth - 8), kind).tobytes())
    return made


def missed(depth):
    """Mean over colours that RGB has of (RGB - formula), per channel."""
    rng, found = np.random.default_rng(0), []
    while len(found) < 200:
        y, u, v = (int(rng.integers(low, high)) for low, high in ((30, 220), (90, 166), (90, 166)))
        exact = formula(y, u, v)
        if 2 < exact.min() and exact.max() < 253:
            rgb = VideoReformatter().reformat(frame(depth, y, u, v), format="rgb24").to_ndarray()
            found.append(rgb[32, 32].astype(float) - exact)
    return np.mean(found, 0)


print(f"PyAV {av.__version__}, libswscale {av.library_versions['libswscale']}")
for depth in (8, 10):
    seen = missed(depth)
    print(f"{depth} bits: mean of (RGB - formula) by channel {seen.round(2)}")
    assert np.abs(seen - SEEN[depth]).max() < 0.15, f"expected {SEEN[depth]}"
PYTHON
