"""Pictures from which the videos of an evaluation begin."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ray_distill.config import RunConfig
from ray_distill.config.measures import FIRST_FRAME
from ray_distill.data.read.container import PIXELS
from ray_distill.data.read.picture import read_picture
from ray_distill.data.read.transform import resize
from ray_distill.data.store.cache import Cache

log = logging.getLogger(__name__)
Pictures = list[np.ndarray]
"""A uint8 picture [height, width, 3] for each prompt, cropped as the network sees it."""


def of_prompts(config: RunConfig, names: Sequence[str]) -> Pictures | None:
    """The pictures of the prompts ``names`` of evaluate.prompts; None where videos begin from text alone."""
    images = config.evaluate.images
    if not images:
        return None
    _, height, width = config.shown_size
    shown = {
        name: resize(read_picture(str(images[name]), PIXELS)[None], height, width)[0] for name in sorted(set(names))
    }
    return [shown[name] for name in names]


def of_rows(config: RunConfig, cache: Cache, numbers: Sequence[int]) -> Pictures | None:
    """The pictures of rows of the cache by their numbers: first frames of their clips, or pictures of their own, read
    again. None where videos begin from text alone, or where a file is gone or has changed."""
    size = config.data.frames, config.data.height, config.data.width
    if not config.begins_from_picture or config.shown_size != size:
        return None
    from ray_distill.data.prepare.pipeline import first_frames  # imports Ray Data, which a sampling task does not need

    distinct = sorted(set(numbers))
    read = dict(zip(distinct, first_frames(config.data, cache, distinct), strict=True))
    pictures = [picture for number in numbers if (picture := read[number]) is not None]
    if len(pictures) < len(numbers):
        log.warning(
            "%s is not measured: %d of %d pictures are gone or have changed",
            FIRST_FRAME,
            sum(read[number] is None for number in distinct),
            len(distinct),
        )
        return None
    return pictures
