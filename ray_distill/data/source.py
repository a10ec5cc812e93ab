"""Where clips come from and what becomes of them: the ``data`` section of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, model_validator

Absolute = Annotated[Path, AfterValidator(Path.absolute)]  # workers run in directories of Ray's own
PLACES = ("manifest", "videos", "prompts")


class Dataset(BaseModel):
    """One of ``manifest``, ``videos`` and ``prompts``, and how often it is seen."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    id: str = ""
    """Its name in messages and in the card; else that of its file or folder."""
    manifest: Absolute | None = None
    """JSON lines, CSV or parquet with a row a clip; a video's path starts at the manifest's folder."""
    videos: Absolute | None = None
    """A folder, searched with all that is below it."""
    prompts: Absolute | None = None
    """No videos: a text file with a prompt a line, or JSON lines, for methods that need no data."""
    captions: Literal["sidecar", "filename"] = "sidecar"
    """Of ``videos``: in a .txt beside the video, or its name with spaces for underscores."""
    caption: str | None = None
    """One caption for every video, in place of their own."""
    video_column: str = "video"
    caption_column: str = "caption"
    repeats: Annotated[float, Field(ge=0)] = 0
    """Extra passes in an epoch; of a pass and a half the half is another one each epoch."""
    probability: Annotated[float, Field(gt=0)] | None = None
    """Its share of the samples, in place of repeats; given for all datasets, as parts of their sum."""

    @model_validator(mode="after")
    def _one_place(self) -> Dataset:
        given = [name for name in PLACES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a dataset needs exactly one of {', '.join(PLACES)}; it has {' and '.join(given) or 'none'}"
            )
        if self.captions != "sidecar" and (self.videos is None or self.caption is not None):
            raise ValueError(f"captions = {self.captions!r}: only videos without a caption have captions; remove it")
        if self.caption is not None and self.prompts is not None:
            raise ValueError(f"caption = {self.caption!r}: prompts are captions already; remove it")
        if self.probability is not None and self.repeats:
            raise ValueError(f"repeats = {self.repeats:g}: probability says how often it is seen; remove one")
        return self

    @property
    def kind(self) -> str:
        return next(name for name in PLACES if getattr(self, name) is not None)

    @property
    def place(self) -> Path:
        path: Path = getattr(self, self.kind)
        return path

    @property
    def name(self) -> str:
        return self.id or (self.place.parent.name if self.kind == "manifest" else self.place.stem)


class Source(BaseModel):
    """``manifest``, or a list of ``datasets``."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    manifest: Absolute | None = None
    """Short for one dataset with this manifest."""
    datasets: tuple[Dataset, ...] = ()
    allow_outside: bool = False
    """Whether a manifest may name files outside its folder."""
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

    @model_validator(mode="after")
    def _some_data(self) -> Source:
        if (self.manifest is None) == (not self.datasets):
            have = "both" if self.datasets else "neither"
            raise ValueError(f"data: give manifest or datasets, which holds several; {have} is given")
        weighted = [dataset for dataset in self.datasets if dataset.probability is not None]
        if 0 < len(weighted) < len(self.datasets):
            missing = next(dataset.name for dataset in self.datasets if dataset.probability is None)
            raise ValueError(f"data.datasets: {missing!r} has no probability and others have; give all of them one")
        return self

    @property
    def parts(self) -> tuple[Dataset, ...]:
        """The datasets, whichever form they are written in."""
        return self.datasets or (Dataset(manifest=self.manifest),)

    @property
    def title(self) -> str:
        return " + ".join(part.name for part in self.parts)

    @property
    def has_videos(self) -> bool:
        return any(part.kind != "prompts" for part in self.parts)

    def passes(self, counts: list[int]) -> list[float]:
        """How often an epoch shows each row of each dataset, which has ``counts`` rows; all rows at least once."""
        if self.parts[0].probability is None:
            return [1 + part.repeats for part in self.parts]
        wanted = [
            (part.probability or 0) / count if count else 0.0 for part, count in zip(self.parts, counts, strict=True)
        ]
        least = min((share for share in wanted if share), default=1.0)
        return [share / least for share in wanted]
