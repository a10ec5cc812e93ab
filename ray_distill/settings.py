"""Types of settings: Section, the strict base of every section; paths, folders and pipelines; bounds of numbers."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ray_distill.masking import mask


class Section(BaseModel):
    """Frozen and strict: an unknown key is an error, defaults are validated as values are, a print shows no secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def __repr__(self) -> str:
        return mask(super().__repr__())

    __str__ = __repr__


def home(path: Path) -> Path:
    """``path`` with the folder of a user in place of its ``~``; ValueError where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: {path.parts[0]} is no user's home on this machine; write the whole path") from None


def absolute(path: Path) -> Path:
    """``path`` with its ``~`` expanded, absolute: workers run in directories of Ray's own."""
    return home(path).absolute()


def not_empty(value: Any) -> Any:
    """ValueError for the empty text, which Path takes for the working directory."""
    if value == "":
        raise ValueError("a path is needed, and this one is empty; the working directory is written .")
    return value


def located(path: Path) -> Path:
    """``absolute(path)``; ORGANISATION/NAME, where no such folder is there, is that repository in the hub's cache of
    this machine, if it has it."""
    path = home(path)
    if not path.is_absolute() and not path.exists() and len(path.parts) == 2:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        with suppress(HFValidationError, LocalEntryNotFoundError):
            return Path(snapshot_download(path.as_posix(), local_files_only=True))
    return path.absolute()


def _on_a_file_system(value: Any) -> Any:
    if re.match(r"[A-Za-z][\w+.-]+:/", str(value)):  # Path makes one slash of two
        raise ValueError(
            f"{mask(str(value))} is no folder: all workers add to its files and read pieces of them, so it must be "
            "storage that all nodes mount, such as NFS, or a local disk on one machine. Clips and prompts may be URIs"
        )
    return not_empty(value)


Absolute = Annotated[Path, BeforeValidator(not_empty), AfterValidator(absolute)]
Folder = Annotated[Path, BeforeValidator(_on_a_file_system), AfterValidator(absolute)]
"""On this machine's file systems."""
Pipeline = Annotated[Path, BeforeValidator(not_empty), AfterValidator(located)]
"""A pipeline's folder, or its name on the hub."""


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
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

# Bounds that no video, network or machine reaches: a slip of the keyboard ends here, not in a full memory.
Frames = Annotated[int, Field(gt=0, le=100_000)]
Side = Annotated[int, Field(gt=0, le=65_536)]
Steps = Annotated[int, Field(gt=0, le=10_000)]
"""Of a solver, whose levels are listed."""
Shift = Annotated[float, Field(gt=0, le=1e6)]
Many = Annotated[int, Field(gt=0, le=1_000_000)]
