#!/usr/bin/env bash
# Farnebäck's optical flow of one moving texture as floats in [0, 255] and in [0, 1], and as bytes of less and less contrast.
# Versions: opencv-python-headless 5.0.0.93, numpy 2.4.6.
# Guess: the flow divides gradients by gradients, so neither the range nor the contrast moves it, as long as rounding does not.
# Seen: a move of 2 pixels is 2.00 in [0, 255] and 0.00 in [0, 1], without a warning: 1e-3 is added to a determinant of fourth powers of
# the contrast. As bytes it is 2.00 at a standard deviation of 34 grey levels, 1.8 at 8, 0.5 at 3.4 and 0.04 at 1.7. Rounding has no part
# in it: the same bytes, multiplied as floats up to a deviation of 48, give 2.0 at each contrast.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np

SIZE, MOVE = 160, 2.0
texture = cv2.GaussianBlur(np.random.default_rng(0).random((SIZE, SIZE)).astype(np.float32), (0, 0), 3)
texture = (texture - texture.min()) / (texture.max() - texture.min())


def moved(pixels):
    matrix = np.float32([[1, 0, pixels], [0, 1, 0]])
    return cv2.warpAffine(texture, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def length(first, second):
    flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    return float(np.linalg.norm(flow[30:-30, 30:-30], axis=-1).mean())


def check(what, seen, low, high):
    print(f"{what}: {seen:.3f} pixels")
    assert low < seen < high, f"expected {low} to {high}"


print(f"opencv-python-headless {cv2.__version__}, numpy {np.__version__}; the texture moves by {MOVE} pixels")
frames = moved(0), moved(MOVE)
check("floats in [0, 255]", length(*(255 * frame for frame in frames)), 1.95, 2.05)
check("floats in [0, 1]", length(*frames), -1, 0.001)
for contrast, low, high in ((1, 1.95, 2.05), (0.25, 1.7, 1.9), (0.1, 0.3, 0.6), (0.05, 0, 0.1)):
    pair = [np.round(128 + contrast * 255 * (frame - 0.5)).clip(0, 255).astype(np.uint8) for frame in frames]
    deviation = float(np.std(pair))
    check(f"bytes with a deviation of {deviation:.1f}", length(*pair), low, high)
    scaled = [48 / deviation * frame.astype(np.float32) for frame in pair]
    check("  the same bytes as floats with a deviation of 48", length(*scaled), 1.95, 2.05)
PYTHON
