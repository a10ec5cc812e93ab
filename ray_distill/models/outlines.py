"""Outlines of networks: the names and shapes of their parameters, for comparison with the headers of files.

The class of a network takes seconds to import. So the user's cache folder ($XDG_CACHE_HOME, else ~/.cache) keeps the
outline of each configuration, by class, configuration and version of the class's library. Where that folder cannot be
written, each process builds the network again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from typing import Any

from torch import Tensor

from ray_distill import sealed
from ray_distill.models.places import memory
from ray_distill.sealed import Damaged, digest

Shapes = Mapping[str, tuple[int, ...]]

LIBRARIES = ("diffusers", "transformers")
"""The libraries of published classes: their outlines change with their version alone."""


def shapes_of(tensors: Iterable[tuple[str, Tensor]]) -> Shapes:
    """The shapes of named tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def remembered(place: str, config: Mapping[str, Any], make: Callable[[], Shapes]) -> Shapes:
    """``make()``: the outline of the class ``place`` (``module:name``) under ``config``. An earlier process's answer
    takes its place if the class is of a released version of diffusers or transformers. Errors of ``make`` are raised
    and not remembered. Facts of a tokenizer, and of a library's names, are kept in the same form."""
    library = place.partition(":")[0].partition(".")[0]
    version = metadata.version(library) if library in LIBRARIES else "dev"
    if "dev" in version:  # code under development changes without a new version
        return make()
    about = {"class": place, "version": version, "config": dict(config)}
    memo = memory() / "outlines" / f"{digest(json.dumps(about, sort_keys=True)).hex()}.json"
    with suppress(OSError, Damaged):  # none is stored, or it cannot be read
        return {name: tuple(shape) for name, shape in sealed.read_json(memo)["shapes"].items()}
    shapes = make()
    with suppress(OSError):
        sealed.write_json(memo, {**about, "shapes": shapes})
    return shapes
