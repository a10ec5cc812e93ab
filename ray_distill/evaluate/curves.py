"""Curves of a run over its steps, in one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_distill.evaluate.report import HEADINGS, heading
from ray_distill.sheets import INK, PAPER, RULE

QUIET = "#7a8190"
LINE = "#2f6db5"
ACROSS = 3
COUNTED = ("exit_step",)  # a draw: the share of each value tells more than its time


def loss_plot(
    path: Path,
    rows: Sequence[Mapping[str, float]],
    validations: Sequence[Mapping[str, Any]] = (),
    report: Mapping[str, Any] | None = None,
) -> None:
    """Write a PNG of :func:`groups_of_run` below the samplers' bars of ``report``; ValueError if nothing is left."""
    groups, bars = groups_of_run(rows, validations), bars_of(report or {})
    if not groups and not bars:
        raise ValueError(f"nothing to plot for {path}: no row has a finite value besides 'step'")
    path.parent.mkdir(parents=True, exist_ok=True)
    run_figure(groups, bars).savefig(path, format="png")


Curves = dict[str, tuple[list[float], list[float]]]
"""Steps and values by name."""


def curves_of(rows: Sequence[Mapping[str, float]]) -> Curves:
    """The curves of ``rows``, which hold ``step`` and named values; a name may be missing in some rows (of a role
    without an update). Non-finite values and names with a slash (parts of another value) are left out."""
    curves: Curves = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and "/" not in name and isinstance(value, int | float) and math.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return curves


FIRST_CURVES = ("frechet", "motion_ratio")
"""Measures of validations that are drawn before the losses."""


GROUPS = ("Losses", "Gradient norms", "Other values")
END = {"frechet": "Fréchet distance to real clips", "motion": "Motion"}
"""Numbers of the samplers at the end that are drawn as bars."""
Bars = dict[str, tuple[list[str], list[float]]]
"""Names and lengths of bars by title."""


def groups_of_run(
    rows: Sequence[Mapping[str, float]], validations: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Curves]:
    """Curves of a run in groups with a title: Fréchet distance and motion of its validations, losses, gradient norms,
    the rest, each by name. Curves that are zero throughout are left out, unless all are, and groups without a curve."""
    measured = curves_of([{key: row[key] for key in ("step", *FIRST_CURVES) if key in row} for row in validations])
    every = curves_of(rows)
    trained = {name: curve for name, curve in every.items() if any(curve[1])} or every
    groups = {"Quality of the validations": {name: measured[name] for name in FIRST_CURVES if name in measured}}
    for name in sorted(trained):
        group = GROUPS[0 if name.endswith("loss") else 1 if name.endswith("grad_norm") else 2]
        groups.setdefault(group, {})[name] = trained[name]
    return {title: groups[title] for title in ("Quality of the validations", *GROUPS) if groups.get(title)}


def bars_of(report: Mapping[str, Any]) -> Bars:
    """The samplers of a report by each number of ``END`` that it has."""
    bars: Bars = {}
    for key, title in END.items():
        rows = {heading(name, report[name]["nfe"]): report[name].get(key) for name in HEADINGS if report.get(name)}
        if shown := {name: value for name, value in rows.items() if value is not None and math.isfinite(value)}:
            bars[title] = [*shown], [*shown.values()]
    return bars


def run_figure(groups: Mapping[str, Curves], bars: Bars) -> Any:
    """A figure of matplotlib with the ``bars`` and, below them, a part for each of ``groups`` under its title."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    parts: dict[str, Any] = ({"The student and its teacher at the end": bars} if bars else {}) | dict(groups)
    downs = [math.ceil(len(part) / ACROSS) if part is not bars else 1 for part in parts.values()]
    heights = [0.45 + 2.3 * down for down in downs]
    figure = Figure(figsize=(4.2 * ACROSS, sum(heights)), dpi=120, layout="constrained", facecolor=PAPER)
    places = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    steps = [step for curves in groups.values() for each, _ in curves.values() for step in each]
    for place, down, (title, part) in zip(places, downs, parts.items(), strict=True):
        place.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK)
        across = len(bars) if part is bars else ACROSS
        axes = list(place.subplots(down, across, squeeze=False).flat)
        for axis, (name, (first, second)) in zip(axes, part.items(), strict=False):
            if part is bars:
                _lengths(axis, first, second)
            else:
                _panel(axis, name, first, second)
                axis.set_xlim(min(steps), max(steps) + (min(steps) == max(steps)))
            axis.set_title(name, loc="left", fontsize=10, color=INK)
        for axis in axes[len(part) :]:
            axis.set_visible(False)
    return figure


def _lengths(axis: Any, names: Sequence[str], values: Sequence[float]) -> None:
    """Draw a bar for each name, the first at the top, with its value at its end; the last, the student's, is darker."""
    places = np.arange(len(names))[::-1]
    bars = axis.barh(places, values, color=[LINE if name == names[-1] else "#a9c3e0" for name in names])
    axis.bar_label(bars, fmt="{:.3g}", padding=3, fontsize=8, color=INK)
    axis.set_yticks(places, names, fontsize=8)
    axis.set_xticks([])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, colors=QUIET)
    axis.margins(x=0.12)


def small_curves(curves: Curves) -> Any:
    """A figure of matplotlib with one small curve per name over ``step``, in the order of ``curves``: the values, thin,
    and their running mean; a histogram for the names in ``COUNTED``. An axis is logarithmic where all values are
    positive and the middle nine tenths of them span more than a factor of 20."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    across = min(3, len(curves))
    down = math.ceil(len(curves) / across)
    figure = Figure(figsize=(4.2 * across, 2.5 * down + 0.3), dpi=120, layout="constrained", facecolor=PAPER)
    axes = figure.subplots(down, across, squeeze=False, sharex=True).flat
    for axis, (name, (steps, values)) in zip(axes, curves.items(), strict=False):
        _panel(axis, name, steps, values)
    for position, axis in enumerate(figure.axes):
        if position >= len(curves):
            axis.remove()
        elif position + across >= len(curves):  # the lowest of its column
            axis.set_xlabel("step", fontsize=9, color=QUIET)
            axis.tick_params(labelbottom=True)
    return figure


def _panel(axis: Any, name: str, steps: Sequence[float], values: Sequence[float]) -> None:
    axis.set_title(name, loc="left", fontsize=10, color=INK)
    if name in COUNTED:
        _counts(axis, values, steps)
    else:
        _curve(axis, values, steps)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(RULE)
    axis.tick_params(which="both", colors=QUIET, labelsize=8, length=0)
    axis.grid(axis="y", color=RULE, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.margins(x=0.01)


def _curve(axis: Any, values: Sequence[float], steps: Sequence[float]) -> None:
    axis.plot(steps, values, color=LINE, alpha=0.3, linewidth=0.8)
    axis.plot(steps, running_mean(values), color=LINE, linewidth=1.8)
    low, high = np.quantile(values, (0.05, 0.95))
    if min(values) > 0 and high > 20 * low:
        axis.set_yscale("log")


def _counts(axis: Any, values: Sequence[float], steps: Sequence[float]) -> None:
    """Draw bars across the common axis of steps, one for each value, as high as its share, with the value below its
    bar."""
    unique_values, counts = np.unique(values, return_counts=True)
    width = (max(steps) - min(steps)) / len(unique_values) or 1.0
    at = min(steps) + width * (np.arange(len(unique_values)) + 0.5)
    axis.bar(at, counts / len(values), width=0.8 * width, color=LINE, alpha=0.6)
    for x, value in zip(at, unique_values, strict=True):
        axis.text(x, 0.0, f"{value:g}", ha="center", va="bottom", fontsize=9, color=INK)


def running_mean(values: Sequence[float]) -> np.ndarray:
    """Centred mean over about a fifteenth of the curve, cut off at its ends; as long as ``values``."""
    half, sums = len(values) // 30, np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    place = np.arange(len(values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)
