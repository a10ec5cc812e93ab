#!/usr/bin/env bash
# Transparent video in WebM: what PyAV's decode keeps of the fourth channel.
# Versions: PyAV 18.1.0 (FFmpeg 8), numpy 2.4.6.
# Guess: VP8 and VP9 with alpha decode to yuva420p, as FFV1 and QuickTime Animation do.
# Seen: FFmpeg's own VP8 and VP9 decoders drop it, and give yuv420p without a word: the frame shows whatever colour stands under the
# transparent part. The stream's metadata says alpha_mode 1, and a decoder of libvpx that is asked for by name keeps it. Where a format
# keeps alpha, conversion to rgb24 drops it as well, and nothing is blended.
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

UNDER = 200  # grey, everywhere; opaque in the middle alone
SEEN = {  # codec: (file, pixels that are written, pixels that the stream's decoder gives, alpha_mode)
    "libvpx": ("clip.webm", "yuva420p", "yuv420p", "1"),
    "libvpx-vp9": ("clip.webm", "yuva420p", "yuv420p", "1"),
    "ffv1": ("clip.mkv", "yuva420p", "yuva420p", None),
    "qtrle": ("clip.mov", "argb", "argb", None),
}


def write(path, codec, pixels):
    picture = np.full((64, 64, 4), UNDER, np.uint8)
    picture[..., 3] = 0
    picture[16:48, 16:48, 3] = 255
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=25, options={"auto-alt-ref": "0"} if codec == "libvpx" else {})
        stream.width = stream.height = 64
        stream.pix_fmt = pixels
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def by_name(path, codec):
    """Pixel format that the decoder of this name gives."""
    decoder = av.codec.CodecContext.create(codec, "r")
    with av.open(path) as file:
        for packet in file.demux(video=0):
            for frame in decoder.decode(packet):
                return frame.format.name


print(f"PyAV {av.__version__}, libavcodec {av.library_versions['libavcodec']}")
for codec, (path, pixels, expected, mode) in SEEN.items():
    write(path, codec, pixels)
    with av.open(path) as file:
        alpha_mode = file.streams.video[0].metadata.get("alpha_mode")
        frame = next(file.decode(video=0))
    corner = frame.to_ndarray(format="rgb24")[2, 2]
    named = by_name(path, codec) if path.endswith("webm") else None
    print(f"{codec}: {frame.format.name}, alpha_mode {alpha_mode}, clear corner {corner}, by libvpx {named}")
    assert (frame.format.name, alpha_mode) == (expected, mode), f"expected {expected}, {mode}"
    assert named in (None, "yuva420p") and np.abs(corner.astype(int) - UNDER).max() <= 2
PYTHON
