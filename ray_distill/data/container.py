"""Open a video file: only known containers, one stream of pictures, bounded sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av

from ray_distill.data.cut import BadClip

MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # names of FFmpeg's demuxers
CONTAINERS = f"{MOV},{MATROSKA},avi,mpegts,mpeg,mpegvideo,asf,flv,gif,ogg,nut,mxf,ivf,dv"
"""FFmpeg's demuxers of real video files. Text, playlists, lists of other files and pictures have others."""
PIXELS = 8192 * 8192
"""Most pixels of a frame, unless ``data.maximum_pixels`` says otherwise."""
ALIGNED = 64 << 15
"""Pixels by which a decoder's buffers may exceed its frames: it rounds rows up."""
BROKEN = (av.FFmpegError, OSError, ValueError, MemoryError)
"""What PyAV raises on files that are damaged or lie about their size."""


@contextmanager
def opened(path: str, limit: int = PIXELS) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container of a file and its first stream of pictures, whose decoder has one thread and refuses frames above
    ``limit`` pixels. BadClip where the file is missing, broken while it is used, or no video."""
    if not os.path.isfile(path):
        raise BadClip(path, "no such file" if not os.path.lexists(path) else "no regular file")
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    bound: Any = {"max_pixels": str(limit + ALIGNED)}
    try:
        # An absolute path: FFmpeg would take "take:2.mp4" for a protocol.
        container = av.open(os.path.abspath(path), container_options=options, stream_options=[bound])
    except av.ArgumentError as error:
        reason = "cannot be decoded: it is no video file of a known kind (text, a playlist, a list of files?)"
        raise BadClip(path, f"{reason}, or larger than data.maximum_pixels = {limit}") from error
    except BROKEN as error:
        raise damaged(path, error) from error
    with container:
        try:
            stream = _stream(path, container)
            if stream.codec_context is None:
                raise BadClip(path, "cannot be decoded: no decoder knows its codec")
            check_size(path, stream.codec_context.width, stream.codec_context.height, limit)
            stream.codec_context.options = bound
            stream.codec_context.thread_count = 1  # a worker has one core, and threads cost more than they save
            yield container, stream
        except BadClip:
            raise
        except BROKEN as error:
            raise damaged(path, error) from error


def check_size(path: str, width: int, height: int, limit: int) -> None:
    if width * height > limit:
        reason = f"{width}x{height} are {width * height} pixels, above data.maximum_pixels = {limit}"
        raise BadClip(path, f"{reason}; raise it, or drop the file")


def damaged(path: str, error: BaseException) -> BadClip:
    reason = getattr(error, "strerror", None) or error  # without the path, which BadClip names already
    return BadClip(path, f"cannot be decoded ({type(error).__name__}: {reason})")


def _stream(path: str, container: av.container.InputContainer) -> av.VideoStream:
    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        raise BadClip(path, "the file has no video stream")
    return streams[0]
