#!/usr/bin/env bash
# Sound out of PyAV: which containers hide an encoder's delay, and which do not. A click at sample 24,000 of 48,000.
# Versions: PyAV 18.1.0 (FFmpeg 8), numpy 2.4.6.
# Guess: decoding removes the delay everywhere, or the first frame's time is negative by as much; .mp3 begins at 0.
# Seen: in MPEG-TS the click is late by the whole delay (AAC 1,024 samples, mp3 1,105, mp2 481) although the first frame's time
# is 0; in .mp3 samples are right and the first frame's time is 0.023 s. Aligning by times is wrong in .mp3, by samples in .ts.
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

RATE = 48_000
SEEN = {  # file: (samples, sample of the click, seconds of the first frame)
    ("click.mp4", "aac"): (48_128, 24_000, 0.0),
    ("click.mkv", "aac"): (48_128, 24_000, 0.0),
    ("click.ts", "aac"): (49_152, 25_024, 0.0),
    ("click.webm", "libopus"): (48_000, 24_000, 0.0),
    ("click.mp3", "libmp3lame"): (48_000, 24_000, 0.023),
    ("click.mp4", "libmp3lame"): (48_431, 24_000, 0.0),
    ("click.ts", "libmp3lame"): (49_536, 25_105, 0.0),
    ("click.ts", "mp2"): (48_384, 24_481, 0.0),
}


def encode(path, codec):
    samples = np.zeros((1, RATE), np.float32)
    samples[:, RATE // 2 : RATE // 2 + 48] = 0.9
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=RATE)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def decode(path):
    with av.open(path) as file:
        frames = list(file.decode(audio=0))
    sound = np.concatenate([frame.to_ndarray().astype(float).ravel() for frame in frames])
    sound /= 32_768 if np.abs(sound).max() > 2 else 1
    return len(sound), int(np.argmax(np.abs(sound) > 0.3)), round(float(frames[0].pts * frames[0].time_base), 3)


print(f"PyAV {av.__version__}, libavcodec {av.library_versions['libavcodec']}")
for (path, codec), expected in SEEN.items():
    encode(path, codec)
    seen = decode(path)
    print(f"{codec} in {path}: {seen[0]} samples, click at {seen[1]}, first frame at {seen[2]} s")
    assert seen == expected, f"expected {expected}"
PYTHON
