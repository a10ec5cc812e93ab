"""The page of one run: its files rendered by a template in which every text is escaped and masked."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ray_distill import __version__, durable
from ray_distill.config.keys import plain
from ray_distill.config.load import COMMAND_LINE
from ray_distill.config.tree import one_line
from ray_distill.evaluate.names import BASELINE, COMPARED, PAGE, PREFLIGHT, VALIDATION_VIDEOS
from ray_distill.evaluate.report import ROWS
from ray_distill.jsonl import read_document
from ray_distill.report import curves, tables
from ray_distill.report.media import MIB, Room, Strip, data_uri, rows
from ray_distill.report.run import Run
from ray_distill.report.vbench import dimensions
from ray_distill.secrets import HIDDEN, mask, mask_tree

HERE = Path(__file__).parent
FIRST = ("teacher_many", "student_before", "student")
"""The samplers that are shown first, side by side."""
CHECKPOINTS = 6
"""Checkpoints over time in a row of videos: the first, the last, and some between."""


def write_page(folder: Path, room: Room | None = None, out: Path | None = None) -> Path:
    """Write the page of a run's ``folder``, by default into it; returns its path. ConfigError where no run has left
    anything there."""
    run, room = Run.read(folder), room or Room()
    shown = strips(run, room)
    values = {
        "run": {"name": run.name, "folder": str(run.folder), "ending": run.ending},
        "start": run.newest("start"),
        "starts": sum(row["event"] == "start" for row in run.journal),
        "last_step": run.step,
        "missed": run.report.get("missed") or [],
        "warnings": run.warnings,
        "watched": tables.watched(run),
        "samplers": tables.samplers(run.report),
        "against": tables.against_teacher(run.report),
        "no_ratio": tables.no_ratio(run.report),
        "vbench": tables.vbench(dimensions(folder)),
        "seeds": run.report.get("seeds"),
        "videos_per_seed": run.report.get("videos_per_seed"),
        "planned": tables.planned(run),
        "preflight": {"lines": [], "warnings": [], "errors": []} | read_document(folder / PREFLIGHT, mend=False),
        "plan_unknown": run.newest("plan").get("unknown", ""),
        "phases": tables.phases(run.report),
        "data": tables.data_card(run),
        "config": [{"key": k, "value": str(v), "source": source} for k, v, source in run.config],
        "card": card(run),
        "arguments": arguments(run),
        "sample_script": shlex.quote(str(run.folder / "export" / "sample.py")),
        "registry": run.value("track.register_as") or run.name if run.value("track.uri") and exported(run) else "",
        "mlflow": str(run.value("track.uri") or ""),
        "left_out": room.note,
    }
    pictures = {"losses": curves.losses(run), "quality": curves.quality(run.validations), "sheet": sheet(run)}
    path = out or folder / PAGE
    durable.write(path, render("run.html", values, strips=shown, pictures=pictures))
    return path


def strips(run: Run, room: Room) -> dict[str, list[Strip]]:
    """Rows of videos by section; they take their ``room`` in the order in which readers look at them."""
    videos = {key: run.folder / COMPARED / key for key in ROWS}
    shown = {
        "compared": _strips({ROWS[key]: videos[key] for key in FIRST}, room),
        "checkpoints": _strips(sampled(run.folder), room),
        "others": _strips({ROWS[key]: videos[key] for key in ROWS if key not in FIRST}, room),
    }
    if not shown["compared"] and not shown["others"]:
        shown["others"] = _strips({ROWS[key]: run.folder / BASELINE / key for key in ROWS}, room)
    return shown


def _strips(folders: Mapping[str, Path], room: Room) -> list[Strip]:
    return [strip for title, videos in rows(folders) if (strip := room.strip(title, videos)) is not None]


def sampled(folder: Path) -> dict[str, Path]:
    """Folders of videos of at most ``CHECKPOINTS`` checkpoints, evenly apart, by their step."""
    folders = (folder / VALIDATION_VIDEOS).glob("step_*")
    steps = sorted(path for path in folders if path.is_dir() and path.name.removeprefix("step_").isdecimal())
    count = min(CHECKPOINTS, len(steps))
    chosen = [steps[round(i * (len(steps) - 1) / max(count - 1, 1))] for i in range(count)]
    return {f"step {int(path.name.partition('_')[2])}": path for path in chosen}


def sheet(run: Run) -> str:
    """The contact sheet of the data, unless it is gone or large."""
    path = Path(str(run.newest("data").get("sheet", "")))
    return data_uri(path) if path.is_file() and path.stat().st_size <= 4 * MIB else ""


def exported(run: Run) -> bool:
    return (run.folder / "export" / "recipe.json").is_file()


def card(run: Run) -> str:
    """The model card of the run's export, without its metadata; "" where nothing was exported."""
    path = run.folder / "export" / "README.md"
    if not path.is_file():
        return ""
    text = path.read_text(errors="replace")
    return text.split("\n---\n", 1)[-1].strip() if text.startswith("---\n") else text.strip()


def arguments(run: Run) -> str:
    """The file that the run was configured by, and what command line and environment set, for a shell; CONFIG where
    nobody knows the file. Values that are hidden in the run's journal are left out."""
    sources = [source for _, _, source in run.config]
    files = [source for source in sources if source.endswith((".yaml", ".yml", ".json"))]
    own = [(key, value) for key, value, source in run.config if source == COMMAND_LINE or source.startswith("$")]
    words = [f"{key}={_written(value)}" for key, value in own if HIDDEN not in str(value)]
    return shlex.join([max(set(files), key=files.count) if files else "CONFIG", *words])


def _written(value: Any) -> str:
    """A value as text that is read back as the same value."""
    text = plain(value)
    try:
        same = yaml.safe_load(text) == value
    except yaml.YAMLError:  # such as "a: b: c"
        same = False
    return text if same else one_line(value)


def render(template: str, values: Mapping[str, Any], **media: Any) -> str:
    """``template`` with ``values``, whose texts are masked, and ``media``, whose addresses hold their content."""
    script = (HERE / "page.js").read_text()
    own = {
        "style": Markup((HERE / "page.css").read_text()),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "version": __version__,
    }
    titles = {name: _masked_titles(value) for name, value in media.items()}
    return _environment().get_template(template).render({**mask_tree(_plain(values)), **titles, **own})


def _plain(value: Any) -> Any:
    """``value`` as plain JSON types."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _masked_titles(value: Any) -> Any:
    """``value`` with the titles of its strips masked; addresses of media stay as they are."""
    if isinstance(value, Strip):
        return Strip(mask(value.title), value.cells)
    if isinstance(value, Mapping):
        return {key: _masked_titles(item) for key, item in value.items()}
    return [_masked_titles(item) for item in value] if isinstance(value, list) else value


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
