"""Find the checkpoint that a run resumes from. It imports no Ray, since checks need none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray_distill import checkpoint

ROLLBACKS, SOURCES, ROWS = "rollbacks", "sources", "rows"
"""Keys of a checkpoint's state: the number of rollbacks, the hashes of frozen roles' weights, and the rows of earlier
steps that the driver may not have written."""


def resumed_from(run_dir: Path, resume_from: str, thorough: bool = False, **how: Any) -> checkpoint.Checkpoint | None:
    """The run's own newest whole checkpoint, else that of ``train.resume_from``, if set.

    BadCheckpoint if the latter is unfinished or damaged. ``how`` is passed to ``checkpoint.latest``.
    """
    last = checkpoint.latest(run_dir, thorough, **how)
    if last is None and resume_from not in ("latest", "none"):
        last = checkpoint.Checkpoint(Path(resume_from))
        try:
            last.verify(thorough)
        except checkpoint.BadCheckpoint as error:
            raise checkpoint.BadCheckpoint(
                f"train.resume_from = {error}; give the folder of a whole checkpoint, latest or none"
            ) from None
    return last


def kept_rows(last: checkpoint.Checkpoint, run_dir: Path) -> list[dict[str, float]]:
    """The rows in a checkpoint, which a run whose driver died may lack; none where it belongs to another run."""
    return list(last.state.get(ROWS, [])) if last.folder.parent == run_dir else []
