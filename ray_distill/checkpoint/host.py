"""Copy tensors into CPU memory: a GPU's into pinned memory, where there is room, while the GPU goes on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ray_distill.memory import available

RESERVE = 0.25
"""Share of the memory that pinned copies leave free, since torch keeps what it has pinned for the next save."""


def to_host(tensor: Tensor) -> Tensor:
    """A contiguous copy in CPU memory. In pinned memory its bytes arrive later: see :func:`arrival`."""
    tensor = tensor.detach()
    pinned = pin_like(tensor) if tensor.is_cuda and has_room(tensor.nbytes) else None
    if pinned is None:
        return tensor.to("cpu", copy=True).contiguous()
    # This stream does it before all that it is told later, so training may change the tensor meanwhile.
    return pinned.copy_(tensor, non_blocking=True)


def pin_like(tensor: Tensor) -> Tensor | None:
    """Pinned memory for ``tensor``; None where the system refuses it."""
    try:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    except RuntimeError:
        return None


def has_room(nbytes: int) -> bool:
    """True if ``nbytes`` can be pinned: torch has as many idle from an earlier save, or enough memory stays free."""
    pinned: dict[str, int] = getattr(torch.cuda, "host_memory_stats", dict)()  # torch 2.6 has none
    rounded = 1 << (nbytes - 1).bit_length()  # as torch rounds them
    if rounded <= pinned.get("allocated_bytes.current", 0) - pinned.get("active_bytes.current", 0):
        return True
    free, total = available()
    return free - rounded >= RESERVE * total


def arrival() -> Callable[[], None]:
    """A function that waits for the copies that this thread has begun."""
    if not torch.cuda.is_initialized():
        return lambda: None
    event = torch.cuda.Event()
    event.record()
    return event.synchronize
