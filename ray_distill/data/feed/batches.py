"""Turn fetched rows into the micro-batches of each step, checked against the data plan."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ray_distill.data.feed.fetch import Rows
from ray_distill.data.feed.order import share
from ray_distill.data.feed.stream import COND, Stream
from ray_distill.data.store.cache import Shape
from ray_distill.models.conditions import collate, from_bytes, unconditional
from ray_distill.models.packed import modalities, prefix_length, tensor_shape
from ray_distill.models.spec import Fields, of_captions, prefix_frames
from ray_distill.types import Batch, Placement


def micro_batches(
    stream: Stream, raw: Iterator[Rows], placement: Placement, device: torch.device
) -> Iterator[list[Batch]]:
    """The micro-batches of each step from ``stream.start`` on, for one worker, of its rows ``raw``.

    RuntimeError where other samples arrive than the data plan says: a run never trains on data it cannot name.
    """
    positions = share(stream.global_batch, placement.data_rank, placement.data_size, stream.micro_batch)
    fields = stream.fields
    negative = from_bytes(stream.cache.prompt("negative", fields), of_captions(fields), stream.cache.latent_shape)
    for step in range(stream.start, stream.steps):
        batches = []
        for expected in step * stream.global_batch + positions:
            rows = next(raw)
            if not np.array_equal(rows["sample_id"], expected):
                raise RuntimeError(
                    f"rank {placement.rank}, step {step}: the data plan says samples {expected[:3]}..., "
                    f"but samples {rows['sample_id'][:3]}... arrived"
                )
            shape: Shape = tuple(rows["shape"][0].tolist())
            latent_shape = tensor_shape(shape)
            cond = _cond(rows, fields, shape, device)
            x_0 = _stack(rows["latents"], latent_shape) if stream.with_latents else None
            states = _stack(rows["states"], (stream.states, *latent_shape)) if stream.states else None
            batches.append(
                Batch(
                    sample_ids=_tensor(rows["sample_id"], device),
                    latent_shape=latent_shape,
                    cond=cond,
                    uncond=unconditional(negative, cond, fields),
                    x_0=None if x_0 is None else _tensor(x_0, device),
                    states=None if states is None else _tensor(states, device),
                    prefix=prefix_length(prefix_frames(fields), shape),
                    modalities=modalities(shape),
                )
            )
        yield batches


def _cond(rows: Rows, fields: Fields, shape: Shape, device: torch.device) -> dict[str, Tensor]:
    stored = [{name: rows[COND + name][number] for name in fields} for number in range(len(rows["sample_id"]))]
    cond = collate([from_bytes(row, fields, shape) for row in stored], fields, shape)
    return {name: value.to(device) for name, value in cond.items()}


def _stack(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([np.frombuffer(row, np.float32).reshape(shape) for row in rows])


def _tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(device)  # a copy: Ray's arrays are read-only
