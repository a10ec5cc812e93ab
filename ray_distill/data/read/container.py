"""Open a video file of a known container, with one video stream and bounded frame sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer as Container

from ray_distill.data.read.clip import BadClip

MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # names of FFmpeg's demuxers
CONTAINERS = f"{MOV},{MATROSKA},avi,mpegts,mpeg,mpegvideo,asf,flv,gif,ogg,nut,mxf,ivf,dv"
"""FFmpeg's demuxers of video files; it has other demuxers for text, playlists, lists of files, and pictures."""
PIXELS = 8192 * 8192
"""Most pixels of a frame; the default of ``data.maximum_pixels``."""
ALIGNED = 64 << 15
"""Pixels by which a decoder's buffers may exceed its frames, since it rounds rows up."""
BROKEN = (av.FFmpegError, OSError, ValueError, MemoryError)
"""Errors of PyAV on files that are damaged, or whose header states a wrong size."""


@contextmanager
def open_video(path: str, limit: int = PIXELS, probed: bool = False) -> Iterator[tuple[Container, av.VideoStream]]:
    """Yield a file's container and its first video stream, whose decoder has one thread and refuses frames above
    ``limit`` pixels. BadClip where the file is missing, is no video, or breaks within the block.

    On opening, FFmpeg can decode the first frames of a file, which costs as much as ten further frames and obeys no
    limit. It does so only with ``probed``, and only after we have checked the header. These first frames show how far a
    decoder reorders frames, where the stream itself does not say so; without them the caller must check the order of
    frames.
    """
    if not os.path.isfile(path):
        raise BadClip(path, "no such file" if not os.path.lexists(path) else "no regular file")
    bound = {"max_pixels": str(limit + ALIGNED)}
    try:
        with _container(path, bound | {"codec_whitelist": "none"}) as container:
            stream = _stream(path, container, limit)
            if not probed:
                stream.codec_context.options = bound
                yield container, stream
                return
        with _container(path, bound) as container:
            stream = _stream(path, container, limit)
            stream.codec_context.options = bound
            yield container, stream
    except BROKEN as error:
        if isinstance(error, BadClip):
            raise
        reason = getattr(error, "strerror", None) or error  # without the path, which BadClip names already
        raise BadClip(path, f"cannot be decoded ({type(error).__name__}: {reason})") from error


def _container(path: str, options: dict[str, str]) -> Container:
    options = options | {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        # An absolute path: FFmpeg would take "take:2.mp4" for a protocol.
        return av.open(os.path.abspath(path), options=options)
    except av.ArgumentError as error:
        reason = "it is no video file of a known kind (but text, a playlist or a picture)"
        raise BadClip(path, f"cannot be decoded: {reason}") from error


def check_size(path: str, width: int, height: int, limit: int) -> None:
    if width * height > limit:
        reason = f"{width}x{height} are {width * height} pixels, above data.maximum_pixels = {limit}"
        raise BadClip(path, f"{reason}; raise it, or drop the file")


def check_moment(path: str, frame: av.VideoFrame) -> None:
    if frame.interlaced_frame:
        raise BadClip(path, "is interlaced: every frame holds the lines of two moments; deinterlace it first")


def _stream(path: str, container: Container, limit: int) -> av.VideoStream:
    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        raise BadClip(path, "the file has no video stream")
    context = streams[0].codec_context
    if context is None:
        raise BadClip(path, "cannot be decoded: no decoder knows its codec")
    check_size(path, context.width, context.height, limit)
    context.thread_count = 1  # a worker has one core, and threads cost more than they save
    return streams[0]
