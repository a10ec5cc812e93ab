"""Where clips come from and what becomes of them: the ``data`` section of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

Absolute = Annotated[Path, AfterValidator(Path.absolute)]  # workers run in directories of Ray's own


class Source(BaseModel):
    """A JSON-lines manifest of {"video": path beside the manifest, "caption": text}."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    manifest: Absolute
    cache_dir: Absolute = Path("cache")
    frames: PositiveInt
    stride: PositiveInt = 1
    height: PositiveInt
    width: PositiveInt
    fps: Annotated[float, Field(gt=0)] = 16
    negative_prompt: str = ""
    encode_batch: PositiveInt = 1
    encoders: PositiveInt = 1
    encoder_gpus: Annotated[float, Field(ge=0)] = 0
