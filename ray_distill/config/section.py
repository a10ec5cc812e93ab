"""What every section of a configuration is: frozen, and strict about its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ray_distill.config.secrets import mask


def _on_a_file_system(value: Any) -> Any:
    if "://" in str(value):
        raise ValueError(
            f"{mask(str(value))} is no folder: all workers write their part of a checkpoint into it, so it must be "
            "storage that all nodes mount, such as NFS, or a local disk on one machine"
        )
    return value


Folder = Annotated[Path, BeforeValidator(_on_a_file_system), AfterValidator(Path.absolute)]
"""On this machine's file systems."""
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def __repr__(self) -> str:
        return mask(super().__repr__())

    __str__ = __repr__
