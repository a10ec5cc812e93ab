"""The `evaluate` section: metrics, samples, and the goals that a student must reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from ray_distill.config.measures import ALL, Bounds, MeasureName
from ray_distill.plaintext import json_of, text_of
from ray_distill.settings import Absolute, Frames, Section, Seed, Shift, Side, Steps, home


def _prompts(path: Path) -> Any:
    """Read {name: prompt} from a file of prompts."""
    from ray_distill.data.prepare.listing import (
        named_prompts,  # imports readers of tables, which most configurations do not need
    )

    return named_prompts(path)


def _images(path: Path) -> dict[str, Path]:
    """Read {name: picture} from a JSON file, whose paths start at its folder."""
    pictures = json_of(text_of(path.read_bytes()))
    if not isinstance(pictures, dict) or not all(isinstance(each, str) for each in pictures.values()):
        raise ValueError("give a JSON object that maps names to paths of pictures")
    return {name: path.parent / each for name, each in pictures.items()}


def _or_file(key: str, read: Callable[[Path], Any]) -> BeforeValidator:
    """Replace the name of a file by its content, by ``read``, and null by {}."""

    def content(value: Any) -> Any:
        if not isinstance(value, str | Path):
            return {} if value is None else value
        path = home(Path(value))
        if not path.is_file():
            raise ValueError(f"{key} = {path}: no such file")
        try:
            return read(path)
        except ValueError as error:
            raise ValueError(f"{key} = {path}: {error}") from None

    return BeforeValidator(content)


class Goals(Section):
    """Goals of the student; a run that misses one ends with exit code 1 and names it."""

    frechet_ratio: Annotated[float, Field(gt=0)] | None = None
    """Largest Fréchet distance, as a multiple of teacher_many's."""
    frechet_margin: float | None = None
    """Smallest required distance below teacher_same_steps_guided's FD."""
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Smallest share of videos that show their prompt to evaluate.metric."""
    within: dict[str, Bounds] = Field(default_factory=dict)
    """Bounds of ratios to the many-step teacher, by name: {motion_ratio: {at_least: 0.95}}."""

    @property
    def names(self) -> list[str]:
        """The goals that are set, by key."""
        single = [name for name in ("frechet_ratio", "frechet_margin", "accuracy") if getattr(self, name) is not None]
        return [*single, *(f"within.{name}" for name in self.within)]


class Networks(Section):
    """Folders of networks that judge videos, each with config.json, a preprocessor's configuration and safetensors as
    transformers saves them. docs/metrics.md has each one's classes and measures."""

    subject: Absolute | None = None
    """Image network of ``subject_consistency``: DINOv2 or CLIP."""
    background: Absolute | None = None
    """Image network of ``background_consistency``: DINOv2 or CLIP."""
    text: Absolute | None = None
    """CLIP, for ``text_agreement``."""
    video: Absolute | None = None
    """VideoMAE, V-JEPA 2 or an image network, for ``video_diversity``, ``video_kid`` and ``video_frechet``."""
    flow: Absolute | None = None
    """torchvision's RAFT, in place of Farnebäck's optical flow in ``motion``, ``motion_top`` and ``moving``."""

    @property
    def folders(self) -> dict[str, Path]:
        """The folders that are set, by key."""
        return {key: folder for key in type(self).model_fields if (folder := getattr(self, key)) is not None}


class Preflight(Section):
    """Looks and thresholds of `ray-distill preflight`; it ends with exit code 1 where the teacher is outside."""

    first: bool = True
    """Whether a new run that trains on GPUs first looks at data and teacher, and stops where `ray-distill preflight`
    would."""
    samples: bool = True
    """Let the teacher sample evaluate.pictures prompts; false where no machine at hand can."""
    clips: Annotated[int, Field(ge=0, le=100_000)] = 64
    """Clips of the data whose motion is measured, at most."""
    cycles: Annotated[int, Field(ge=0, le=1000)] = 3
    """Cycles of the method's updates that `ray-distill preflight` trains aside, for their seconds and bytes."""
    compare: bool = True
    """Whether diffusers' own pipeline samples a clip of the teacher, too, on the CPU in fp32, as our sampler does."""
    steps: Steps = 4
    """Steps of that clip."""
    tolerance: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    """Largest difference of the two in a normalised latent."""
    within: dict[MeasureName, Bounds] = Field(default_factory=dict)
    """Bounds of the teacher's measures, by name: {motion: {at_least: 0.02}}."""

    @model_validator(mode="after")
    def _bounds_are_of_samples(self) -> Preflight:
        if self.within and not self.samples:
            raise ValueError(
                "evaluate.preflight.within bounds the teacher's samples; set samples: true, or remove within"
            )
        return self


class Evaluate(Section):
    """Evaluation of the student against its teacher by samples. ``metric`` is a classifier's folder; without it an
    evaluation makes pictures only."""

    enabled: bool = True
    """Whether the run compares the student with its teacher after training."""
    every: PositiveInt | None = None
    """Steps between validations, which also come at the end: each saves a checkpoint and samples it beside the
    training."""
    metric: Absolute | None = None
    """Folder of a classifier, which gives Fréchet distance, accuracy and diversity; null: pictures and measures
    only."""
    metrics: tuple[MeasureName, ...] = ALL
    """Names of measures without a network, of those in docs/metrics.md."""
    networks: Networks = Networks()
    videos: Annotated[int, Field(gt=0, le=1_000_000)] = 400
    """Videos of each sampler for each seed."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100)] = (1, 2, 3)
    """Sampling seeds of the report."""
    tune_seed: Seed = 0
    """Seed on which the guided few-step teacher is chosen; the report uses the others."""
    batch: PositiveInt = 50
    """Videos of one forward."""
    gpus: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs of one node over which a sampling task spreads its networks by layers, where one GPU does not hold them."""
    teacher_steps: Steps = 32
    """Steps of the many-step teacher."""
    teacher_shift: Shift = 3.0
    """Shift of the teacher's steps."""
    teacher_guidance: float = 2.0
    """Guidance of the many-step teacher, s in u + s (c - u)."""
    teacher_audio_guidance: float | None = None
    """Guidance of sound in the guided teachers, for clips with sound; null: that of the picture."""
    teacher_guidance_low: float | None = None
    """Guidance of a second teacher, for the low noise levels; None: teacher_guidance."""
    guidance_grid: Annotated[tuple[float, ...], Field(min_length=1, max_length=100)] = (1.5, 2.0, 3.0)
    """Guidances among which the guided few-step teacher is chosen."""
    shift_grid: Annotated[tuple[Shift, ...], Field(min_length=1, max_length=100)] = (1.0, 3.0, 5.0)
    """Shifts among which the guided few-step teacher is chosen."""
    keep_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 4.0
    """Space, in GiB, for latents of evaluations beside the cache: a later evaluation of the same checkpoint by other
    metrics samples nothing that is kept. 0 keeps none."""
    pictures: Annotated[int, Field(gt=0, le=10_000)] = 6
    """Number of prompts on the contact sheet, and of sample videos."""
    prompts: Annotated[dict[str, str], _or_file("evaluate.prompts", _prompts)] = Field(default_factory=dict)
    """Mapping of name to prompt, or a file: JSON with such a mapping, or prompts as in ``data.datasets``. None takes
    captions of the data."""
    images: Annotated[dict[str, Absolute], _or_file("evaluate.images", _images)] = Field(default_factory=dict)
    """Mapping of a prompt's name to the picture with which its video begins, or a JSON file with such a mapping."""
    frames: Frames | None = None
    """Size of the evaluation's videos, with height and width below; None: the data's."""
    height: Side | None = None
    """Height of the evaluation's videos; null: the data's."""
    width: Side | None = None
    """Width of the evaluation's videos; null: the data's."""
    weights: Literal["average", "trained", "both"] = "average"
    """The student that a validation samples if the run keeps an average."""
    validation_ratios: bool = True
    """Whether validations compare with the many-step teacher, which they sample once."""
    baseline: bool = False
    """Sample the teacher before training, with many steps and with the student's evaluations."""
    goals: Goals = Goals()
    preflight: Preflight = Preflight()

    @property
    def shown(self) -> int:
        """Number of videos that one task of an evaluation samples."""
        return self.videos if self.metric else len(self.prompts) or self.pictures

    @model_validator(mode="after")
    def _seeds_differ(self) -> Evaluate:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"evaluate.seeds = {list(self.seeds)}: a seed occurs twice; give different seeds")
        return self

    @model_validator(mode="after")
    def _pictures_are_of_prompts(self) -> Evaluate:
        if other := [name for name in self.images if name not in self.prompts]:
            raise ValueError(f"evaluate.images: evaluate.prompts has no prompt named {other[0]!r}; use its names")
        return self

    @model_validator(mode="after")
    def _a_distance_needs_two_videos(self) -> Evaluate:
        if self.metric is not None and self.videos < 2:
            raise ValueError(
                f"evaluate.videos = {self.videos}: evaluate.metric compares distributions and needs 2 videos or more; "
                "raise evaluate.videos, or set evaluate.metric=null"
            )
        return self

    @model_validator(mode="after")
    def _a_metric_sees_one_size(self) -> Evaluate:
        sizes = [name for name in ("frames", "height", "width") if getattr(self, name) is not None]
        if sizes and self.metric is not None:
            raise ValueError(
                f"evaluate.{sizes[0]}: evaluate.metric compares samples with the data's clips, so both have one size; "
                "remove one of the two keys"
            )
        return self
