#!/usr/bin/env bash
# diffusers' export_to_video given uint8 frames.
# Versions: diffusers 0.42.1, imageio 2.38.1, imageio-ffmpeg 0.8.1, PyAV 18.1.0, numpy 2.4.6.
# Guess: uint8 frames are written as they are, or refused.
# Seen: they are multiplied by 255 and wrap: 40 becomes 216, the picture is its own negative, without a warning. Floats in [0, 1] and PIL
# images are right; floats above 1 wrap, too: 1.01 is nearly black.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.13.0 imageio==2.38.1 imageio-ffmpeg==0.8.1 av==18.1.0 numpy==2.4.6 pillow==13.0.0
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import av
import diffusers
import numpy as np
from diffusers.utils import export_to_video
from PIL import Image


def written(frames):
    export_to_video(frames, "out.mp4", fps=8)
    with av.open("out.mp4") as file:
        return float(np.mean([frame.to_ndarray(format="gray") for frame in file.decode(video=0)]))


grey = np.full((64, 64, 3), 40, np.uint8)
CASES = {
    "uint8 of 40": ([grey] * 8, 216),
    "float of 40 / 255": ([grey / 255] * 8, 40),
    "PIL of 40": ([Image.fromarray(grey)] * 8, 40),
    "float of 1.01": ([np.full((64, 64, 3), 1.01)] * 8, 1),
}
print(f"diffusers {diffusers.__version__}")
for name, (frames, expected) in CASES.items():
    seen = written(frames)
    print(f"{name}: written as about {seen:.0f} of 255")
    assert abs(seen - expected) <= 20, f"expected about {expected}"  # grey is in 16 to 235 in some readers
PYTHON
