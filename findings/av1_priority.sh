#!/usr/bin/env bash
# A process that writes one small AV1 file by PyAV's SVT-AV1, as root, which is who most containers run as.
# Versions: PyAV 18.1.0 (FFmpeg 8 with SVT-AV1), numpy 2.4.6.
# Guess: an encoder leaves the scheduling of the process that calls it alone, as x264, x265 and VP9 do.
# Seen: the thread that opens the encoder is a real-time one (SCHED_FIFO, 99) from then on, after the file is closed, too, and so is each
# process that it starts: beside it a data loader, a Ray worker or a training on the same cores gets next to nothing, whatever its nice
# value. Decoding AV1 changes nothing. Setting the policy back after the file is closed is enough. Without root's right nothing changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import os
import subprocess
import sys

import av
import numpy as np

NAMES = {os.SCHED_OTHER: "the usual one", os.SCHED_FIFO: "real time"}
ASK = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)"


def policy():
    return NAMES[os.sched_getscheduler(0)], os.sched_getparam(0).sched_priority


def write(codec, path):
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


print(f"PyAV {av.__version__}")
usual = ("the usual one", 0)
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
except PermissionError:
    print("this user may not make a process a real-time one, and nothing is seen: run it as root")
    sys.exit(0)
for codec, path in (("libx264", "h264.mp4"), ("libx265", "hevc.mp4"), ("libvpx-vp9", "vp9.webm")):
    write(codec, path)
    print(f"after {codec}: {policy()}")
    assert policy() == usual, f"expected {usual}"

write("libsvtav1", "av1.mp4")
child = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout.split()
print(f"after libsvtav1: {policy()}; a process that it starts: {NAMES[int(child[0])]}, {child[1]}")
assert policy() == ("real time", 99) and child == [str(int(os.SCHED_FIFO)), "99"], "expected real time, inherited"

os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
with av.open("av1.mp4") as container:
    frames = sum(1 for _ in container.decode(video=0))
print(f"set back, and {frames} frames decoded: {policy()}")
assert policy() == usual and frames == 3, "expected that decoding changes nothing"
PYTHON
