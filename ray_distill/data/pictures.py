"""Encode a few pictures into the conditions of videos that begin with them, for prompts, samples and exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ray_distill.data.encoders import Encoders
from ray_distill.data.read.container import PIXELS
from ray_distill.data.read.picture import read_picture
from ray_distill.data.read.transform import resize, to_pixels
from ray_distill.models.spec import Row


@torch.no_grad()
def picture_rows(
    models: Encoders, pictures: Sequence[Path], size: tuple[int, int, int], device: torch.device | str = "cpu"
) -> list[Row]:
    """For each picture the fields of a clip of ``size`` (frames, height, width), on the CPU; pictures are cropped as
    clips are.

    BadClip names a picture that cannot be read. The pipeline of ``models`` must take images.
    """
    codec = models.load_codec().to(device)
    image = models.image_encoder(codec)
    assert image is not None, "the pipeline makes videos of text alone"
    image.to(device)
    frames, height, width = size
    rows: list[Row] = []
    for path in pictures:
        picture = models.pipeline.of.given_picture(resize(read_picture(str(path), PIXELS)[None], height, width))
        pixels = to_pixels(picture[None]).to(device).expand(-1, -1, frames, -1, -1)
        (row,) = image.encode(pixels)
        rows.append({name: value.cpu() for name, value in row.items()})
    return rows
