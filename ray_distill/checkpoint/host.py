"""Copy tensors into CPU memory; a GPU's into pinned memory, where there is room, without waiting for the GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_distill.memory import available

RESERVE = 0.25
"""Share of the memory that pinned buffers leave free, since they stay for the next save."""


@dataclass(frozen=True)
class Copy:
    """A contiguous copy in CPU memory; ``arrived`` is the event after which a pinned one is whole."""

    tensor: Tensor
    arrived: torch.cuda.Event | None = None

    def wait(self) -> Tensor:
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.tensor


class Buffers:
    """Pinned memory by number of bytes, which one save gives back and the next one takes."""

    def __init__(self) -> None:
        self._idle: defaultdict[int, list[Tensor]] = defaultdict(list)

    def copy(self, tensor: Tensor) -> Copy:
        """Copy a tensor, which may change as soon as this returns."""
        tensor = tensor.detach()
        buffer = self._take(tensor.nbytes) if tensor.is_cuda else None
        if buffer is None:
            return Copy(tensor.to("cpu", copy=True).contiguous())
        return begin(tensor, buffer.view(tensor.dtype).view(tensor.shape))

    def _take(self, nbytes: int) -> Tensor | None:
        if self._idle[nbytes]:
            return self._idle[nbytes].pop()
        return pin(nbytes) if has_room(nbytes) else None

    def give_back(self, copies: Iterable[Copy]) -> None:
        """Take back the memory of ``copies``, which nobody may read any more."""
        for copy in copies:
            if copy.arrived is not None:
                self._idle[copy.tensor.nbytes].append(copy.tensor.view(-1).view(torch.uint8))


def has_room(nbytes: int) -> bool:
    """True if enough memory stays free when ``nbytes`` are pinned, which torch rounds to a power of two."""
    free, total = available()
    return free - (1 << (nbytes - 1).bit_length()) >= RESERVE * total


def pin(nbytes: int) -> Tensor | None:
    """Pinned bytes; None where the system refuses them."""
    try:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
    except RuntimeError:
        return None


def begin(tensor: Tensor, buffer: Tensor) -> Copy:
    """Begin to copy a GPU's tensor. Its stream does so before all that it is told later, such as the next step."""
    with torch.cuda.device(tensor.device):
        buffer.copy_(tensor, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
    return Copy(buffer, arrived)
