#!/usr/bin/env bash
# Times of the first frames of one h264 stream with b-frames, in mp4 files that differ in how they were muxed.
# Versions: PyAV 18.1.0 (FFmpeg 8), numpy 2.4.6.
# Guess: a clip begins at 0 in each, fragmented or not.
# Seen: with b-frames packets come before they are shown, and an edit list takes that delay off. Where the header is written first
# (empty_moov), there is none, and the same pictures begin two frames late, at 0.083 s, as in a transport stream; CMAF begins one frame
# late. With delay_moov they begin at 0. No fragmented header counts the frames.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import av
import numpy as np

RATE = 24


def muxed(path, flags):
    """Frames late at the beginning, frames that the header counts, and whether all pictures came in their order."""
    with av.open(path, "w", options={"movflags": flags} if flags else {}) as file:
        stream = file.add_stream("libx264", rate=RATE, options={"bf": "2", "x264-params": "b-adapt=0:threads=1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(RATE):
            grey = np.full((64, 64, 3), 10 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        file.mux(stream.encode(None))
    with av.open(path) as file:
        stream = file.streams.video[0]
        frames = [(frame.time, frame.to_ndarray(format="gray").mean()) for frame in file.decode(stream)]
        greys = [grey for _, grey in frames]
        return round(frames[0][0] * RATE), stream.frames, greys == sorted(greys) and len(greys) == RATE


print(f"PyAV {av.__version__}, libavformat {av.library_versions['libavformat']}")
for path, flags, expected in (
    ("plain.mp4", "", (0, 24)),
    ("delayed.mp4", "frag_keyframe+empty_moov+delay_moov", (0, 0)),
    ("fragments.mp4", "frag_keyframe+empty_moov", (2, 0)),
    ("cmaf.mp4", "cmaf", (1, 0)),
    ("transport.ts", "", (2, 0)),
):
    late, counted, whole = muxed(path, flags)
    print(f"{path} ({flags or 'no flags'}): the first frame is {late} late, the header counts {counted}, all in order {whole}")
    assert (late, counted) == expected and whole, f"expected {expected}"
PYTHON
