#!/usr/bin/env bash
# Sound after a seek: two seconds decoded from the start, and from one second on, compared at equal times.
# Versions: PyAV 18.1.0 (FFmpeg 8), numpy 2.4.6.
# Guess: the first frame after a seek differs, since it lacks the frame before it; from the second on, samples are equal.
# Seen: AAC's first 20 ms are wrong, mp3's and Opus' first 90 to 100 ms, by as much as the sound is loud. Noise never agrees
# again in AAC: its encoder stores how loud a noisy band is, and the decoder draws other noise after a seek. FLAC is equal.
# A clip's sound is reproducible where decoding begins at the file's start; a few packets of lead are not enough for noise in AAC.
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
TIMES = np.arange(2 * RATE) / RATE
SOUNDS = {
    "chirp": 0.4 * np.sin(2 * np.pi * (200 * TIMES + 300 * TIMES**2)),
    "noise": 0.1 * np.random.default_rng(0).normal(size=2 * RATE),
}
LATER = RATE // 5  # 0.2 s after the seek
SEEN = {  # (sound, codec): is the start wrong, is the rest wrong
    ("chirp", "aac"): (True, False),
    ("chirp", "libmp3lame"): (True, False),
    ("chirp", "libopus"): (True, False),
    ("chirp", "flac"): (False, False),
    ("noise", "aac"): (True, True),
    ("noise", "libmp3lame"): (True, False),
    ("noise", "libopus"): (True, False),
    ("noise", "flac"): (False, False),
}
FILES = {"aac": "sound.mp4", "libmp3lame": "sound.mp4", "libopus": "sound.ogg", "flac": "sound.mkv"}


def encode(path, codec, samples):
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=RATE)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def decode(path, start=0):
    """Sample number of the first sample, and the samples, from ``start`` seconds on."""
    with av.open(path) as file:
        stream = file.streams.audio[0]
        if start:
            file.seek(int(start / stream.time_base), stream=stream)
        frames = list(file.decode(audio=0))
    sound = np.concatenate([frame.to_ndarray().astype(float).ravel() for frame in frames])
    scale = 32_768 if frames[0].format.name.startswith("s16") else 1
    return round(float(frames[0].pts * frames[0].time_base) * RATE), sound / scale


print(f"PyAV {av.__version__}, libavcodec {av.library_versions['libavcodec']}")
for (sound, codec), expected in SEEN.items():
    encode(FILES[codec], codec, SOUNDS[sound])
    first, straight = decode(FILES[codec])
    place, sought = decode(FILES[codec], 1)
    straight = straight[place - first :]
    count = min(len(straight), len(sought))
    error = np.abs(straight[:count] - sought[:count])
    wrong = np.flatnonzero(error[:LATER] > 0.02)
    until = (wrong[-1] + 1) / RATE * 1000 if len(wrong) else 0
    print(f"{sound} in {codec}: wrong until {until:.0f} ms; at most {error[:LATER].max():.3f} off, {error[LATER:].max():.3f} after 0.2 s")
    seen = (bool(error[:LATER].max() > 0.05), bool(error[LATER:].max() > 0.05))
    assert seen == expected, f"expected {expected}"
PYTHON
