"""Write videos of samples as mp4 files, with a file of their prompts beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ray_distill.data.read.video import write_clip
from ray_distill.evaluate.names import PROMPTS
from ray_distill.evaluate.samples import Samples
from ray_distill.jsonl import write_document


def write_videos(folder: Path, samples: Samples, prompts: Sequence[str], fps: float) -> None:
    """Write the videos of ``samples`` with their sound, one mp4 for each prompt, named after it, and ``prompts.json``,
    which has the prompt of each file. Other mp4 files of the folder are those of earlier samples, and are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, str] = {}
    for number, (prompt, video) in enumerate(zip(prompts, samples.videos, strict=False)):
        name = f"{number:02d}_{plain_name(prompt)}.mp4"
        names[name] = prompt
        track = samples.tracks[number] if samples.tracks else None
        write_clip(folder / name, enlarge(video), fps, sound=track)
    write_document(folder / PROMPTS, names)
    for path in folder.glob("*.mp4"):
        if path.name not in names:
            path.unlink()


def beside(left: Samples, right: Samples) -> Samples:
    """Samples whose videos show those of ``left`` and of ``right`` in one picture, with the sound of ``right``."""
    count = min(len(left.videos), len(right.videos))
    both = np.concatenate([left.videos[:count], right.videos[:count]], axis=3)
    return replace(right, videos=both, tracks=right.tracks[:count])


def plain_name(prompt: str) -> str:
    """``prompt`` as a part of a file's name, since a caption may have any character."""
    return re.sub(r"[^\w-]+", "_", prompt)[:60]


def enlarge(video: np.ndarray, least: int = 192) -> np.ndarray:
    """Magnify [T, H, W, 3] by a whole factor to at least ``least`` rows, since players blur tiny videos."""
    factor = max(1, -(-least // video.shape[1]))
    return video.repeat(factor, axis=1).repeat(factor, axis=2)
