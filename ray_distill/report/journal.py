"""Journal of a run, journal.jsonl in its folder: starts with the source of each value, data, plan, ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray_distill import __version__
from ray_distill.config import RunConfig
from ray_distill.config.keys import flatten
from ray_distill.jsonl import Series, read_rows
from ray_distill.secrets import mask, mask_tree
from ray_distill.track.names import commit, uncommitted

FILE = "journal.jsonl"
Row = dict[str, Any]


class Journal:
    """A run's journal. A disk that takes no rows costs a warning, never a run."""

    def __init__(self, run_dir: Path) -> None:
        self._series = Series(run_dir / FILE)

    def add(self, event: str, **values: Any) -> None:
        """Append an event with its time and ``values``, plain JSON types, without secrets."""
        row: Row = {"event": event, "at": datetime.now(UTC).isoformat(timespec="seconds"), **values}
        self._series.add([mask_tree(row)])


def read(run_dir: Path) -> list[Row]:
    """The journal's rows, oldest first; none of a run that has no journal."""
    return read_rows(run_dir / FILE, "event", "at", mend=False)


def beginning(config: RunConfig, step: int, warnings: Sequence[str], source: Callable[[str], str] | None = None) -> Row:
    """Values of the event ``start``: each key of the configuration with its value and the place that set it ("" where
    ``source`` is not known), the code's version and commit, and the ``step`` of the checkpoint that the run resumes
    from."""
    flat = flatten(config.dump())
    return {
        "step": step,
        "version": __version__,
        "commit": commit(),
        "uncommitted": uncommitted(),
        "method": f"{config.method.name}: {config.method.describe()}",
        "nfe": config.method.sampler().nfe,
        "bf16": config.computes_in_bf16,
        "warnings": [mask(text) for text in warnings],
        "config": [[key, value, source(key) if source else ""] for key, value in flat.items()],
    }


def planned(config: RunConfig) -> Row:
    """Values of the event ``plan``: bytes of a worker and of a checkpoint, and FLOPs of a worker's step, as
    `ray-distill plan` counts them; ``unknown`` says why there are none."""
    from ray_distill.plan.estimate import estimate  # seconds of diffusers, which reading a journal does without

    try:
        plan = estimate(config)
    except ValueError as error:  # a network or a run that plan does not know
        return {"unknown": str(error)}
    return {
        "memory": plan.peak.total,
        "moment": plan.peak.name,
        "checkpoint": plan.checkpoint,
        "flops": sum(plan.flops.values()),
        "workers": config.train.workers,
    }
