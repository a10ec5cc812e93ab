"""Curves of a run over its steps, in one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_distill.sheets import INK, PAPER, RULE

QUIET = "#7a8190"
LINE = "#2f6db5"
COUNTED = ("exit_step",)  # a draw: the share of each value tells more than its time


def loss_plot(path: Path, rows: Sequence[Mapping[str, float]], validations: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write a PNG of :func:`curves_of_run`; ValueError if no curve is left."""
    curves = curves_of_run(rows, validations)
    if not curves:
        raise ValueError(f"nothing to plot for {path}: no row has a finite value besides 'step'")
    path.parent.mkdir(parents=True, exist_ok=True)
    small_curves(curves).savefig(path, format="png")


Curves = dict[str, tuple[list[float], list[float]]]
"""Steps and values by name."""


def curves_of(rows: Sequence[Mapping[str, float]]) -> Curves:
    """The curves of ``rows``, which hold ``step`` and named values; a name may be missing in some rows (of a role
    without an update). Non-finite values and names with a slash (parts of another value) are left out."""
    curves: Curves = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and "/" not in name and math.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return curves


FIRST_CURVES = ("frechet", "motion_ratio")
"""Measures of validations that are drawn before the losses."""


def curves_of_run(rows: Sequence[Mapping[str, float]], validations: Sequence[Mapping[str, Any]] = ()) -> Curves:
    """Curves of a run in groups: Fréchet distance and motion of its validations, losses, gradient norms, the rest, each
    by name. Curves that are zero throughout are left out, unless all are."""
    measured = curves_of([{key: row[key] for key in ("step", *FIRST_CURVES) if key in row} for row in validations])
    every = curves_of(rows)
    trained = {name: curve for name, curve in every.items() if any(curve[1])} or every

    def group(name: str) -> tuple[int, str]:
        return (0 if name.endswith("loss") else 1 if name.endswith("grad_norm") else 2), name

    return {name: measured[name] for name in FIRST_CURVES if name in measured} | {
        name: trained[name] for name in sorted(trained, key=group)
    }


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
        axis.set_title(name, loc="left", fontsize=10, color=INK)
        if name in COUNTED:
            _counts(axis, values, steps)
        else:
            _curve(axis, values, steps)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(RULE)
        axis.tick_params(which="both", colors=QUIET, labelsize=8, length=0)
        axis.grid(axis="y", color=RULE, linewidth=0.6)
        axis.margins(x=0.01)
    for position, axis in enumerate(figure.axes):
        if position >= len(curves):
            axis.remove()
        elif position + across >= len(curves):  # the lowest of its column
            axis.set_xlabel("step", fontsize=9, color=QUIET)
            axis.tick_params(labelbottom=True)
    return figure


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
