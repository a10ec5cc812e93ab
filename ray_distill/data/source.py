"""The `data` section of a configuration: the sources of clips, and their cut and size."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ray_distill.data.read.clip import Cut
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

PLACES = ("manifest", "videos", "shards", "prompts")


class Teacher(Section):
    """Recipe of the teacher's sampler, which makes a video of each prompt."""

    path: Pipeline | None = None
    """Its pipeline folder; default: model.path."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    steps: Steps = 50
    shift: Shift = 8.0
    guidance: float = 6.0
    """Standard: u + s (c - u)."""
    clips_per_prompt: Many = 1
    seed: Seed = 0
    batch: PositiveInt = 1
    levels: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = ()
    """Timesteps, falling, at which the trajectory's states are kept, too: the pairs of a warm start."""

    @model_validator(mode="after")
    def _levels_fall(self) -> Teacher:
        if self.levels:
            check_timesteps(self.levels, "levels")
        return self


class Dataset(Section):
    """One of ``manifest``, ``videos``, ``shards`` and ``prompts``, and how often it is seen."""

    id: str = ""
    """Its name in messages and in the card; default: that of its file or folder."""
    manifest: Location | None = None
    """JSON lines, CSV or parquet with a row a clip; a video's path starts at the manifest's folder."""
    videos: Location | None = None
    """A folder, searched with all its subfolders."""
    shards: Location | None = None
    """A tar file, or a folder of them, as WebDataset makes them: 0001.mp4 beside 0001.txt or 0001.json."""
    prompts: Location | None = None
    """No videos: a text file with a prompt a line, or JSON lines, for methods that need no data."""
    captions: Literal["sidecar", "lines", "filename"] = "sidecar"
    """One caption in a .txt beside the video; or one a line, of which each sample draws one; or, of ``videos``, the
    file's name with spaces for underscores. Needs ``videos`` or ``shards``."""
    caption: str | None = None
    """One caption for every video, in place of their own."""
    teacher: Teacher | None = None
    """The teacher that makes videos of ``prompts``."""
    root: Location | None = None
    """The folder at which a ``manifest``'s videos' paths start, in place of its own."""
    video_column: str = "video"
    caption_column: str = "caption"
    image_column: str | None = None
    """The column of a ``manifest`` or ``prompts`` with each row's picture, from which image to video begins; a path
    like a video's. Without it a clip's own first frame serves, and prompts have none."""
    repeats: Annotated[float, Field(ge=0, le=1e6)] = 0
    """Extra passes in an epoch; half a pass takes another half of the rows each epoch."""
    probability: Annotated[float, Field(gt=0)] | None = None
    """Its share of the samples, in place of repeats; all datasets need one, and their sum is the whole."""
    frames: Frames | None = None
    """This key and the next ones hold for this dataset, in place of data's."""
    stride: Many | None = None
    resolution: Side | None = None
    crop: bool | None = None
    minimum_image_size: NonNegativeInt | None = None
    minimum_aspect_ratio: Annotated[float, Field(gt=0)] | None = None
    maximum_aspect_ratio: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Dataset:
        places = [name for name in PLACES if getattr(self, name) is not None]
        if len(places) != 1:
            raise ValueError(
                f"a dataset needs exactly one of {', '.join(PLACES)}; it has {' and '.join(places) or 'none'}"
            )
        of = {"filename": (self.videos,), "lines": (self.videos, self.shards)}.get(self.captions)
        if of is not None and (self.caption is not None or not any(of)):
            also = " or shards" * (len(of) - 1)
            raise ValueError(f"captions = {self.captions!r}: only videos{also} without a caption have it; remove it")
        if self.caption is not None and blank(self.caption):
            raise ValueError("caption is blank: give a text, or remove it and let each clip have its own")
        if self.caption is not None and self.prompts is not None:
            raise ValueError(f"caption = {self.caption!r}: prompts are captions already; remove it")
        if self.root is not None and self.manifest is None:
            raise ValueError(f"root = {self.root}: only a manifest's videos have one; remove it")
        if self.image_column is not None and self.kind not in ("manifest", "prompts"):
            raise ValueError(f"image_column = {self.image_column!r}: {self.kind} have no columns; use a manifest")
        if self.teacher is not None and self.prompts is None:
            raise ValueError("teacher: it makes videos of prompts, and this dataset has its own; remove it")
        if self.probability is not None and self.repeats:
            raise ValueError(f"repeats = {self.repeats:g}: probability says how often it is seen; remove one")
        return self

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


class Clips(Section):
    """Rules for the clips of a file: its frames, and their size."""

    frames: Frames
    stride: Many = 1
    """Every stride-th frame is taken."""
    fps: Annotated[float, Field(ge=0.01, le=1000)] = 16
    """Frames a second of samples, and of clips: files are brought to this rate before ``stride``."""
    resample: bool = True
    """False: frames are taken as they come, whatever their file's rate."""
    height: Side
    """Height and width of samples; of clips too, but for pixel_area."""
    width: Side
    resolution_type: Literal["fixed", "pixel_area"] = "fixed"
    """fixed: height x width. pixel_area: about resolution^2 pixels in the file's own aspect, in multiples of the
    model's patch."""
    resolution: Side | None = None
    aspect_bucket_rounding: Annotated[int, Field(ge=1, le=9)] = 2
    """Decimals of width / height: files that agree in them share a bucket."""
    crop: bool = True
    """true: cut off what exceeds the size, evenly on both sides; false: squeeze the whole picture into it."""
    minimum_image_size: NonNegativeInt = 0
    """Files with a shorter edge below this are left out; with pixel_area, those with fewer pixels than its square."""
    minimum_aspect_ratio: Annotated[float, Field(gt=0)] | None = None
    """Files with a lower width / height are left out."""
    maximum_aspect_ratio: Annotated[float, Field(gt=0)] | None = None
    clips_per_video: Many = 1
    """Most clips of a long file, one after the other."""

    @model_validator(mode="after")
    def _resolution_is_for_areas(self) -> Clips:
        if (self.resolution is None) == (self.resolution_type == "pixel_area"):
            need = "needs a resolution, such as 480" if self.resolution is None else "takes height and width; remove it"
            raise ValueError(f"resolution = {self.resolution}: resolution_type {self.resolution_type!r} {need}")
        return self

    def cut(self, number: int) -> Cut:
        return Cut(self.frames, self.stride, self.fps if self.resample else None, number)

    def unfit(self, pixels: tuple[float, float]) -> str:
        """The reason to leave out a file of ``pixels`` (height, width), square ones; "" if there is none."""
        height, width = pixels
        least, lowest, highest = self.minimum_image_size, self.minimum_aspect_ratio, self.maximum_aspect_ratio
        what = f"shows {width:.0f}x{height:.0f} pixels"
        edge = (height * width) ** 0.5 if self.resolution_type == "pixel_area" else min(height, width)
        if round(edge, 6) < least:
            area = f", which are {least}^2 of them" if self.resolution_type == "pixel_area" else ""
            return f"{what}, below data.minimum_image_size = {least}{area}"
        if lowest is not None and width / height < lowest:
            return f"{what}, a width / height below data.minimum_aspect_ratio = {lowest:g}"
        if highest is not None and width / height > highest:
            return f"{what}, a width / height above data.maximum_aspect_ratio = {highest:g}"
        return ""

    def size(self, pixels: tuple[float, float], multiple: tuple[int, int]) -> tuple[int, int]:
        """Height and width, in whole ``multiple``s, of the bucket of a file of square ``pixels`` (height, width)."""
        if self.resolution is None:
            return self.height, self.width
        aspect = max(round(pixels[1] / pixels[0], self.aspect_bucket_rounding), 10**-self.aspect_bucket_rounding)
        target = self.resolution / aspect**0.5, self.resolution * aspect**0.5
        height, width = (max(1, round(side / whole)) * whole for side, whole in zip(target, multiple, strict=True))
        return height, width


class Source(Clips):
    """``manifest``, or a list of ``datasets``."""

    manifest: Location | None = None
    """Short for one dataset with this manifest."""
    datasets: tuple[Dataset, ...] = ()
    allow_outside: bool = False
    """True: a manifest may name files outside its folder."""
    maximum_pixels: PositiveInt = PIXELS
    """Files with larger frames are left out before any decoding."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """decord reads the files that it is proven to read right, and PyAV all others."""
    cache_dir: Folder = Path("cache")
    stream: bool = False
    """True: training begins while clips are still being encoded, beside it."""
    keep_small_buckets: bool = True
    """keep: sizes that fewer clips have than a global batch are repeated within it; else they are left out."""
    caption_dropout: Fraction = 0
    """Share of samples that get the empty caption in place of their own, so that a method also learns without a prompt.
    """
    negative_prompt: str = ""
    encode_batch: PositiveInt = 1
    encoders: PositiveInt = 1
    """Most actors at a time, of the text encoder first and of the codec then."""
    encoder_gpus: Annotated[float, Field(ge=0)] = 0
    """Rows of a batch of each."""

    @model_validator(mode="after")
    def _some_data(self) -> Source:
        if (self.manifest is None) == (not self.datasets):
            have = "both" if self.datasets else "neither"
            raise ValueError(f"data: give manifest or datasets, which holds several; {have} is given")
        weighted = [dataset for dataset in self.datasets if dataset.probability is not None]
        if 0 < len(weighted) < len(self.datasets):
            missing = next(dataset.name for dataset in self.datasets if dataset.probability is None)
            raise ValueError(f"data.datasets: {missing!r} has no probability and others have; give all of them one")
        for part in self.datasets:
            if part.resolution is not None and self.resolution is None:
                raise ValueError(f"data.datasets: {part.name!r} has a resolution: give data.resolution_type=pixel_area")
        return self

    def clips(self, part: Dataset) -> Clips:
        """Rules for the clips of a dataset's files."""
        settings: dict[str, Any] = {name: getattr(self, name) for name in Clips.model_fields}
        own = {name: getattr(part, name, None) for name in settings}
        return Clips.model_validate(settings | {name: value for name, value in own.items() if value is not None})

    @property
    def parts(self) -> tuple[Dataset, ...]:
        """The datasets, from whichever key they come."""
        return self.datasets or (Dataset(manifest=self.manifest),)

    @property
    def title(self) -> str:
        return " + ".join(part.name for part in self.parts)

    @property
    def has_videos(self) -> bool:
        return any(part.kind != "prompts" for part in self.parts)

    def passes(self, counts: list[int]) -> list[float]:
        """Number of times that an epoch shows each row of each dataset, which has ``counts`` rows; at least 1."""
        if self.parts[0].probability is None:
            return [1 + part.repeats for part in self.parts]
        passes = [
            (part.probability or 0) / count if count else 0.0 for part, count in zip(self.parts, counts, strict=True)
        ]
        least = min((share for share in passes if share), default=1.0)
        return [share / least for share in passes]
