"""Decide which checkpoints of a run stay: the newest, the best, and always the last good one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ray_distill.checkpoint.layout import ASIDE, MANIFEST, folders, step_of
from ray_distill.checkpoint.reader import Checkpoint, is_intact, is_whole

log = logging.getLogger(__name__)
SKIPPING = "skipping"
"""Key of a state: true where updates were being skipped at the save, so that a rollback to this checkpoint is
useless."""


def is_good(checkpoint: Checkpoint) -> bool:
    return not checkpoint.state.get(SKIPPING)


def best_steps(scores: Mapping[int, float], count: int) -> set[int]:
    """The steps with the ``count`` lowest scores; of equal scores the earlier step counts first."""
    return set(sorted(scores, key=lambda step: (scores[step], step))[:count])


def surplus(whole: Sequence[int], good: Collection[int], keep: int, best: Collection[int]) -> list[int]:
    """The steps of ``whole`` (ascending) that may be removed: all but the newest ``keep``, the ``best``, and the newest
    of ``good``."""
    stays = {*whole[-keep:], *best, *[step for step in whole if step in good][-1:]}
    return [step for step in whole if step not in stays]


def prune(run_dir: Path, keep: int, best: Collection[int] = ()) -> list[int]:
    """Remove a run's surplus checkpoints, and unfinished ones older than its newest whole one; returns their steps.

    Before it removes any checkpoint, it reads every byte of the newest and of the newest good one: a damaged checkpoint
    counts as unfinished, and the one before it takes its place. Where a folder cannot be removed, it logs a warning,
    and the next call tries again.
    """
    by_step = {step: folder for folder in folders(run_dir) if (step := step_of(folder)) is not None}
    whole = [step for step, folder in by_step.items() if is_whole(folder)]
    while whole:
        good = [step for step in whole if is_good(Checkpoint(by_step[step]))]
        removable = surplus(whole, good, keep, best)
        torn = [step for step in by_step if step not in whole and step < whole[-1]]
        damaged = [step for step in {whole[-1], *good[-1:]} if (removable or torn) and not is_intact(by_step[step])]
        if not damaged:
            return [step for step in sorted([*removable, *torn]) if _remove(by_step[step])]
        whole = [step for step in whole if step not in damaged]
    return []


def set_aside(run_dir: Path, newest: Checkpoint | None) -> None:
    """Discard checkpoints newer than the one we resume from, so that a size-only check cannot pick them up later.

    It removes unfinished folders, and renames others to ``passed_over_...`` for their owner to inspect. ``newest`` may
    belong to another run.
    """
    own = newest is not None and newest.folder.parent == run_dir
    for folder in folders(run_dir):
        if newest is not None and own and folder.name <= newest.folder.name:
            continue
        if not (folder / MANIFEST).exists():
            _remove(folder)
            continue
        aside = folder.with_name(f"{ASIDE}{folder.name}")
        if aside.exists():
            _remove(aside)
        folder.rename(aside)
        log.warning("%s is kept as %s; remove it when you no longer need it", folder.name, aside)


def _remove(folder: Path) -> bool:
    try:
        (folder / MANIFEST).unlink(missing_ok=True)  # first: a removal that dies half-way leaves no whole checkpoint
        shutil.rmtree(folder)
    except OSError as error:
        log.warning("%s could not be removed: %s", folder, error)
        return False
    return True
