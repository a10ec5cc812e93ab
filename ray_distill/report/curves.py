"""Curves of a run, and of several runs in one plot, as pictures inside a page."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray_distill.evaluate.curves import QUIET, Curves, bars_of, curves_of, groups_of_run, run_figure, small_curves
from ray_distill.evaluate.names import METRICS, PLOT
from ray_distill.report.media import data_uri, encoded
from ray_distill.report.run import Run
from ray_distill.sheets import INK, PAPER, RULE

QUALITY = (
    "frechet",
    "accuracy",
    "diversity_ratio",
    "motion",
    "motion_ratio",
    "moving",
    "saturation",
    "saturation_ratio",
    "chroma_ratio",
    "clipped",
    "sharpness_ratio",
    "flicker_ratio",
)
"""Numbers of validations that are plotted over steps, in this order."""
COLOURS = ("#2f6db5", "#c8553d", "#4b8f4b", "#8a5fa8", "#b8860b", "#3a9aa8", "#a0527a", "#6b6b6b")


def losses(run: Run) -> str:
    """All logged values over steps, as the run's own plot has them unless rows came later; "" where there are none."""
    plot, rows = run.folder / PLOT, run.folder / METRICS
    if plot.is_file() and rows.is_file() and plot.stat().st_mtime >= rows.stat().st_mtime:
        return data_uri(plot)
    groups, bars = groups_of_run(run.rows, run.validations), bars_of(run.report)
    return picture(run_figure(groups, bars)) if groups or bars else ""


def quality(validations: Sequence[Mapping[str, Any]]) -> str:
    """Motion, saturation and the other measures of validations over steps; "" where nothing was validated."""
    curves = _quality(validations)
    return picture(small_curves(curves)) if curves else ""


def compared(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One plot a measure of validations, with a curve for each of ``runs``; "" where none was validated."""
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    by_run = {run: curves for run, rows in runs.items() if (curves := _quality(rows))}
    names = [name for name in QUALITY if any(name in curves for curves in by_run.values())]
    if not names:
        return ""
    across = min(3, len(names))
    down = math.ceil(len(names) / across)
    figure = Figure(figsize=(4.2 * across, 2.5 * down + 0.5), dpi=120, layout="constrained", facecolor=PAPER)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis, name in zip(axes, names, strict=False):
        for number, (run, curves) in enumerate(by_run.items()):
            steps, values = curves.get(name, ([], []))
            axis.plot(steps, values, color=COLOURS[number % len(COLOURS)], marker="o", markersize=3, label=run)
        axis.set_title(name, loc="left", fontsize=10, color=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(RULE)
        axis.tick_params(which="both", colors=QUIET, labelsize=8, length=0)
        axis.grid(axis="y", color=RULE, linewidth=0.6)
    for axis in axes[len(names) :]:
        axis.remove()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8, frameon=False)
    return picture(figure)


def picture(figure: Any) -> str:
    """A figure of matplotlib as the address of a PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return encoded(content.getvalue(), "image/png")


def _quality(validations: Sequence[Mapping[str, Any]]) -> Curves:
    curves = curves_of([{k: v for k, v in row.items() if k in ("step", *QUALITY)} for row in validations])
    return {name: curves[name] for name in QUALITY if name in curves}
