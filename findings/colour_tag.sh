#!/usr/bin/env bash
# A red of (200, 30, 30), written as rgb24 frames into h264, whose stream is tagged BT.709, and read back.
# Versions: PyAV 18.1.0 (FFmpeg 8), numpy 2.4.6.
# Guess: frames are converted by the matrix that the stream is tagged with, so that they come back as they went in.
# Seen: frames are converted by BT.601, whatever the tag says, and a reader that believes the tag sees (214, 45, 27). Without a tag the same
# red comes back. Converted by hand, with reformat(dst_colorspace="ITU709"), and tagged, it comes back, too; without the stream's tag it is
# (185, 11, 31), since the tag that the frame has by then is not written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import av
import numpy as np

RED = (200, 30, 30)
BT709 = 1


def through(tagged, converted):
    """The red after a file whose stream is ``tagged``, of frames that are ``converted`` before; and the tag that is read."""
    with av.open("red.mp4", "w") as file:
        stream = file.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        if tagged:
            stream.codec_context.colorspace = BT709
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), RED, np.uint8), format="rgb24")
            if converted:
                frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with av.open("red.mp4") as file:
        frame = next(file.decode(video=0))
        return frame.to_ndarray(format="rgb24")[32, 32].astype(int), int(frame.colorspace)


print(f"PyAV {av.__version__}, libswscale {av.library_versions['libswscale']}")
for tagged, converted, expected in ((False, False, RED), (True, False, (214, 45, 27)), (True, True, RED), (False, True, (185, 11, 31))):
    seen, tag = through(tagged, converted)
    print(f"stream tagged {tagged}, frames converted {converted}: {seen.tolist()}, read with the tag {tag}")
    assert np.abs(seen - expected).max() <= 3, f"expected {expected}"
PYTHON
