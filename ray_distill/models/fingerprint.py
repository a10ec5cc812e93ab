"""A short hash of what a network computes: its weights and its configuration, not its place or device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def fingerprint(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
    """The first 16 hex digits of the sha256 of named tensors (name, dtype, shape, bytes) and a JSON-able config.

    Keys of ``config`` with a leading underscore are left out: libraries write their version and paths there.
    """
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(public, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
