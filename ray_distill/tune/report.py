"""Report a sweep: table, parallel-coordinates plot, trials as JSON, the best configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from ray_distill import columns
from ray_distill.config import RunConfig
from ray_distill.config.tree import Dumper
from ray_distill.evaluate.curves import QUIET
from ray_distill.jsonl import write_document
from ray_distill.sheets import INK, PAPER, RULE
from ray_distill.tune.space import Range

Ending = Literal["done", "pruned", "failed"]
LABEL = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0}
ORDER: tuple[Ending, ...] = ("done", "pruned", "failed")


@dataclass(frozen=True)
class Trial:
    """One trial: its point, its validations by step, its end and, if it failed, the cause."""

    name: str
    point: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    status: Ending
    error: str | None = None
    objective: float = math.inf
    """The weighted sum at the last measured step; infinite if there is none, or if it lacks a number."""
    broken: Sequence[str] = ()
    """Constraints that the trial breaks at that step, in words."""
    score: float = math.inf
    """The number that the search minimises."""

    @property
    def step(self) -> int:
        """The last measured step."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def rank(self) -> tuple[int, int, float]:
        """Sort key: a trial that came further ranks before trials that stopped earlier, whatever their scores."""
        return ORDER.index(self.status), -self.step, self.score


def table(trials: Sequence[Trial], label: str = "FD") -> str:
    """Aligned plain text with one line per trial: its point, its last step, its objective ``label``, and its end."""
    keys = list(trials[0].point) if trials else []
    rows = []
    for trial in trials:
        distance = "-" if math.isinf(trial.objective) else f"{trial.objective:.2f}"
        ending = "; ".join((trial.status, *trial.broken))
        rows.append([trial.name, *(_value(trial.point[key]) for key in keys), str(trial.step), distance, ending])
    head = ["trial", *map(short, keys), "step", label, ""]
    return columns.table(head, rows, f"<{'>' * (len(head) - 2)}<")


def short(key: str) -> str:
    """``roles.student.optimizer.learning_rate`` -> ``student learning_rate``."""
    parts = [part for part in key.split(".") if part not in ("roles", "optimizer", "method")]
    return " ".join(parts)


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def parallel_plot(path: Path, trials: Sequence[Trial], space: Mapping[str, Range], label: str = "FD") -> None:
    """Write a PNG of parallel coordinates: one axis per key, and the objective on the last. Pruned trials, and trials
    that break a constraint, are thin and grey."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    shown = [trial for trial in trials if math.isfinite(trial.objective)]
    axes = {short(key): _places([t.point[key] for t in shown], range_) for key, range_ in space.items()}
    distances = Range(loguniform=None, uniform=_span([t.objective for t in shown]))
    axes[label] = _places([t.objective for t in shown], distances)
    figure = Figure(figsize=(1.9 * len(axes) + 1, 4.2), dpi=120, layout="constrained", facecolor=PAPER)
    plot = figure.subplots()
    best = min((t.objective for t in shown if t.status == "done" and not t.broken), default=math.nan)
    for number, trial in enumerate(shown):
        heights = [places[number] for places, _ in axes.values()]
        done = trial.status == "done" and not trial.broken
        color = "#c8553d" if trial.objective == best and done else "#2f6db5" if done else "#b9bfca"
        plot.plot(range(len(axes)), heights, color=color, linewidth=2.2 if done else 0.9, zorder=3 if done else 2)
    for place, (_, ticks) in enumerate(axes.values()):
        plot.axvline(place, color=RULE, linewidth=1, zorder=1)
        for height, label in ticks:
            plot.annotate(
                label,
                (place, height),
                (4, 0),
                textcoords="offset points",
                fontsize=8,
                color=QUIET,
                va="center",
                bbox=LABEL,
                zorder=4,
            )
    plot.set_xticks(range(len(axes)), list(axes), fontsize=9, color=INK)
    plot.set_yticks([])
    plot.set_xlim(-0.1, len(axes) - 0.6)
    plot.spines[["top", "right", "left", "bottom"]].set_visible(False)
    plot.tick_params(length=0)
    plot.set_title(
        f"lower {label} is better; red: the best, blue: trained to the end, grey: stopped or outside the constraints",
        fontsize=9,
        color=QUIET,
    )
    figure.savefig(path, format="png")


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _places(values: Sequence[Any], range_: Range) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in [0, 1] on one axis, and its ticks."""
    if range_.choice is not None:
        count = max(1, len(range_.choice) - 1)
        ticks = [(i / count, _value(choice)) for i, choice in enumerate(range_.choice)]
        return [list(range_.choice).index(value) / count for value in values], ticks
    scale = np.log if range_.loguniform else np.asarray
    low, high = (float(scale(end)) for end in range_.values)
    ends = [float(end) for end in range_.values]
    middle = math.sqrt(ends[0] * ends[1]) if range_.loguniform else sum(ends) / 2
    ticks = [(place, _value(value)) for place, value in ((0.0, ends[0]), (0.5, middle), (1.0, ends[1]))]
    return [(float(scale(value)) - low) / (high - low) for value in values], ticks


def write_trials(path: Path, trials: Sequence[Trial]) -> None:
    """Write every trial with all its validations, best first."""
    write_document(path, [asdict(trial) for trial in trials])


def write_best(path: Path, config: RunConfig, trial: Trial, label: str = "FD") -> None:
    """Write the best trial as a configuration that ``train`` takes unchanged."""
    point = "\n".join(f"#   {key} = {value}" for key, value in trial.point.items())
    name = "Fréchet distance" if label == "FD" else label
    result = "; ".join((f"# {trial.name}: {name} {trial.objective:.2f} at step {trial.step}", *trial.broken))
    path.write_text(
        f"# ray-distill train {path}\n{result}\n{point}\n"
        + yaml.dump(config.dump(), Dumper=Dumper, sort_keys=False, allow_unicode=True)
    )
