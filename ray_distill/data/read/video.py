"""Read and write video files; without torch, so that decode workers start fast.

Each call opens a reader of its own: decord readers that threads share return wrong frames without an error, and an
open, idle reader reads ahead without bound. Source files are never changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ray_distill import durable
from ray_distill.data.read import readers
from ray_distill.data.read.clip import BadClip, Cut, Seek, Times, Video
from ray_distill.data.read.container import MOV, PIXELS, check_moment, check_size, open_video
from ray_distill.data.read.scan import Scan, scan, seekable
from ray_distill.data.read.track import Track

try:
    import decord
except ImportError:  # decord has no wheels for some platforms; there PyAV reads everything
    decord = None

AHEAD = 320 << 20
"""Most bytes that decord may read ahead: even for one frame it decodes to the next key frame, usually 250 frames."""
CHUNK = 4 << 20
"""Bytes of decord's frames in memory before we resize them; so few that the allocator reuses them for the next chunk,
since fresh pages from the kernel cost page faults (docs/benchmarks.md)."""
UNFIT = {8: "linear", 9: "logarithmic", 10: "logarithmic", 16: "HDR (PQ)", 17: "SMPTE ST 428-1", 18: "HDR (HLG)"}
"""Transfer characteristics (ITU-T H.273) that would give wrong brightness."""
WIDE = {9: "BT.2020", 10: "CIE XYZ", 11: "DCI-P3", 12: "Display P3"}
"""Colour primaries (ITU-T H.273) that would give pale colours."""
BT2020 = (9, 10)
"""Matrix coefficients (ITU-T H.273) of BT.2020."""


Fit = Callable[[np.ndarray, Video], np.ndarray]


@dataclass(frozen=True)
class Clip:
    """``frames`` uint8 RGB [T, H, W, 3] and their ``decoder``, "decord" or "pyav"."""

    frames: np.ndarray
    decoder: str


def look(path: str, cut: Cut, most: int = 1, limit: int = PIXELS) -> tuple[Video, list[Seek | None]]:
    """(facts of a file, places of at most ``most`` of its clips from ``cut`` on); the place is None for a clip that
    only a decode from the start can find. Reads the file's packets once, up to the end of the last clip.

    BadClip where the file is missing, broken, no usable video, or has frames of more than ``limit`` pixels.
    """
    last = replace(cut, number=cut.number + most - 1)
    video, packets = _scan(path, last, limit)
    if packets is None:
        count = 1 if most == 1 else last.count(_decode_times(path, last, limit)) - cut.number
        return video, [None] * max(1, min(most, count))
    count = max(1, min(most, cut.count(packets.times) - cut.number))
    try:
        return video, [packets.seek(path, replace(cut, number=cut.number + later)) for later in range(count)]
    except BadClip:  # too short by its packets: a decode from the start decides, and reports it
        return video, [None]


def decoder(preferred: str, video: Video, seek: Seek | None) -> str:
    """The decoder that reads a clip: decord where it is ``preferred``, installed and proven to give the same frames,
    else PyAV (the table in docs/data.md)."""
    small = 250 * 3 * video.width * video.height <= AHEAD
    proven = video.plain and small and seek is not None
    return "decord" if preferred == "decord" and decord is not None and proven else "pyav"


def read_clip(
    path: str,
    cut: Cut,
    fit: Fit = lambda frames, video: frames,
    facts: tuple[Video, Seek | None] | None = None,
    out: np.ndarray | None = None,
    preferred: str = "pyav",
    limit: int = PIXELS,
) -> Clip:
    """The frames of ``cut``, upright. Each frame passes through ``fit`` at once, so that few frames of the file's size
    are in memory. ``facts`` is the result of ``look`` for this clip, if the caller has it; ``out`` is an array for
    the frames, if the caller passes one.

    The frames equal those of a decode of the whole file from its start, in number, order and time. Raises BadClip for a
    file that is missing, broken or too short.
    """
    video, (seek,) = look(path, cut, limit=limit) if facts is None else (facts[0], facts[1:])
    if seek is not None and decoder(preferred, video, seek) == "decord":
        try:
            return Clip(_join(_fit(_decord(path, seek, video), fit, video), cut.frames, out), "decord")
        except (decord.DECORDError, RuntimeError, IndexError):  # some widths, and broken files: PyAV decides
            pass
    if seek is not None:
        try:
            pictures = readers.seek_frames(path, seek, video, limit)
            return Clip(_join(_fit(pictures, fit, video), cut.frames, out), "pyav")
        except readers.Drift:  # the packets announced other frames than the file has: decode from its start
            pass
    pictures = readers.decode_from_start(path, cut, video, limit)
    return Clip(_join(_fit(pictures, fit, video), cut.frames, out), "pyav")


def _fit(pictures: Iterator[np.ndarray], fit: Fit, video: Video) -> Iterator[np.ndarray]:
    while (picture := next(pictures, None)) is not None:
        fitted = fit(picture, video)
        del picture  # the next picture uses its memory
        yield fitted


def _join(chunks: Iterator[np.ndarray], frames: int, out: np.ndarray | None) -> np.ndarray:
    """Join ``chunks`` in one array, allocated before the second chunk is decoded. Otherwise small chunks would stay
    between large frames that are freed, and leave holes of a large frame's size in the heap (4 MiB per frame at
    720p)."""
    first = next(chunks)
    whole = np.empty((frames, *first.shape[1:]), dtype=first.dtype) if out is None else out
    whole[: len(first)], place = first, len(first)
    del first
    for chunk in chunks:
        whole[place : place + len(chunk)] = chunk
        place += len(chunk)
    assert place == frames, f"{place} of {frames} frames"
    return whole


def write_clip(path: str | Path, frames: np.ndarray, fps: float, crf: int = 18, sound: Track | None = None) -> None:
    """Write uint8 RGB [T, H, W, 3] as h264 mp4 (yuv420p, so H and W must be even), with ``sound`` if given. The write
    is atomic: the whole file appears, or none."""
    if len(frames) == 0:
        raise ValueError(f"{path}: frames must be uint8 [T, H, W, 3] with T > 0, got {frames.dtype} {frames.shape}")
    write_chunks(path, [frames], fps, crf, sound)


def write_chunks(
    path: str | Path, chunks: Iterable[np.ndarray], fps: float, crf: int = 18, sound: Track | None = None
) -> None:
    """Write a clip chunk by chunk, as :func:`write_clip` does; each of ``chunks`` is uint8 RGB [t, H, W, 3]."""
    path = Path(path)
    with durable.replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        # Equal frames must give equal files: x264's output depends on its number of threads, and its macroblock tree
        # reads uninitialised memory.
        options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.pix_fmt = "yuv420p"
        # Added before the first packet, since mp4's header names both streams.
        audio = None if sound is None else sound.stream(container)
        for number, frame in enumerate(frame for chunk in chunks for frame in _check(path, chunk)):
            if number == 0:
                stream.height, stream.width, _ = frame.shape
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
        if sound is not None and audio is not None:
            sound.mux(container, audio)


def _check(path: Path, frames: np.ndarray) -> np.ndarray:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"{path}: frames must be uint8 [T, H, W, 3] with T > 0, got {frames.dtype} {frames.shape}")
    _, height, width, _ = frames.shape
    if height % 2 or width % 2:
        raise ValueError(f"{path}: yuv420p needs an even height and width, got {height}x{width}; crop or pad by one")
    return frames


def _decord(path: str, seek: Seek, video: Video) -> Iterator[np.ndarray]:
    """Chunks uint8 [n, H, W, 3] of a ``plain`` file; decord turns frames upright itself."""
    reader = decord.VideoReader(path, num_threads=1)
    try:
        size = max(1, CHUNK // (3 * video.width * video.height))
        for start in range(0, len(seek.numbers), size):
            yield reader.get_batch(seek.numbers[start : start + size]).asnumpy()
    finally:
        del reader


def _scan(path: str, last: Cut | None, limit: int) -> tuple[Video, Scan | None]:
    """(facts from a file's header and first frame, its packets up to the end of ``last``); the latter None where
    packets do not identify the frames."""
    with open_video(path, limit) as (container, stream):
        first: list[av.VideoFrame] = []
        packets = _packets(container, stream, first)
        packet_scan = scan(stream, packets, last) if seekable(container, stream) else None
        while not first and next(packets, None) is not None:
            pass
        if not first:
            raise BadClip(path, "cannot be decoded: it has no frame")
        video = _video(path, container, stream, first[0])
        check_size(path, video.width, video.height, limit)
        if packet_scan is None:
            return replace(video, plain=False), None
        return _lasting(replace(video, plain=video.plain and packet_scan.closed), packet_scan.times), packet_scan


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, first: list[av.VideoFrame]
) -> Iterator[av.Packet]:
    """Yield all packets, and decode them until one gives frames, which go into ``first``."""
    for packet in container.demux(stream):
        if not first:
            first += packet.decode()
        yield packet


def _decode_times(path: str, last: Cut | None, limit: int) -> Times:
    """Times of the frames up to the end of ``last``, found by a decode from the start."""
    marks: list[int] = []
    with open_video(path, limit, probed=True) as (container, stream):
        frames, tick = readers.frames_with_times(container, stream)
        due = last.due(tick)[-1] if last and last.fps else None
        for _, mark in frames:
            marks.append(max(mark, marks[-1]) if marks else mark)
            if last and (len(marks) > last.numbers[-1] if due is None else mark - marks[0] > due):
                break
    return Times(np.array(marks, dtype=np.int64), tick)


def _lasting(video: Video, times: Times) -> Video:
    return replace(video, frames=times.frames, seconds=times.seconds, tick=float(times.tick))


def _video(
    path: str,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    frame: av.VideoFrame,
) -> Video:
    """Facts of a file from its header and first ``frame``; BadClip where training cannot use its colours."""
    context = stream.codec_context
    if context.color_trc in UNFIT:
        raise BadClip(path, f"is {UNFIT[context.color_trc]}; convert it to SDR first")
    if context.color_primaries in WIDE or context.colorspace in BT2020:
        gamut = WIDE.get(context.color_primaries, WIDE[9])
        raise BadClip(path, f"is {gamut}, a wide gamut that would come out pale; convert it to BT.709 first")
    check_moment(path, frame)
    turns, mirrored = _orientation(path, frame)
    aspect = float(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1) or 1.0
    (width, height), aspect = (
        ((frame.height, frame.width), 1 / aspect) if turns % 2 else ((frame.width, frame.height), aspect)
    )
    plain = container.format.name == MOV and stream.codec.canonical_name == "h264" and frame.format.name == "yuv420p"
    return Video(
        width,
        height,
        pixel_aspect=aspect,
        quarter_turns=turns,
        mirrored=mirrored,
        plain=plain and not mirrored and len(container.streams.video) == 1,
        frames=0,
        seconds=0.0,
        tick=0.0,
        rate=float(stream.average_rate or stream.guessed_rate or 0),
    )


def _orientation(path: str, frame: av.VideoFrame) -> tuple[int, bool]:
    """(quarter turns anticlockwise, whether to mirror the picture before). FFmpeg's display matrix [[a, b], [c, d]]
    maps (x, y) to (a x + c y, b x + d y), and a negative determinant mirrors."""
    sides: Any = frame.side_data
    matrices = [bytes(side) for side in sides if side.type.name == "DISPLAYMATRIX"]
    if not matrices:
        return 0, False
    a, b, _, c, d = np.frombuffer(matrices[0], np.int32)[:5].astype(float)
    mirrored = a * d - b * c < 0
    turns = -math.degrees(math.atan2(-b if mirrored else b, -a if mirrored else a)) / 90
    if abs(turns - round(turns)) > 1 / 90:
        raise BadClip(path, f"is turned by {90 * turns:.0f} degrees; turn it by a quarter, or write it upright")
    return round(turns) % 4, bool(mirrored)
