"""Section, the base of every section of a configuration: frozen and strict about its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ray_distill.config.secrets import mask
from ray_distill.data.source import absolute, not_empty


def _on_a_file_system(value: Any) -> Any:
    if "://" in str(value):
        raise ValueError(
            f"{mask(str(value))} is no folder: all workers write their part of a checkpoint into it, so it must be "
            "storage that all nodes mount, such as NFS, or a local disk on one machine"
        )
    return not_empty(value)


LONGEST_NAME = 200
"""Bytes: file systems take 255, and a run's name stands in names of files."""


def _of_a_folder(name: str) -> str:
    if not name.strip("."):
        raise ValueError(f"name = {name!r}: a folder is called so, and dots alone are other folders; add a letter")
    if (size := len(name.encode())) > LONGEST_NAME:
        raise ValueError(f"name = {name[:20]}...: {size} bytes, and a folder is called so; use at most {LONGEST_NAME}")
    return name


Name = Annotated[str, Field(pattern=r"^[\w.-]+$"), AfterValidator(_of_a_folder)]
"""Of a run or a sweep, and of its folder."""
Folder = Annotated[Path, BeforeValidator(_on_a_file_system), AfterValidator(absolute)]
"""On this machine's file systems."""
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __repr__(self) -> str:
        return mask(super().__repr__())

    __str__ = __repr__
