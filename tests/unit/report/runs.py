"""Folders as runs leave them, small: for the tests of pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from ray_distill.data.read.video import write_clip
from ray_distill.evaluate.names import PROMPTS
from ray_distill.jsonl import append_rows, write_document
from ray_distill.report.journal import Journal, beginning
from tests.unit.toys import run_config

PROMPT_TEXTS = ("a red kite", "a <b>bold</b> & <script>alert(1)</script> prompt")
NOT_GOOD = {"frechet": None, "accuracy": None, "diversity": None, "frechet_spread": None}
RATIO = {"value": 0.912, "low": 0.871, "high": 0.954}
REPORT: dict[str, Any] = {
    "teacher_many": {**NOT_GOOD, "motion": 0.31, "saturation": 0.002, "nfe": 64, "seconds_per_video": 0.2},
    "student_before": {**NOT_GOOD, "motion": 0.1, "saturation": 0.002, "nfe": 3, "seconds_per_video": 0.01},
    "student": {**NOT_GOOD, "frechet": 20.61, "motion": 0.28, "saturation": 0.002, "nfe": 3, "seconds_per_video": 0.01},
    "ratios": {"motion_ratio": RATIO, "moving_difference": {"value": 0.0, "low": -0.1, "high": 0.1}},
    "teacher_seeds": {"motion_ratio": {"value": 1.001, "low": 0.993, "high": 1.008}},
    "distances": {"video_kid": {"value": 0.0125, "low": 0.008, "high": 0.017, "videos": 40}},
    "teacher_distances": {"video_kid": {"value": -0.0004, "low": -0.001, "high": 0.0002, "videos": 40}},
    "seeds": 3,
    "videos_per_seed": 2,
    "missed": ["its motion_ratio is 0.912; the goal is at least 0.95"],
    "steps": 8,
    "student_updates": 4,
    "planned_student_updates": 4,
    "memory_gib": 0.75,
    "wall_seconds": 12.5,
    "phases": {"prepare": 1.0, "train": 10.0},
}


def sources(key: str) -> str:
    return {"train.steps": "command line", "seed": "$RAY_DISTILL_SEED", "method.name": "run.yaml"}.get(key, "default")


def start(folder: Path, step: int = 0, warnings: Sequence[str] = (), **dotted: Any) -> Path:
    """A run's folder with the journal of a start alone."""
    config = run_config(folder, train__steps=8, **dotted)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    Journal(config.run_dir).add("start", **beginning(config, step, warnings, sources))
    return config.run_dir


def rows(folder: Path, steps: int = 8, **values: float) -> None:
    append_rows(folder / "metrics.jsonl", [{"step": s, "dmd_loss": 1.0 / (s + 1), **values} for s in range(steps)])


def clips(folder: Path, grey: int, prompts: Sequence[str] = PROMPT_TEXTS, frames: int = 3) -> None:
    """Videos of a few grey frames, with the file of their prompts."""
    names = {f"{number:02d}_p.mp4": prompt for number, prompt in enumerate(prompts)}
    for number, name in enumerate(names):
        video = np.full((frames, 16, 16, 3), grey + 10 * number, np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        write_clip(folder / name, video, 8)
    write_document(folder / PROMPTS, names)


def whole(folder: Path, report: Mapping[str, Any] = REPORT, **dotted: Any) -> Path:
    """A run that came to its end: evaluated, validated twice, exported."""
    run = start(folder, **dotted)
    journal = Journal(run)
    card = {"clips": 5, "skipped": 1, "reasons": {"is too short": 1}, "buckets": {"3x3x6x6": 5}, "captions": 2}
    journal.add("data", sheet="", **card)
    rows(run)
    for number, name in enumerate(("teacher_many", "student_before", "student")):
        clips(run / "videos" / name, 40 * number)
    for step in (4, 8):
        clips(run / "validation_videos" / f"step_{step:06d}", step)
    validated = [{"step": step, "motion": 0.2, "motion_ratio": 0.1 * step, "saturation_ratio": 1.0} for step in (4, 8)]
    append_rows(run / "validations.jsonl", validated)
    (run / "losses.png").write_bytes(b"\x89PNG losses")
    (run / "export").mkdir()
    (run / "export/recipe.json").write_text("{}")
    (run / "export/README.md").write_text("---\ntags: []\n---\n\n# run\n\nTimesteps 1000, 757\n")
    (run / "report.json").write_text(json.dumps(report))
    journal.add("plan", memory=2**30, moment="update of student", checkpoint=10**9, flops=5e12, workers=2)
    journal.add("end", status="FINISHED", error="")
    return run


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its addresses, its text and its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text, self.scripts, self.styles = "", "", ""
        self.policy = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag
        values = dict(attrs)
        names = ("src", "href", "srcset", "poster", "action", "data", "formaction", "background", "ping", "style")
        self.addresses += [values[name] or "" for name in names if name in values]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        assert not [name for name in values if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        self.text += " " * (tag in ("td", "th", "p", "figcaption", "summary"))

    @property
    def line(self) -> str:
        """Its text with single spaces."""
        return " ".join(self.text.split())

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts += data
        elif self._inside == "style":
            self.styles += data
        else:
            self.text += data
