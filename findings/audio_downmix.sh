#!/usr/bin/env bash
# Stereo to mono in PyAV's AudioResampler: how loud is the mean of two channels?
# Versions: PyAV 18.1.0 (FFmpeg 8), numpy 2.4.6.
# Guess: (left + right) / 2 in every sample format, so that two equal channels keep their level.
# Seen: for float samples 0.7071 (left + right): two channels of 0.9 become 1.27, above full scale; for 16-bit integers 0.5.
# Mono to stereo is 0.7071 a channel in both. The low-frequency channel of 5.1 is dropped.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
from fractions import Fraction

import av
import numpy as np


def level(values, layout, to, sample_format):
    """Level in the middle of 4,800 constant samples, one value a channel, after the change of layout."""
    samples = np.repeat(np.array(values, np.float32)[:, None], 4_800, 1)
    if sample_format == "s16p":
        samples = (samples * 32_767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(samples, format=sample_format, layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
    resampler = av.AudioResampler(format=sample_format, layout=to, rate=48_000)
    out = np.concatenate([part.to_ndarray() for part in [*resampler.resample(frame), *resampler.resample(None)]], 1)
    scale = 32_767 if sample_format == "s16p" else 1
    return [round(float(channel) / scale, 3) for channel in out[:, 2_400]]


print(f"PyAV {av.__version__}")
for values, layout, to, sample_format, expected in (
    ((0.9, 0.9), "stereo", "mono", "fltp", [1.273]),
    ((0.9, 0.9), "stereo", "mono", "s16p", [0.9]),
    ((0.9, 0.0), "stereo", "mono", "fltp", [0.636]),
    ((0.9, 0.0), "stereo", "mono", "s16p", [0.45]),
    ((0.9,), "mono", "stereo", "fltp", [0.636, 0.636]),
    ((0.9,), "mono", "stereo", "s16p", [0.636, 0.636]),
    ((0.0, 0.0, 0.0, 0.9, 0.0, 0.0), "5.1", "stereo", "fltp", [0.0, 0.0]),
):
    seen = level(values, layout, to, sample_format)
    print(f"{sample_format} {layout} {values} to {to}: {seen}")
    assert seen == expected, f"expected {expected}"
PYTHON
