"""Media inside a page: videos and pictures as data URIs, at most so many bytes, whole rows only."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray_distill.evaluate.names import PROMPTS
from ray_distill.jsonl import read_document

MIB = 1 << 20
LIMIT_MIB = 32.0
"""Of all videos of a page, as their files have them."""


@dataclass(frozen=True)
class Strip:
    """Videos that play side by side: their ``title`` and, for each, heading and data URI ("" where there is none)."""

    title: str
    cells: Sequence[tuple[str, str]]


@dataclass
class Room:
    """Room for the videos of a page: ``limit`` bytes, ``used`` so far, and the number of videos that found none."""

    limit: int = int(LIMIT_MIB * MIB)
    used: int = 0
    shown: int = 0
    left_out: int = 0
    kept_in: list[str] = field(default_factory=list)
    """Folders of the videos that found no room."""

    def strip(self, title: str, videos: Mapping[str, Path | None]) -> Strip | None:
        """The row of ``videos`` by heading; None where it holds none, or where not all of them find room."""
        paths = [path for path in videos.values() if path is not None]
        size = sum(path.stat().st_size for path in paths)
        if not paths:
            return None
        if self.used + size > self.limit:
            self.left_out += len(paths)
            self.kept_in += [folder for path in paths if (folder := str(path.parent)) not in self.kept_in]
            return None
        self.used += size
        self.shown += len(paths)
        return Strip(title, [(name, "" if path is None else data_uri(path)) for name, path in videos.items()])

    @property
    def note(self) -> str:
        """One sentence on the videos that are left out; "" where none is."""
        if not self.left_out:
            return ""
        return (
            f"{self.left_out} of {self.left_out + self.shown} videos are left out, since a page holds at most "
            f"{self.limit / MIB:g} MiB of them (ray-distill report --limit MIB). They are in: {', '.join(self.kept_in)}"
        )


def data_uri(path: Path) -> str:
    """A file, mp4 or png, as the address of its own content."""
    kind = "video/mp4" if path.suffix == ".mp4" else "image/png"
    return encoded(path.read_bytes(), kind)


def encoded(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def rows(folders: Mapping[str, Path]) -> list[tuple[str, dict[str, Path | None]]]:
    """(prompt, {heading: video or None}) of the folders of samples by heading, in the order of the prompts: videos of
    one prompt have one name. Folders that are not there have no column."""
    there = {heading: folder for heading, folder in folders.items() if folder.is_dir()}
    names = sorted({path.name for folder in there.values() for path in folder.glob("*.mp4")})
    prompts: dict[str, str] = {}
    for folder in there.values():
        prompts |= {name: str(prompt) for name, prompt in read_document(folder / PROMPTS, mend=False).items()}
    return [
        (
            prompts.get(name) or Path(name).stem.partition("_")[2].replace("_", " "),
            {heading: path if (path := folder / name).is_file() else None for heading, folder in there.items()},
        )
        for name in names
    ]
