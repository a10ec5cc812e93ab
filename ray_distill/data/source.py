"""The `data` section of a configuration: the sources of clips, and the clips' frames and size."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ray_distill.data.clips import Clips
from ray_distill.data.read.container import PIXELS
from ray_distill.data.read.remote import Location, is_remote
from ray_distill.diffusion.timesteps import check_timesteps
from ray_distill.plaintext import blank
from ray_distill.settings import (
    Folder,
    Fraction,
    Frames,
    Many,
    Pipeline,
    Section,
    Seed,
    Shift,
    Side,
    Steps,
)

PLACES = ("manifest", "videos", "shards", "prompts", "latents")
KEYS_OF_LATENTS = {"id", "latents", "text_embeddings", "repeats", "probability", "frames"}
"""Keys that have an effect on a dataset of latents."""


class Teacher(Section):
    """Settings of the teacher's sampler, which makes a video of each prompt."""

    path: Pipeline | None = None
    """The teacher's pipeline folder; default: model.path."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which the teacher computes."""
    steps: Steps = 50
    """Euler steps of the sampler."""
    shift: Shift = 8.0
    """Shift of the sampler's steps."""
    guidance: float = 6.0
    """s in u + s (c - u)."""
    audio_guidance: float | None = None
    """The same for sound, for clips with sound; null: guidance."""
    clips_per_prompt: Many = 1
    """Clips of each prompt, each with its own noise."""
    seed: Seed = 0
    """Seed of the clips' noise."""
    batch: PositiveInt = 1
    """Clips of one forward."""
    levels: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = ()
    """Falling timesteps at which the states of the trajectory are stored as well, for the pairs of a warm start."""

    @model_validator(mode="after")
    def _levels_fall(self) -> Teacher:
        if self.levels:
            check_timesteps(self.levels, "levels")
        return self


class Dataset(Section):
    """A dataset: exactly one of ``manifest``, ``videos``, ``shards``, ``prompts`` and ``latents``, and how often
    training shows it."""

    id: str = ""
    """The dataset's name in messages and in the card; default: the name of its file or folder."""
    manifest: Location | None = None
    """JSON lines, CSV or parquet with one row per clip; a video's path is relative to the manifest's folder."""
    videos: Location | None = None
    """A folder of videos, searched with all its subfolders."""
    shards: Location | None = None
    """A tar file or a folder of tar files, as WebDataset packs them: 0001.mp4 beside 0001.txt or 0001.json."""
    prompts: Location | None = None
    """Prompts without videos: a text file with one prompt per line, or JSON lines, for methods that need no data."""
    latents: Location | None = None
    """A folder of FastVideo's parquet of text to video, or one file: latents and captions, without videos."""
    text_embeddings: bool = False
    """true: rows of ``latents`` bring the text embedding of their caption; some are compared with the run's own
    encoder, and others than its own are refused. false: the run's encoder encodes each caption."""
    captions: Literal["sidecar", "lines", "filename"] = "sidecar"
    """sidecar: one caption in a .txt beside the video. lines: a caption per line of the .txt, and each sample draws
    one. filename: the file's name with spaces for underscores, for ``videos`` alone. Needs ``videos`` or ``shards``."""
    caption: str | None = None
    """One caption for all videos, in place of their own."""
    teacher: Teacher | None = None
    """The teacher that makes videos of ``prompts``."""
    root: Location | None = None
    """The folder to which the paths in a ``manifest`` are relative, in place of the manifest's own."""
    video_column: str = "video"
    """The column of a manifest with the path of the video."""
    caption_column: str = "caption"
    """The column of a manifest or of prompts with the caption."""
    image_column: str | None = None
    """The column of a ``manifest`` or ``prompts`` with the path of the picture from which image to video begins,
    written like a video's path. Without this column a clip begins from its own first frame, and prompts have no
    picture."""
    repeats: Annotated[float, Field(ge=0, le=1e6)] = 0
    """Extra passes over the rows in an epoch; for half a pass each epoch takes another half of the rows."""
    probability: Annotated[float, Field(gt=0)] | None = None
    """The dataset's share of the samples, relative to the sum of all shares, in place of repeats; if one dataset has a
    share, all need one."""
    frames: Frames | None = None
    """Frames of a clip, in place of data.frames for this dataset."""
    stride: Many | None = None
    """In place of data.stride for this dataset."""
    resolution: Side | None = None
    """In place of data.resolution for this dataset."""
    crop: bool | None = None
    """In place of data.crop for this dataset."""
    minimum_image_size: NonNegativeInt | None = None
    """In place of data.minimum_image_size for this dataset."""
    minimum_aspect_ratio: Annotated[float, Field(gt=0)] | None = None
    """In place of data.minimum_aspect_ratio for this dataset."""
    maximum_aspect_ratio: Annotated[float, Field(gt=0)] | None = None
    """In place of data.maximum_aspect_ratio for this dataset."""

    @model_validator(mode="after")
    def _one_place(self) -> Dataset:
        places = [name for name in PLACES if getattr(self, name) is not None]
        if len(places) != 1:
            raise ValueError(
                f"a dataset needs exactly one of {', '.join(PLACES)}; it has {' and '.join(places) or 'none'}"
            )
        if self.kind == "latents":
            self._check_latents()
        if self.text_embeddings and self.latents is None:
            raise ValueError("text_embeddings = true: only latents bring text embeddings; remove it")
        of = {"filename": (self.videos,), "lines": (self.videos, self.shards)}.get(self.captions)
        if of is not None and (self.caption is not None or not any(of)):
            also = " or shards" * (len(of) - 1)
            raise ValueError(
                f"captions = {self.captions!r}: only videos{also} without a caption take this value; remove it"
            )
        if self.caption is not None and blank(self.caption):
            raise ValueError("caption is blank: give a text, or remove it and let each clip have its own")
        if self.caption is not None and self.prompts is not None:
            raise ValueError(f"caption = {self.caption!r}: prompts are captions already; remove it")
        if self.root is not None and self.manifest is None:
            raise ValueError(f"root = {self.root}: only a manifest takes a root; remove it")
        if self.image_column is not None and self.kind not in ("manifest", "prompts"):
            raise ValueError(
                f"image_column = {self.image_column!r}: {self.kind} have no columns; remove it, or use a manifest"
            )
        if self.teacher is not None and self.prompts is None:
            raise ValueError(
                "teacher: a teacher makes videos of prompts, and this dataset has videos already; remove it"
            )
        if self.probability is not None and self.repeats:
            raise ValueError(
                f"repeats = {self.repeats:g}: probability already says how often it is seen; remove one of them"
            )
        return self

    def _check_latents(self) -> None:
        fields = type(self).model_fields
        for name in sorted(fields.keys() - KEYS_OF_LATENTS):
            value = getattr(self, name)
            if value != fields[name].default:
                raise ValueError(
                    f"{name} = {value}: latents are as they were encoded, each with its own caption; remove it"
                )

    @property
    def kind(self) -> str:
        return next(name for name in PLACES if getattr(self, name) is not None)

    @property
    def place(self) -> Path | str:
        place: Path | str = getattr(self, self.kind)
        return place

    @property
    def name(self) -> str:
        place = str(self.place)
        path = PurePosixPath(place.partition("?")[0] if is_remote(place) else place)  # without a signature
        return self.id or (path.parent.name if self.kind == "manifest" else path.stem)


class Source(Clips):
    """The `data` section: a ``manifest`` or a list of ``datasets``, and how they are prepared and fed."""

    manifest: Location | None = None
    """Short form of one dataset with this manifest."""
    datasets: tuple[Dataset, ...] = ()
    """The datasets, each a source of clips or prompts."""
    allow_outside: bool = False
    """true: a manifest may name files outside its folder."""
    maximum_pixels: PositiveInt = PIXELS
    """Leave out files with more pixels per frame, before any decoding."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """decord reads only the files that it is proven to read correctly; PyAV reads all others."""
    cache_dir: Folder = Path("cache")
    """Folder of encoded clips and prompts, which runs share."""
    stream: bool = False
    """true: training begins while its clips are still being encoded."""
    keep_small_buckets: bool = True
    """true: a bucket with fewer clips than a global batch repeats them within the batch; false: leave such a bucket
    out."""
    caption_dropout: Fraction = 0
    """Share of samples that get the empty caption in place of their own, so that a method also learns without a
    prompt."""
    negative_prompt: str = ""
    """The prompt of the unconditional branch."""
    encode_batch: PositiveInt = 1
    """Rows of a batch of each encoder."""
    encoders: PositiveInt = 1
    """Most actors at a time: of the text encoder first, then of the codec."""
    encoder_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of each actor; 0 encodes on the CPU."""

    @model_validator(mode="after")
    def _some_data(self) -> Source:
        if (self.manifest is None) == (not self.datasets):
            have = "both" if self.datasets else "neither"
            raise ValueError(f"data: give either manifest or datasets; {have} is given")
        weighted = [dataset for dataset in self.datasets if dataset.probability is not None]
        if 0 < len(weighted) < len(self.datasets):
            missing = next(dataset.name for dataset in self.datasets if dataset.probability is None)
            raise ValueError(
                f"data.datasets: {missing!r} has no probability, and other datasets have one; give all of them one"
            )
        for part in self.datasets:
            if part.resolution is not None and self.resolution is None:
                raise ValueError(f"data.datasets: {part.name!r} has a resolution: give data.resolution_type=pixel_area")
        return self

    def clips(self, part: Dataset) -> Clips:
        """The rules for the clips of ``part``: its own keys, else those of the data section."""
        settings: dict[str, Any] = {name: getattr(self, name) for name in Clips.model_fields}
        own = {name: getattr(part, name, None) for name in settings}
        return Clips.model_validate(settings | {name: value for name, value in own.items() if value is not None})

    @property
    def parts(self) -> tuple[Dataset, ...]:
        """The datasets, whether ``datasets`` or ``manifest`` names them."""
        return self.datasets or (Dataset(manifest=self.manifest),)

    @property
    def title(self) -> str:
        return " + ".join(part.name for part in self.parts)

    @property
    def has_videos(self) -> bool:
        """True where a dataset has files of videos, whose pixels can be read again."""
        return any(part.kind not in ("prompts", "latents") for part in self.parts)

    def numbers_of(self, kind: str) -> list[int]:
        """The numbers of the datasets of a kind."""
        return [number for number, part in enumerate(self.parts) if part.kind == kind]

    def passes(self, counts: list[int]) -> list[float]:
        """Number of times, at least 1, that an epoch shows each row of a dataset; the datasets have ``counts`` rows."""
        if self.parts[0].probability is None:
            return [1 + part.repeats for part in self.parts]
        passes = [
            (part.probability or 0) / count if count else 0.0 for part, count in zip(self.parts, counts, strict=True)
        ]
        least = min((share for share in passes if share), default=1.0)
        return [share / least for share in passes]
