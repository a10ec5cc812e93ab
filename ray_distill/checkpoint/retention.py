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
"""Key of a state: updates were being skipped when it was saved, so that to go back to it would not help."""


def is_good(checkpoint: Checkpoint) -> bool:
    return not checkpoint.state.get(SKIPPING)


def best_steps(scores: Mapping[int, float], count: int) -> set[int]:
    """The steps of the ``count`` lowest scores; of equal ones the earlier."""
    return set(sorted(scores, key=lambda step: (scores[step], step))[:count])


def surplus(whole: Sequence[int], good: Collection[int], keep: int, kept: Collection[int]) -> list[int]:
    """Of the steps in ``whole``, ascending, those that may go: neither among the newest ``keep``, nor in ``kept``, nor
    the newest of ``good``."""
    stays = {*whole[-keep:], *kept, *[step for step in whole if step in good][-1:]}
    return [step for step in whole if step not in stays]


def prune(run_dir: Path, keep: int, kept: Collection[int] = ()) -> list[int]:
    """Remove a run's surplus, and what is unfinished and older than its newest whole checkpoint; returns their steps.

    The newest, and the newest good one, are read whole before any other goes: one whose bytes are damaged counts as
    unfinished, and the one before it takes its place. A folder that cannot be removed costs a warning: it is tried
    again next time.
    """
    found = {step: folder for folder in folders(run_dir) if (step := step_of(folder)) is not None}
    whole = [step for step, folder in found.items() if is_whole(folder)]
    while whole:
        good = [step for step in whole if is_good(Checkpoint(found[step]))]
        gone = surplus(whole, good, keep, kept)
        torn = [step for step in found if step not in whole and step < whole[-1]]
        damaged = [step for step in {whole[-1], *good[-1:]} if (gone or torn) and not is_intact(found[step])]
        if not damaged:
            return [step for step in sorted([*gone, *torn]) if _remove(found[step])]
        whole = [step for step in whole if step not in damaged]
    return []


def set_aside(run_dir: Path, newest: Checkpoint | None) -> None:
    """What is newer than the checkpoint that a run goes on from is no more: a quick look might take it for whole.

    An unfinished folder is removed, any other renamed to ``passed_over_...``, for its owner to look at. ``newest`` may
    be another run's.
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
        log.warning("%s is kept as %s; remove it when you need it no more", folder.name, aside)


def _remove(folder: Path) -> bool:
    try:
        (folder / MANIFEST).unlink(missing_ok=True)  # first: a removal that dies half-way leaves nothing whole
        shutil.rmtree(folder)
    except OSError as error:
        log.warning("%s could not be removed: %s", folder, error)
        return False
    return True
