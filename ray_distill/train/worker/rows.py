"""Reduce the logs of all ranks to one number per name and step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

Row = dict[str, float]


def reduced(steps: Sequence[tuple[int, Mapping[str, Tensor]]], values: Tensor) -> list[Row]:
    """Rows of one number per name; ``steps`` are this rank's (step, [n] values by name), ``values`` [ranks, sum of all
    n] the values of all ranks in the same order."""
    rows, start = [], 0
    for step, logs in steps:
        row: Row = {"step": float(step)}
        for name, own in logs.items():
            number = _number(name, values[:, start : start + len(own)].flatten())
            start += len(own)
            if number is not None:
                row[name] = float(number)
        rows.append(row)
    return rows


def _number(name: str, values: Tensor) -> Tensor | None:
    if "/" in name or name.endswith(("_min", "_median")):
        values = values[~values.isnan()]
    if not len(values):
        return None
    if name.endswith("_min"):
        return values.min()
    if name.startswith("bytes/"):
        return values.max()
    if name.endswith("_median"):
        return values.median()
    return values.sum() if name.endswith("_count") else values.mean()
