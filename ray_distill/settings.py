"""Types of settings: Section, the strict base of every section; paths, folders and pipelines; bounds of numbers."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ray_distill.masking import mask


class Section(BaseModel):
    """Base of sections, frozen and strict: unknown keys are errors, defaults are validated, and repr masks secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __repr__(self) -> str:
        return mask(super().__repr__())

    __str__ = __repr__


def home(path: Path) -> Path:
    """``path`` with its ``~`` replaced by the user's folder; ValueError where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: {path.parts[0]} is no user's home on this machine; write the whole path") from None


def absolute(path: Path) -> Path:
    """``path`` made absolute, with its ``~`` expanded: Ray starts workers in other working directories."""
    return home(path).absolute()


def not_empty(value: Any) -> Any:
    """``value``; ValueError for the empty text, which Path would take for the working directory."""
    if value == "":
        raise ValueError("a path is needed, and this one is empty; the working directory is written .")
    return value


def find_pipeline(path: Path) -> Path:
    """``absolute(path)``. ORGANISATION/NAME that is no folder means a repository on the hub, and gives its folder in
    this machine's hub cache, if it is there."""
    path = home(path)
    if not path.is_absolute() and not path.exists() and len(path.parts) == 2:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        with suppress(HFValidationError, LocalEntryNotFoundError):
            return Path(snapshot_download(path.as_posix(), local_files_only=True))
    return path.absolute()


def _on_a_file_system(value: Any) -> Any:
    if re.match(r"[A-Za-z][\w+.-]+:/", str(value)):  # Path turns two slashes into one
        raise ValueError(
            f"{mask(str(value))} is no folder: all workers add to its files and read pieces of them, so it must be "
            "storage that all nodes mount, such as NFS, or a local disk on one machine. Clips and prompts may be URIs"
        )
    return not_empty(value)


Absolute = Annotated[Path, BeforeValidator(not_empty), AfterValidator(absolute)]
Folder = Annotated[Path, BeforeValidator(_on_a_file_system), AfterValidator(absolute)]
"""A folder on a file system of this machine."""
Pipeline = Annotated[Path, BeforeValidator(not_empty), AfterValidator(find_pipeline)]
"""A pipeline's folder, or its name on the hub."""


LONGEST_NAME = 200
"""Most bytes of a run's name, which is a part of file names; file systems allow 255."""


def _of_a_folder(name: str) -> str:
    if not name.strip("."):
        raise ValueError(f"name = {name!r}: it names a folder, and dots alone mean other folders; add a letter")
    if (size := len(name.encode())) > LONGEST_NAME:
        raise ValueError(f"name = {name[:20]}...: {size} bytes, and it names a folder; use at most {LONGEST_NAME}")
    return name


Name = Annotated[str, Field(pattern=r"^[\w.-]+$"), AfterValidator(_of_a_folder)]
"""Name of a run or a sweep, and of its folder."""
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

# Bounds that no video, network or machine reaches, so that a typing error is refused before it fills the memory.
Frames = Annotated[int, Field(gt=0, le=100_000)]
Side = Annotated[int, Field(gt=0, le=65_536)]
Steps = Annotated[int, Field(gt=0, le=10_000)]
"""Steps of a solver; bounded, since its levels are held in a list."""
Shift = Annotated[float, Field(gt=0, le=1e6)]
Many = Annotated[int, Field(gt=0, le=1_000_000)]
