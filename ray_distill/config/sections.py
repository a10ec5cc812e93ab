"""The `model`, `train`, `track` and `publish` sections of a configuration."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from ray_distill.models import FAMILIES, alike_family
from ray_distill.models.lora_files import LoRAFile
from ray_distill.settings import Absolute, Many, Section, absolute
from ray_distill.settings import Pipeline as PipelineFolder

if TYPE_CHECKING:
    from ray_distill.data.encoders import Encoders
    from ray_distill.models.pipeline import Pipeline


Format = Literal["comfyui_lora", "kohya_lora", "original_float32", "original_bfloat16", "original_float8"]


def _family(value: str) -> str:
    if value not in FAMILIES:
        alike = alike_family(value)
        hint = f"did you mean {alike!r}?" if alike else f"known: {', '.join(sorted(FAMILIES))}"
        raise ValueError(f"model.family = {value!r}: {hint}")
    return value


class Model(Section):
    """The teacher's pipeline: a folder in diffusers' format, or ORGANISATION/NAME in the hub's cache."""

    family: Annotated[str, BeforeValidator(_family)] = "wan"
    """The family of networks; docs/families.md lists them."""
    path: PipelineFolder
    """The teacher's pipeline: a folder in diffusers' format, or ORGANISATION/NAME in the hub's cache."""
    from_image: bool | None = None
    """Whether a video begins from an image; by default the network decides. Wan 2.2 5B does both, and by default makes
    videos from text."""
    loras: tuple[LoRAFile, ...] = ()
    """LoRAs merged into the networks of model.path, as they are loaded: into the teacher, and into each role that
    begins from the same weights. A role with a path of its own gets none."""
    max_sequence_length: Annotated[int, Field(gt=0, le=100_000)] = 512
    """Tokens to which prompts are cut or padded."""
    export_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the exported weights, except the parts that diffusers keeps in float32."""
    export_lora_rank: Annotated[int, Field(gt=0, le=65_536)] | None = None
    """Also export the change by training as an adapter of this rank: for a fully trained student, or in place of a
    student's own adapter."""
    export_formats: tuple[Format, ...] = ()
    """Further files of the export. comfyui_lora, kohya_lora: the adapter by ComfyUI's or Kohya's names. original_*: the
    whole transformer in one file by the original code's names, for ComfyUI and LightX2V, in float32, in bfloat16, or
    with the blocks' matrices in float8 (e4m3fn) and the rest in bfloat16."""
    text_encoder_precision: Literal["float32", "bfloat16", "int8"] = "float32"
    """Precision of the text encoder, whatever dtype its files have; int8: a weight takes one byte."""
    vae_tiling: bool = False
    """Encode and decode clips by overlapping tiles, in less memory: latents and pixels then differ a little from those
    of a whole picture. A clip that is decoded chunk by chunk is not tiled."""

    attention: str = "native"
    """Attention kernel of training, by diffusers' name: native (torch's own choice), flash, _native_cudnn, xformers,
    ..."""

    shared_base: bool = False
    """One frozen base in place of a network for each role: the teacher is the base, all trained transformers are
    adapters on it. roles.teacher sets its storage."""

    @cached_property
    def pipeline(self) -> Pipeline:
        """Facts of the model's folder, each read once."""
        from ray_distill.models.pipeline import Pipeline  # takes seconds to import

        return Pipeline(self.family, self.path, from_image=self.from_image)

    @property
    def encoders(self) -> Encoders:
        """The encoders of clips and prompts."""
        from ray_distill.data.encoders import Encoders

        return Encoders(
            self.pipeline, self.max_sequence_length, self.text_encoder_precision, self.loras, self.vae_tiling
        )


YEAR_S = 366 * 24 * 3600  # clocks below take no more than some hundred of them
Workers = Annotated[int, Field(gt=0, le=100_000)]


class Train(Section):
    steps: Annotated[int, Field(gt=0, le=1_000_000_000)]
    """Steps of the run. A step updates each role whose turn it is, by one global batch."""
    workers: Workers = 1
    """Training processes, one GPU each with use_gpu."""
    min_workers: Workers | None = None
    """Smallest number of workers with which the run continues after losing nodes, at the same global batch; None: it
    waits."""
    global_batch: Many = 64
    """Samples of one update over all workers."""
    micro_batch: Many = 1
    """Samples of one forward on one worker; accumulation makes up the global batch."""
    sequence_parallel: PositiveInt = 1
    """Number of neighbouring workers that share the tokens of a clip, which divides its activations by about this
    number."""
    use_gpu: bool = False
    """Whether each worker has a GPU."""
    cpus_per_worker: Annotated[float, Field(gt=0, le=10_000)] = 1
    """CPUs that Ray reserves for each worker."""
    log_every_s: Annotated[float, Field(gt=0, le=YEAR_S)] = 5
    """Seconds between the progress lines of a run."""
    role_seconds: bool = False
    """Whether each step logs the seconds and the peak bytes of each role's updates, `seconds/<role>` and
    `bytes/<role>`; a GPU then waits at each phase."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints."""
    checkpoints_keep: PositiveInt = 3
    """Number of newest checkpoints to keep; a run never removes the newest whole one."""
    checkpoints_keep_best: NonNegativeInt = 1
    """Number of best checkpoints to keep besides, by validation/frechet, if evaluate.every and evaluate.metric measure
    it."""
    checkpoint_in_background: bool = True
    """Write during training, from a copy in memory of this worker's share of weights, moments and averages."""
    on_failed_save: Literal["continue", "stop"] = "continue"
    """Reaction to a save that a full or read-only disk prevented; earlier checkpoints stay."""
    resume_from: Literal["latest", "none"] | Absolute = "latest"
    """none: refuse to resume a run of this name. A checkpoint's folder: continue that run under this name, at its step,
    with its seed and data."""
    init_from: Absolute | None = None
    """A checkpoint's folder: a new run begins at step 0 with the weights of its trained roles, and with its own seed,
    data, method and optimizers."""
    other_teacher: bool = False
    """Resume although the weights of a frozen role have changed since the run began."""
    max_failures: Annotated[int, Field(ge=-1)] = 3
    """Failures, deaths or hangs of workers that one launch tolerates; -1: any number."""
    max_preemptions: Annotated[int, Field(ge=-1)] = -1
    """Losses of nodes with notice that one launch tolerates; they do not count as failures."""
    nonfinite_limit: PositiveInt = 10
    """Non-finite updates of a role in a row that a run tolerates; it skips and counts each."""
    rollbacks: Annotated[int, Field(ge=0)] = 1
    """Returns to the last checkpoint beyond this limit, each at half the learning rates, before the run ends. Each
    counts as one of max_failures."""
    timeout_s: Annotated[int, Field(gt=0, le=YEAR_S)] = 1800
    """Longest wait in a collective, after which the run names the missing ranks."""
    hang_timeout_s: Annotated[int, Field(gt=0, le=YEAR_S)] = 900
    """Time without a change of phase on any rank, after which the run names all ranks and restarts the workers."""

    @model_validator(mode="after")
    def _one_beginning(self) -> Train:
        if self.init_from is not None and self.resume_from not in ("latest", "none"):
            raise ValueError(
                f"train.init_from = {self.init_from} begins a new run, and train.resume_from = {self.resume_from} "
                "continues another: give one of the two keys"
            )
        return self

    @model_validator(mode="after")
    def _divides(self) -> Train:
        least = self.min_workers or self.workers
        if least > self.workers:
            raise ValueError(
                f"train.min_workers = {least} is more than train.workers = {self.workers}; lower the first, or raise "
                "the second"
            )
        shared = self.sequence_parallel
        for key, workers in (("workers", self.workers), ("min_workers", least)):
            if workers % shared:
                divisors = ", ".join(str(n) for n in range(1, least + 1) if self.workers % n == least % n == 0)
                near = {workers // shared * shared, (workers // shared + 1) * shared} - {0}
                raise ValueError(
                    f"train.sequence_parallel = {shared}: this number of workers shares a clip, and train.{key} = "
                    f"{workers} is no multiple of it; set sequence_parallel to one of {divisors}, or {key} to "
                    f"{' or '.join(map(str, sorted(near)))}"
                )
        for workers in range(self.workers, least - 1, -shared):
            if self.global_batch % (workers // shared * self.micro_batch):
                few = "" if self.min_workers is None else f"; train.min_workers = {least} allows that many workers"
                names, numbers = (
                    ("workers", workers)
                    if shared == 1
                    else (
                        "workers / sequence_parallel",
                        f"{workers} / {shared}",
                    )
                )
                raise ValueError(
                    f"train.global_batch = {self.global_batch} is no multiple of {names} x micro_batch = {numbers} x "
                    f"{self.micro_batch}{few}; change one of these"
                )
        return self

    @property
    def accumulation(self) -> int:
        return self.global_batch // (self.workers // self.sequence_parallel * self.micro_batch)


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI; None for any other URI."""
    path = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else ""
    return absolute(Path(path)) if path and path != ":memory:" else None


def absolute_uri(uri: str) -> str:
    """The URI with an absolute path for a SQLite file, since Ray's processes run in folders of their own; any other URI
    unchanged. ValueError for a text that begins like neither a URI nor a path, and for a web address without a host."""
    if uri and not re.match(r"https?://[^/?#]|(?!https?:)[\w./~]", uri):
        raise ValueError("give a URI such as http://host:5000 or sqlite:///mlruns/mlflow.db, or nothing")
    path = sqlite_path(uri)
    return f"sqlite:///{path}" if path else uri


class Track(Section):
    """MLflow's settings. An empty uri tracks nothing."""

    uri: Annotated[str, AfterValidator(absolute_uri)] = "sqlite:///mlruns/mlflow.db"
    """MLflow's tracking URI; empty: no tracking."""
    experiment: Annotated[str, Field(min_length=1)] = "ray_distill"
    """Name of the MLflow experiment."""
    register_as: str | None = None
    """Name of a registered model in MLflow, which gets the student as a new version; null: none."""
    webhook: Absolute | None = None
    """A JSON file of {"callback_url": ...}, which gets a POST at start, checkpoint, validation, end and failure."""


class Publish(Section):
    """Publication to the hub at the end. The token is the machine's: HF_TOKEN, or the token of ``hf auth login``."""

    hub_model_id: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    """Repository; without a user or organisation it belongs to the token's owner."""
    base_model: Annotated[str, Field(min_length=1)]
    """The hub's name of the model in model.path, from which users of the export take text encoder and VAE."""
    private: bool = True
    """Whether a new repository is private."""
    per_checkpoint: bool = False
    """Whether to upload also the student of each checkpoint, into checkpoints/."""
