"""Small files with a digest of their own content, which is checked when they are read.

The digest covers the values, not the bytes: a flipped bit that changes no value is no error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ray_distill import durable

SEAL = "seal"


class Damaged(ValueError):
    """Error: the file ``path`` is missing, or its content changed since it was written (``reason``). It can be
    rebuilt."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)  # both in args: the error survives pickling between Ray workers
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


def digest(*parts: Any) -> bytes:
    """16 bytes of BLAKE2b over bytes and strings. Each part's length counts, so that ("ab", "c") and ("a", "bc")
    differ."""
    whole = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = memoryview(part.encode(errors="surrogatepass") if isinstance(part, str) else part)
        whole.update(content.nbytes.to_bytes(8, "little"))
        whole.update(content)
    return whole.digest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its seal, indented for people."""
    plain = json.loads(json.dumps(value))
    durable.write(path, json.dumps(plain | {SEAL: _of_json(plain)}, indent=2))


def read_json(path: Path) -> dict[str, Any]:
    """The object that :func:`write_json` wrote. Damaged where it has changed, FileNotFoundError where there is no
    file."""
    content = path.read_bytes()
    try:
        value = json.loads(content)
        seal = value.pop(SEAL)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise Damaged(path, f"is no sealed JSON ({type(error).__name__}: {error})") from None
    if seal != _of_json(value):
        raise Damaged(path, "has other values than were written")
    plain: dict[str, Any] = value
    return plain


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors with their seal among the ``metadata``."""
    texts = dict(metadata or {})
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    durable.write(path, save(arrays, texts | {SEAL: _of_tensors(arrays, texts)}))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and metadata that :func:`write_tensors` wrote; raises the errors of :func:`read_json`."""
    try:
        with safe_open(path, "np") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Damaged(path, f"holds no tensors ({error})") from None
    if metadata.pop(SEAL, None) != _of_tensors(tensors, metadata):
        raise Damaged(path, "holds other tensors than were written")
    return tensors, metadata


def _of_json(value: Any) -> str:
    return digest(json.dumps(value, sort_keys=True)).hex()


def _of_tensors(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    header = [[name, str(array.dtype), array.shape] for name, array in sorted(tensors.items())]
    arrays = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for _, array in sorted(tensors.items()))
    return digest(json.dumps([header, sorted(metadata.items())]), *arrays).hex()
