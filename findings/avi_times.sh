#!/usr/bin/env bash
# Times of the frames that PyAV decodes from AVI with b-frames (h264), against the same packets in Matroska.
# Versions: PyAV 18.1.0 (FFmpeg 8), numpy 2.4.6.
# Guess: decoded frames come in order of showing, and their times rise, whatever the container.
# Seen: frames come in the right order from both, but from AVI their times are those at which packets were to be decoded, carried along by
# the frames: out of order, so that picking a frame by its time takes the wrong picture. In Matroska they rise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import av
import numpy as np


def encode(path):
    """Eight frames whose grey says their number, in h264 with two b-frames."""
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=8, options={"bf": "2", "b_strategy": "0", "x264-params": "b-adapt=0:bframes=2:b-pyramid=0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(8):
            grey = np.full((64, 64, 3), 20 + 25 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        file.mux(stream.encode(None))


def decode(path):
    with av.open(path) as file:
        frames = [(frame.pts, frame.to_ndarray(format="gray").mean()) for frame in file.decode(video=0)]
    times, greys = zip(*frames)
    return sorted(greys) == list(greys), sorted(times) == list(times), times


print(f"PyAV {av.__version__}, libavformat {av.library_versions['libavformat']}")
for path, expected in (("frames.mkv", (True, True)), ("frames.avi", (True, False))):
    encode(path)
    *seen, times = decode(path)
    print(f"{path}: pictures in order {seen[0]}, times in order {seen[1]}: {list(times)}")
    assert tuple(seen) == expected, f"expected {expected}"
PYTHON
