"""Answers that a configuration follows from: from flags, and on a terminal by questions. Each wrong one is refused by
name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ray_distill.config.keys import ConfigError, nearest
from ray_distill.data.prepare.rows import TABLES, rows_in
from ray_distill.data.read.remote import is_remote
from ray_distill.errors import mistakes
from ray_distill.init.recipes import GOALS, RECIPES, TASKS, Recipe
from ray_distill.plan.hardware import GPUS, Cluster, parse_cluster
from ray_distill.settings import absolute

T = TypeVar("T")
Ask = Callable[[str], str]
PRESETS = ("1xRTX4090-24GB", "4xRTX4090-24GB", "1xH100-80GB", "8xH100-80GB", "2x8xH100-80GB")
"""Clusters that docs/init.md plans, the smallest first."""
REQUIRED = ("family", "gpus", "data")
WITHOUT = dict.fromkeys(("ltxvideo", "ltx-video"), "LTX-Video is ltx") | dict.fromkeys(
    ("wan",), "Wan 2.1 and Wan 2.2 have recipes of their own"
)
"""What is wrong with an answer that is near to a known one but has no recipe."""
BATCH = 64
"""Samples of an update in each recipe."""


@dataclass(frozen=True)
class Answers:
    family: str
    task: str
    goal: str
    cluster: Cluster
    dataset: Mapping[str, str]
    """The one entry of data.datasets."""

    @property
    def recipes(self) -> list[Recipe]:
        return [Recipe(name) for name in RECIPES[self.family][self.task][self.goal]]


def collect(flags: Mapping[str, str | None], ask: Ask | None) -> Answers:
    """The answers. ``ask`` puts a question to the user and returns the reply; without it, ConfigError names each flag
    that is missing."""
    missing = [f"--{name}" for name in REQUIRED if not flags.get(name)]
    if missing and ask is None:
        raise ConfigError(f"give {' and '.join(missing)}: standard input is no terminal, so init cannot ask")

    def answer(name: str, question: str, default: str, read: Callable[[str], T]) -> T:
        if text := flags.get(name):
            return read(text)
        if ask is None:
            return read(default)
        while True:
            try:
                return read(ask(f"{question}{f' [{default}]' if default else ''}: ").strip() or default)
            except ConfigError as error:
                print(error)
            except EOFError:
                raise ConfigError(f"give --{name}: the input ended before its answer") from None

    def choice(name: str, meanings: Mapping[str, str]) -> str:
        """One of the keys, of which the first is the default; a single one is asked for only by a wrong flag."""
        if len(meanings) == 1 and not flags.get(name):
            return next(iter(meanings))
        options = "; ".join(f"{key}: {meaning}" for key, meaning in meanings.items())
        return answer(
            name, f"{name.capitalize()} ({options})", next(iter(meanings)), lambda text: one_of(name, text, meanings)
        )

    family = answer("family", f"Family ({', '.join(RECIPES)})", "", lambda text: one_of("family", text, RECIPES))
    task = choice("task", {name: TASKS[name] for name in RECIPES[family]})
    goal = choice("goal", {name: GOALS[name] for name in RECIPES[family][task]})
    gpus = answer("gpus", f"GPUs, such as {', '.join(PRESETS)}", "", read_cluster)
    where = "a manifest, or prompts with pictures" if task == "i2v" else "a manifest, or a file of prompts"
    data = answer("data", f"Data: a folder of clips, {where}", "", lambda text: read_data(text, task == "i2v"))
    return Answers(family, task, goal, gpus, data)


def one_of(name: str, text: str, options: Iterable[str]) -> str:
    if text not in (names := list(options)):
        hint = nearest(text, names) if len(names) > 1 else f"known: {', '.join(names)}"
        raise ConfigError(f"--{name} {text}: {WITHOUT.get(text, f'init has no such {name} here')}; {hint}")
    return text


def read_cluster(text: str) -> Cluster:
    """The cluster; ConfigError for an unknown one, and for a number of GPUs that cannot share a global batch."""
    try:
        cluster = parse_cluster(text)
    except ValueError as error:
        reason = str(error).partition(": ")[2].partition("; known: ")[0]
        raise ConfigError(f"--gpus {text}: {reason} (known: {', '.join(GPUS)})") from None
    if BATCH % cluster.gpus:
        near = [n for n in range(1, BATCH + 1) if BATCH % n == 0]
        few, more = max(n for n in near if n < cluster.gpus or n == 1), [n for n in near if n > cluster.gpus][:1]
        use = " or ".join(str(n) for n in (few, *more))
        raise ConfigError(
            f"--gpus {text}: {cluster.gpus} GPUs cannot share a batch of {BATCH} evenly; use {use} of them"
        )
    return cluster


def read_data(text: str, with_pictures: bool) -> dict[str, str]:
    """The dataset of a place, by its ending, its folder and its first row. The checks of a run decide whether it is
    any good."""
    suffix = PurePosixPath(text.partition("?")[0]).suffix.lower()
    by_suffix = {".tar": "shards", ".txt": "prompts", **dict.fromkeys(TABLES, "manifest")}
    if not text:
        raise ConfigError("--data: a place is needed, and this one is empty")
    if is_remote(text):
        return {by_suffix.get(suffix, "videos"): text}
    with mistakes():
        path = absolute(Path(text))  # else rows_in would take a folder's name such as "we:" for a URI's scheme
    if path.is_dir():
        return {"shards" if next(path.glob("*.tar"), None) else "videos": text}
    if not path.is_file():
        raise ConfigError(f"--data {text}: no such file or folder")
    if suffix not in TABLES:
        return {by_suffix.get(suffix, "prompts"): text}
    with mistakes():
        row: Any = next((row.value for row in rows_in(path, ["caption"], ["video", "image"]) if row.value), {})
    columns = row.keys() if isinstance(row, Mapping) else ()
    pictures = {"image_column": "image"} if with_pictures and "image" in columns else {}
    return {"manifest" if "video" in columns else "prompts": text, **pictures}
