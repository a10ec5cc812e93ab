"""python -m tests.chaos.driver train CONFIG ...: `ray-distill train` with workers that suffer the faults of their
plan."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import ray.train

from ray_distill.cli import main
from ray_distill.train.driver import fit
from ray_distill.train.driver.progress import Progress, Row
from tests.chaos import faults

RESIZE_S = 5.0
"""How often a run of fewer workers looks for nodes; Ray's own is a minute."""


class RawProgress(Progress):
    """Progress that keeps every row that reaches the driver, including those that it drops."""

    folder: Path

    def new(self, rows: list[Row]) -> list[Row]:
        with (self.folder / faults.RAW).open("a") as file:
            file.writelines(f"{json.dumps(dict(row))}\n" for row in rows)
        return super().new(rows)


if __name__ == "__main__":
    (name, folder) = (
        next(a for a in sys.argv if a.startswith(f"{key}=")).split("=")[1] for key in ("name", "output_dir")
    )
    RawProgress.folder = faults.folder_of(Path(folder, name))
    ray.train.ScalingConfig = partial(ray.train.ScalingConfig, elastic_resize_monitor_interval_s=RESIZE_S)
    fit.train_worker, fit.Progress = faults.train_worker, RawProgress  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
