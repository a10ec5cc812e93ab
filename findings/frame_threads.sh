#!/usr/bin/env bash
# Threads that a list of decoded frames holds, once each of them has been converted to RGB by PyAV's default.
# Versions: PyAV 18.1.0 and PyAV 16.1.0, numpy 2.4.6.
# Guess: a picture of 48 x 48 is converted by the thread that asks for it; whatever was started ends with the call.
# Seen (Linux): since PyAV 17 each frame keeps a converter with a thread for each core of the process, for as long as the frame lives.
# 16 frames hold 32 threads on 2 cores; 121 frames on 64 cores would be 7,744. threads=1 starts none, and the pixels are equal.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > count.py <<'PYTHON'
import os
import sys

import av
import numpy as np

FRAMES, cores = 16, len(os.sched_getaffinity(0))


def threads():
    return len(os.listdir("/proc/self/task"))


def clip():
    rng, frames = np.random.default_rng(0), []
    for _ in range(FRAMES):
        frames.append(av.VideoFrame(48, 48, "yuv420p"))
        for plane in frames[-1].planes:
            plane.update(rng.integers(64, 192, (plane.height, plane.line_size), np.uint8).tobytes())
    return frames


before, frames = threads(), clip()
pixels = [frame.to_ndarray(format="rgb24") for frame in frames]
held = threads() - before
del frames
left = threads() - before
print(f"PyAV {av.__version__}, {cores} cores: {FRAMES} converted frames hold {held} threads; {left} once they are gone")
if int(av.__version__.split(".")[0]) < 17:
    assert held == 0, "expected none before PyAV 17"
    sys.exit()
if cores > 1:
    assert held >= FRAMES * cores and left < FRAMES, f"expected {FRAMES * cores} or a few more, then a few"
now, frames = threads(), clip()
alone = [frame.reformat(format="rgb24", threads=1).to_ndarray() for frame in frames]
print(f"threads=1: {threads() - now} more threads, pixels equal: {np.array_equal(pixels, alone)}")
assert threads() == now and np.array_equal(pixels, alone), "expected none, and equal pixels"
PYTHON
for pinned in "av==16.1.0 " "av==18.1.0 "; do
    python3 -m venv --clear venv
    venv/bin/pip install --quiet --disable-pip-version-check $pinned numpy==2.4.6
    OMP_NUM_THREADS=1 venv/bin/python count.py
done
