"""Look at the machine, part by part, and at what a run needs of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ray_distill.machine.gpus import gpus
from ray_distill.machine.line import Line, Needs
from ray_distill.machine.places import disk, shared_memory
from ray_distill.machine.services import decoders, mlflow, token

if TYPE_CHECKING:
    from ray_distill.config import RunConfig

URIS = ("RAY_DISTILL_TRACK__URI", "MLFLOW_TRACKING_URI")


def look(needs: Needs) -> Iterator[Line]:
    """All lines but those of the libraries, which come first: without them a configuration cannot be read."""
    yield from gpus(needs)
    yield from disk(needs)
    yield shared_memory()
    yield from decoders()
    yield token(needs)
    yield mlflow(needs)


def no_run() -> Needs:
    """Needs without a configuration: nothing but a server of MLflow that the environment names."""
    return Needs(uri=next((os.environ[name] for name in URIS if os.environ.get(name)), ""))


def needs_of(config: RunConfig) -> Needs:
    """Needs of a run. On a Ray cluster (RAY_ADDRESS) other machines bring the GPUs."""
    train = config.train
    here = max(train.workers if train.use_gpu else 0, int(config.data.encoder_gpus > 0))
    return Needs(
        gpus=0 if os.environ.get("RAY_ADDRESS") else here,
        folders={"output_dir": config.run_dir, "data.cache_dir": config.data.cache_dir},
        bytes={"output_dir": checkpoints(config)},
        token=config.publish is not None,
        uri=config.track.uri,
    )


def checkpoints(config: RunConfig) -> int:
    """Bytes of all checkpoints that a run has at a time; 0 where its networks are not known yet."""
    from ray_distill.plan.estimate import checkpoint_bytes

    train = config.train
    measured = config.evaluate.every and config.evaluate.metric  # else none is known as the best
    copies = train.checkpoints_keep + (train.checkpoints_keep_best if measured else 0) + 1  # one that is being written
    try:
        return copies * checkpoint_bytes(config)
    except ValueError:  # no such folder, and no published architecture of its name: check CONFIG says so
        return 0
