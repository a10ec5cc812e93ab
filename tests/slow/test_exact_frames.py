"""The survey of benchmarks/decoders.py: no wrong frame of any kind of file, at any start."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import decoders


@pytest.mark.parametrize("kind", decoders.kinds(), ids=lambda kind: kind.name)
def test_frames_of_every_kind_are_those_of_a_decode_from_the_start(tmp_path: Path, kind: decoders.Kind) -> None:
    result = decoders.survey(kind, tmp_path, "pyav")
    assert not result["refused"] and not result["wrong"] and result["clips"] > 100


@pytest.mark.parametrize("name", ["h264 closed b0.mp4", "h264 closed b3.mov", "h264 one key b3.m4v", "hour.mov"])
def test_decord_gives_the_same_where_it_reads(tmp_path: Path, name: str) -> None:
    kind = next(kind for kind in decoders.kinds() if kind.name == name)
    result = decoders.survey(kind, tmp_path, "decord")
    assert result["decoder"] == "decord" and not result["wrong"] and result["clips"] > 100
