"""Compare the frames of clips with FFmpeg's decode of the whole file, over kinds of video file.

    python benchmarks/decoders.py [--only h264] [--asked decord] [--json FILE]

It writes a small file of each kind (codec x container x groups of pictures x b-frames x rates) and reads clips of it at
every start, as frames come and at rates. The reference decodes the file from its start and uses neither packets nor key
frames. It prints a table and JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ray_distill.data.read.clip import BadClip, Cut
from ray_distill.data.read.video import decoder, look, read_clip

FRAMES, HEIGHT, WIDTH = 48, 48, 64
H264 = {"closed": "keyint=12:min-keyint=12:scenecut=0", "open": "keyint=12:min-keyint=12:scenecut=0:open-gop=1"}
H264["one key"] = "keyint=250"
H264["refresh"] = "keyint=12:intra-refresh=1"


@dataclass(frozen=True)
class Kind:
    """Recipe of a file: ``codec`` by its encoder with ``options``, in ``name``'s container."""

    name: str
    codec: str
    options: dict[str, str] = field(default_factory=dict)
    pix_fmt: str = "yuv420p"
    rate: Fraction = Fraction(24)
    gop: int = 12
    b_frames: int | None = None
    start: int = 0
    """The first frame's time, as a number of frames."""
    step: tuple[int, ...] = (1,)
    """Frames' durations in turn: more than one is a variable rate."""
    size: tuple[int, int] = (HEIGHT, WIDTH)


def kinds() -> list[Kind]:
    """All kinds of the survey."""
    return [*_h264(), *_hevc(), *_mpeg(), *_others(), *_timed()]


def _h264() -> Iterator[Kind]:
    for end in ("mp4", "mov", "m4v", "mkv", "ts", "flv", "avi", "nut", "3gp"):
        for form, parameters in H264.items():
            for b_frames in (0, 3):
                if (form == "refresh" and b_frames) or (end in ("nut", "3gp", "m4v") and b_frames == 0):
                    continue
                options = {"x264-params": f"{parameters}:bframes={b_frames}"}
                yield Kind(f"h264 {form} b{b_frames}.{end}", "libx264", options, gop=-1)


def _hevc() -> Iterator[Kind]:
    for end in ("mp4", "mov", "mkv", "ts"):
        for form in ("open-gop=1", "open-gop=0"):
            for b_frames in (0, 4):
                if end in ("mov", "ts") and b_frames == 0:
                    continue
                parameters = f"log-level=none:keyint=12:min-keyint=12:scenecut=0:{form}:bframes={b_frames}"
                yield Kind(f"hevc {form} b{b_frames}.{end}", "libx265", {"x265-params": parameters}, gop=-1)


def _mpeg() -> Iterator[Kind]:
    mpeg = [("mpeg4", "mp4 mov mkv avi ts"), ("mpeg2video", "mp4 mkv ts mpg mpeg mxf"), ("mpeg1video", "mpg mkv")]
    for codec, ends in mpeg:
        for end in ends.split():
            for b_frames in (0, 2):
                yield Kind(f"{codec} b{b_frames}.{end}", codec, rate=Fraction(25), b_frames=b_frames)


def _others() -> Iterator[Kind]:
    containers = [
        ("libvpx", "webm mkv ogv"),
        ("libvpx-vp9", "webm mp4 mkv ivf"),
        ("libsvtav1", "mp4 mkv"),
        ("wmv2", "wmv avi"),
        ("mjpeg", "mov mkv avi"),
        ("flv", "flv"),
        ("ffv1", "mkv"),
    ]
    options = {"libvpx": {"auto-alt-ref": "1", "lag-in-frames": "16"}, "libsvtav1": {"preset": "12"}}
    for codec, ends in containers:
        for end in ends.split():
            pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            yield Kind(f"{codec}.{end}", codec, options.get(codec, {}), pix_fmt)
    yield Kind("gif.gif", "gif", pix_fmt="rgb8", rate=Fraction(10))
    yield Kind("prores.mov", "prores_ks", pix_fmt="yuv422p10le")


def _timed() -> Iterator[Kind]:
    """Rates, first times and durations of frames, and pixel formats that decoders convert."""
    closed = {"x264-params": H264["closed"]}
    rates = {"2997": Fraction(30000, 1001), "60": Fraction(60), "23976": Fraction(24000, 1001), "8": Fraction(8)}
    for label, rate in rates.items():
        for end in ("mp4", "mkv", "ts"):
            yield Kind(f"rate {label}.{end}", "libx264", closed, rate=rate, gop=-1)
    for end in ("mp4", "mkv", "mov"):
        yield Kind(f"late.{end}", "libx264", closed, gop=-1, start=30)
        yield Kind(f"hour.{end}", "libx264", closed, gop=-1, start=24 * 3600)
        yield Kind(f"variable.{end}", "libx264", closed, gop=-1, step=(1, 3, 1, 2))
        yield Kind(f"ten bits.{end}", "libx264", closed, "yuv420p10le", gop=-1)
        yield Kind(f"444.{end}", "libx264", closed, "yuv444p", gop=-1)


def picture(number: int, height: int, width: int) -> np.ndarray:
    """Picture of drifting noise, with a level that identifies the frame."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame = np.roll(noise, (number, 2 * number), (0, 1)) // 2
    frame[:, width // 2 :] = 5 * number % 250
    return frame


@contextmanager
def own_priority() -> Iterator[None]:
    """Scheduled afterwards as before: SVT-AV1 makes the thread that opens it a real-time one where that is root's."""
    if not hasattr(os, "sched_getscheduler"):  # not Linux
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def write(folder: Path, kind: Kind) -> Path:
    """The file of a kind."""
    path = folder / kind.name.replace(" ", "_")
    form = {".m4v": "mp4", ".wmv": "asf", ".ogv": "ogg", ".3gp": "mp4"}.get(path.suffix)
    with own_priority(), av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(kind.codec, rate=kind.rate, options=kind.options)
        stream.height, stream.width, stream.pix_fmt = *kind.size, kind.pix_fmt
        stream.codec_context.thread_count = 1
        if kind.gop > 0:
            stream.codec_context.gop_size = kind.gop
        if kind.b_frames is not None:
            stream.codec_context.max_b_frames = kind.b_frames
        time = kind.start
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number, *kind.size), format="rgb24")
            frame.pts, frame.time_base = time, 1 / kind.rate
            time += kind.step[number % len(kind.step)]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@dataclass(frozen=True)
class Whole:
    """FFmpeg's decode of a file from its start: ``frames`` and the exact seconds of each after the first."""

    frames: list[np.ndarray]
    seconds: list[Fraction]


def whole(path: Path, rate: Fraction) -> Whole:
    """Decode the whole file; for AVI, whose times are those of decoding, count the frames."""
    frames, seconds = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for number, frame in enumerate(container.decode(stream)):
            frames.append(_rgb(frame))
            counted = container.format.name == "avi" or frame.pts is None
            seconds.append(number / rate if counted else frame.pts * Fraction(stream.time_base or 1))
    return Whole(frames, [one - seconds[0] for one in seconds])


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    """RGB by FFmpeg's conversion; more than 8 bits become 8 first."""
    name = frame.format.name
    if "10le" in name:
        frame = frame.reformat(format=name[:7], src_color_range=frame.color_range, dst_color_range=frame.color_range)
    return frame.to_ndarray(format="rgb24")


def expected(told: Whole, cut: Cut, tick: Fraction) -> list[int] | None:
    """Numbers of the frames of ``cut``, counted in exact fractions; None if the file is too short. A frame less
    than a tick before the border of two counts as on it."""
    numbers = [int(number) for number in cut.numbers]
    if cut.fps is None:
        return numbers if numbers[-1] < len(told.frames) else None
    fps = Fraction(cut.fps)
    slack = min(tick, 1 / (4 * fps)) * Fraction(999, 1000) if tick <= Fraction(1, 1000) else Fraction(1, 1_000_000)
    steps = sorted(b - a for a, b in zip(told.seconds, told.seconds[1:], strict=False))
    if (numbers[-1] + Fraction(1, 2)) / fps > told.seconds[-1] + steps[len(steps) // 2] / 2:
        return None  # near the end: the duration of the last frame does not matter here
    borders = [(number + Fraction(1, 2)) / fps - slack for number in numbers]
    return [max(0, sum(second <= border for second in told.seconds) - 1) for border in borders]


def cuts(rate: Fraction) -> Iterator[Cut]:
    """Cuts: every start as frames come, and clips at whole, half and odd rates."""
    for number in range(FRAMES - 3):
        yield Cut(1, number=number)
    for stride in (1, 3):
        yield from (Cut(4, stride, None, number) for number in range(FRAMES // (4 * stride)))
    for fps in (float(rate), float(rate) / 2, 10.0, 16.0, 2 * float(rate)):
        yield from (Cut(3, 1, fps, number) for number in range(FRAMES))


def survey(kind: Kind, folder: Path, asked: str) -> dict[str, Any]:
    """Clips that were read of a kind, wrong ones, and how."""
    path = write(folder, kind)
    told = whole(path, kind.rate)
    result: dict[str, Any] = {"kind": kind.name, "frames": len(told.frames), "clips": 0, "wrong": [], "refused": ""}
    try:
        video, (seek,) = look(str(path), Cut(1))
    except BadClip as bad:
        return result | {"refused": bad.reason}
    with av.open(str(path)) as container:
        tick = Fraction(container.streams.video[0].time_base or 1)
    result["way"] = "key frames" if seek else "from the start"
    result["decoder"] = decoder(asked, video, seek)
    for cut in cuts(kind.rate):
        numbers = expected(told, cut, tick)
        if numbers is None:
            continue
        result["clips"] += 1
        try:
            clip = read_clip(str(path), cut, preferred=asked)
        except BadClip as bad:
            result["wrong"].append(f"{cut}: {bad.reason}")
            continue
        if not all(np.array_equal(a, told.frames[b]) for a, b in zip(clip.frames, numbers, strict=True)):
            result["wrong"].append(f"{cut}: {[_which(frame, told) for frame in clip.frames]}, not {numbers}")
    return result


def _which(frame: np.ndarray, told: Whole) -> int:
    return next((number for number, one in enumerate(told.frames) if np.array_equal(one, frame)), -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--asked", choices=["pyav", "decord"], default="pyav")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    logging.getLogger("libav").setLevel(logging.CRITICAL)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds():
            if args.only in kind.name:
                rows.append(survey(kind, Path(folder), args.asked))
                row = rows[-1]
                way = row["refused"] or f"{row['way']} by {row['decoder']}"
                print(f"{row['kind']:28} {row['clips']:4} clips {len(row['wrong']):4} wrong  {way}")
                for wrong in row["wrong"][:3]:
                    print(f"    {wrong}")
    read = [row for row in rows if not row["refused"]]
    total = {
        "kinds": len(rows),
        "refused": len(rows) - len(read),
        "clips": sum(row["clips"] for row in read),
        "wrong": sum(len(row["wrong"]) for row in read),
        "by_key_frames": sum(row["way"] == "key frames" for row in read),
        "by_decord": sum(row["decoder"] == "decord" for row in read),
    }
    if args.json:
        args.json.write_text(json.dumps(rows))
    print(json.dumps(total))


if __name__ == "__main__":
    main()
