"""RunConfig: everything a run is, frozen and strict. A default stands here and nowhere else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from ray_distill.config.keys import nearest
from ray_distill.data.source import Absolute, Source
from ray_distill.methods import METHODS
from ray_distill.models import FAMILIES
from ray_distill.models.lora import LoRA
from ray_distill.types import STUDENT, TEACHER, Average, Method, Role, Start

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def _numbers(value: Any) -> Any:
    """``1000,757,522``, which YAML reads as text, or a single number, as a list."""
    if isinstance(value, str):
        return value.split(",")
    return [value] if isinstance(value, int | float) else value


def _prompts(value: Any) -> Any:
    """A file of prompts as {name: prompt}."""
    if not isinstance(value, str | Path):
        return {} if value is None else value
    path = Path(value)
    if not path.is_file():
        raise ValueError(f"evaluate.prompts = {path}: no such file")
    if path.suffix != ".json":
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        return {f"prompt_{number}": line for number, line in enumerate(lines, 1)}
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"evaluate.prompts = {path}: not valid JSON: {error}") from None


def _method(value: Any) -> Any:
    """``{name: dmd, ...}`` -> the method's own frozen dataclass."""
    if not isinstance(value, dict):
        raise ValueError(f"method = {value!r}: write a section with a name, one of {', '.join(METHODS)}")
    fields = dict(value)
    name, mode = fields.pop("name", None), fields.get("mode")
    modes = [method.removeprefix(f"{name}_") for method in METHODS if method.startswith(f"{name}_")]
    if mode in modes:
        name = f"{name}_{fields.pop('mode')}"
    elif modes and name not in METHODS:
        raise ValueError(f"method.mode = {mode!r}: {name!r} has the modes {', '.join(modes)}")
    if name not in METHODS:
        raise ValueError(f"method.name = {name!r}: {nearest(str(name), METHODS)}")
    cls = METHODS[name]
    for alias, key in aliases(cls).items():
        if alias in fields and key in fields:
            raise ValueError(f"method.{alias}: another spelling of method.{key}; remove one of them")
        if alias in fields:
            fields[key] = fields.pop(alias)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in fields:
        if key not in known:
            others = [
                other for other in sorted(METHODS, key=len) if key in vars(METHODS[other])["__dataclass_fields__"]
            ]
            remedy = f"it is a key of {', '.join(others)}" if others else nearest(key, known)
            raise ValueError(f"method.{key}: method {name!r} has no such key; {remedy}")
    if "timesteps" in fields:
        fields["timesteps"] = _numbers(fields["timesteps"])
    try:
        return TypeAdapter(cls).validate_python(fields)
    except ValidationError as error:
        raise ValueError("; ".join(_method_problem(problem) for problem in error.errors())) from None


def aliases(method: Any) -> dict[str, str]:
    """Other tools' spellings of a method's keys (pydantic has a meaning of its own for "alias")."""
    fields = dataclasses.fields(method)
    return {field.metadata["elsewhere"]: field.name for field in fields if "elsewhere" in field.metadata}


def _method_problem(problem: Any) -> str:
    key = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"method.{key} = {problem['input']!r}: {message}" if key else f"method.{message}"


def _method_fields(method: Any) -> dict[str, Any]:
    return {"name": method.name, **dataclasses.asdict(method)}


def _family(value: str) -> str:
    if value not in FAMILIES:
        raise ValueError(f"model.family = {value!r}: {nearest(value, FAMILIES)}")
    return value


class Model(Section):
    """Where the teacher's pipeline stands: a folder in diffusers' format."""

    family: Annotated[str, BeforeValidator(_family)] = "wan"
    path: Absolute
    max_sequence_length: PositiveInt = 512
    text_encoder_precision: Literal["float32", "int8"] = "float32"
    attention: str = "native"
    """Of training, by diffusers' name: native (torch's own choice), flash, _native_cudnn, xformers, ..."""

    @property
    def int8_text(self) -> bool:
        return self.text_encoder_precision == "int8"


class Optimizer(Section):
    """AdamW with fp32 master weights. The schedule counts this role's own updates."""

    learning_rate: Annotated[float, Field(gt=0)]
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_min_lr", "polynomial"] = (
        "constant"
    )
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    """Linear, before any schedule."""
    min_lr_ratio: Fraction = 0.0
    """Where a falling schedule ends, as a part of learning_rate."""
    power: Annotated[float, Field(gt=0)] = 1.0
    """Of the polynomial schedule."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 is off, and so it is where clip_value is given."""
    clip_value: Annotated[float, Field(ge=0)] = 0.0
    """Largest element of a gradient; 0 is off."""

    @model_validator(mode="before")
    @classmethod
    def _clip_value_alone(cls, fields: Any) -> Any:
        return {"clip_norm": 0.0} | fields if isinstance(fields, dict) and fields.get("clip_value") else fields

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> Optimizer:
        if self.clip_norm and self.clip_value:
            raise ValueError(
                f"clip_norm = {self.clip_norm:g} and clip_value = {self.clip_value:g}: only one clips; remove the other"
            )
        if self.min_lr_ratio and self.schedule.startswith("constant"):
            raise ValueError(
                f"min_lr_ratio = {self.min_lr_ratio:g}: schedule {self.schedule!r} does not fall; remove it"
            )
        if not self.min_lr_ratio and self.schedule == "cosine_with_min_lr":
            raise ValueError("schedule = 'cosine_with_min_lr': give min_lr_ratio above 0, or take 'cosine'")
        if self.power != 1 and self.schedule != "polynomial":
            raise ValueError(f"power = {self.power:g}: only schedule 'polynomial' has one; remove it")
        return self


class RoleConfig(Section):
    """How one role is held. ``optimizer`` for trained roles; ``ema_decay`` keeps a sharded fp32 average beside it."""

    path: Absolute | None = None
    """Another source than model.path."""
    init: Literal["pretrained", "random"] = "pretrained"
    lora: LoRA | None = None
    """Train adapters on the frozen weights of the source, in place of the weights."""
    zero: Literal[0, 1, 2, 3] = 2
    """DeepSpeed's stage; 0, for a frozen role, is a whole network on each worker: no gathering, where it fits."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    base_precision: Literal["dtype", "int8"] = "dtype"
    """int8: what is frozen is held so, whole on each worker. Evaluation and export take the source's own weights."""
    gradient_checkpointing: bool = False
    optimizer: Optimizer | None = None
    ema_decay: Fraction | None = None
    ema_interval: PositiveInt = 1
    """The average moves after each so many updates of this role."""

    @model_validator(mode="after")
    def _lora_has_a_base(self) -> RoleConfig:
        if self.lora and self.init == "random":
            raise ValueError("init = 'random': lora adapts pretrained weights; remove init, or lora")
        return self

    @model_validator(mode="after")
    def _int8_is_frozen_and_whole(self) -> RoleConfig:
        if self.base_precision == "int8" and self.optimizer and not self.lora:
            raise ValueError("base_precision = 'int8': only frozen weights can be; give the role a lora, or remove it")
        if self.base_precision == "int8" and self.zero == 3:
            raise ValueError(
                "base_precision = 'int8': ZeRO-3 cannot shard such weights; use zero: 0 for a frozen role, 1 or 2 for "
                "one with adapters, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _interval_of_an_average(self) -> RoleConfig:
        if self.ema_interval > 1 and self.ema_decay is None:
            raise ValueError(f"ema_interval = {self.ema_interval}: no average is kept; give ema_decay, or remove it")
        return self


class Train(Section):
    steps: PositiveInt
    workers: PositiveInt = 1
    global_batch: PositiveInt
    micro_batch: PositiveInt
    """Samples of one forward on one worker; the rest of the global batch is accumulated."""
    use_gpu: bool = False
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    log_every_s: Annotated[float, Field(gt=0)] = 5
    checkpoint_every: PositiveInt = 500
    checkpoints_keep: PositiveInt = 3
    resume_from: Literal["latest", "none"] | Absolute = "latest"
    """none: refuse to go on where a run of this name stands. A checkpoint's folder: a new run begins from it."""
    max_failures: Annotated[int, Field(ge=-1)] = 3
    nonfinite_limit: PositiveInt = 10
    """Updates of a role in a row whose loss or gradient may be non-finite; each is skipped and counted."""
    rollbacks: Annotated[int, Field(ge=0)] = 1
    """How often a run that passes this limit goes back to its last checkpoint, each time at half the learning rates;
    then it ends. Each counts as one of max_failures."""
    timeout_s: PositiveInt = 1800
    """Longest wait in a collective before the ranks that did not come are named."""

    @model_validator(mode="after")
    def _divides(self) -> Train:
        if self.global_batch % (self.workers * self.micro_batch):
            raise ValueError(
                f"train.global_batch = {self.global_batch} is no multiple of workers x micro_batch = "
                f"{self.workers} x {self.micro_batch}"
            )
        return self

    @property
    def accumulation(self) -> int:
        return self.global_batch // (self.workers * self.micro_batch)


class Goals(Section):
    """What a student must reach to be called good; a run that misses one ends with exit code 1 and says which."""

    frechet_ratio: float | None = None
    """Largest Fréchet distance, as a multiple of teacher_many's."""
    frechet_margin: float | None = None
    """Least distance below teacher_same_steps_guided's."""
    accuracy: float | None = None


class Evaluate(Section):
    """The student against its teacher, by samples. ``metric`` is a classifier's folder; without it only pictures."""

    enabled: bool = True
    """Whether the student is held against its teacher when training has ended."""
    every: PositiveInt | None = None
    """Validate each so many steps and at the end: a checkpoint is saved, and sampled beside the training."""
    metric: Absolute | None = None
    videos: PositiveInt = 400
    seeds: tuple[int, ...] = (1, 2, 3)
    tune_seed: int = 0
    """The guided few-step teacher is chosen on this seed, and reported on the others."""
    batch: PositiveInt = 50
    teacher_steps: PositiveInt = 32
    teacher_shift: Annotated[float, Field(gt=0)] = 3.0
    teacher_guidance: float = 2.0
    guidance_grid: tuple[float, ...] = (1.5, 2.0, 3.0)
    shift_grid: tuple[float, ...] = (1.0, 3.0, 5.0)
    pictures: PositiveInt = 6
    """Prompts on the contact sheet, and sample videos."""
    prompts: Annotated[dict[str, str], BeforeValidator(_prompts)] = {}
    """Name -> prompt, or a file: JSON of the same, or text with a prompt a line. None takes captions of the data."""
    frames: PositiveInt | None = None
    """Of the videos that are made, as are height and width; None is the data's."""
    height: PositiveInt | None = None
    width: PositiveInt | None = None
    weights: Literal["average", "trained", "both"] = "average"
    """Which student a validation samples where an average is kept."""
    baseline: bool = False
    """Sample the teacher before training, with many steps and with the student's evaluations."""
    goals: Goals = Goals()

    @model_validator(mode="after")
    def _a_metric_sees_one_size(self) -> Evaluate:
        sizes = [name for name in ("frames", "height", "width") if getattr(self, name) is not None]
        if sizes and self.metric is not None:
            raise ValueError(f"evaluate.{sizes[0]}: evaluate.metric compares with the data's clips; remove one of them")
        return self


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI; None for every other."""
    path = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else ""
    return Path(path).absolute() if path and path != ":memory:" else None


def absolute_uri(uri: str) -> str:
    """A SQLite file by its absolute path: Ray's processes run in folders of their own. Every other URI as it is."""
    path = sqlite_path(uri)
    return f"sqlite:///{path}" if path else uri


class Track(Section):
    """MLflow. An empty uri tracks nothing."""

    uri: Annotated[str, AfterValidator(absolute_uri)] = "sqlite:///mlruns/mlflow.db"
    experiment: str = "ray_distill"
    register_as: str | None = None
    webhook: Absolute | None = None
    """A JSON file of {"callback_url": ...}, which gets a POST at start, checkpoint, validation, end and failure."""


class Publish(Section):
    """To the hub, at the end. The token is the machine's: HF_TOKEN, or what ``hf auth login`` has stored."""

    hub_model_id: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    """Without a user or organisation it is the token's own."""
    base_model: str
    """The hub's name of what model.path holds: others take text encoder and VAE from there."""
    private: bool = True
    per_checkpoint: bool = False
    """The student of each train.checkpoint_every, too, into checkpoints/."""


class RunConfig(Section):
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    output_dir: Absolute = Path("output")
    seed: Annotated[int, Field(ge=0)] = 0
    model: Model
    method: Annotated[Method, PlainValidator(_method), PlainSerializer(_method_fields)]
    roles: dict[Role, RoleConfig]
    data: Source
    train: Train
    evaluate: Evaluate = Field(default_factory=Evaluate)
    track: Track = Field(default_factory=Track)  # made anew: its relative file is one of the working directory of now
    publish: Publish | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    @model_validator(mode="after")
    def _roles_fit_the_method(self) -> RunConfig:
        for role in self.roles:
            if role not in self.method.roles:
                raise ValueError(
                    f"roles.{role}: method {self.method.name!r} has no such role; {nearest(role, self.method.roles)}"
                )
        for role, need in self.method.roles.items():
            config = self.roles.get(role)
            if isinstance(need, Average | Start) and config is not None:
                raise ValueError(f"roles.{role}: what it is follows from roles.{need.of} and the method; remove it")
            if isinstance(need, Start) and self.role(need.of).path is None:
                raise ValueError(
                    f"roles.{need.of}.path: method {self.method.name!r} also samples with what this role starts from; "
                    "give the folder of those weights, such as the export of the run that trained them"
                )
            if need == "trained" and (config is None or config.optimizer is None):
                raise ValueError(
                    f"roles.{role}.optimizer: method {self.method.name!r} trains this role; give at least learning_rate"
                )
            if need == "trained" and config is not None and config.zero == 0:
                raise ValueError(
                    f"roles.{role}.zero = 0: only a frozen role can be whole on each worker; use 1, 2 or 3"
                )
            given = [key for key in ("optimizer", "lora", "ema_decay") if config and getattr(config, key) is not None]
            if need == "frozen" and given:
                raise ValueError(f"roles.{role}: this role is frozen; remove its {' and '.join(given)}")
        return self

    @model_validator(mode="after")
    def _heads_are_made_anew(self) -> RunConfig:
        for role, heads in self.method.heads.items():
            held, nothing = self.role(role), RoleConfig(zero=3)
            keys = ("path", "init", "lora", "gradient_checkpointing", "ema_decay")
            if given := [key for key in keys if getattr(held, key) != getattr(nothing, key)]:
                raise ValueError(
                    f"roles.{role}: it is small heads on features of {heads.of}, made anew and never exported; remove "
                    f"its {' and '.join(given)}"
                )
        return self

    @model_validator(mode="after")
    def _goals_can_be_measured(self) -> RunConfig:
        goals = [name for name, value in self.evaluate.goals if value is not None]
        if goals and (self.evaluate.metric is None or TEACHER not in self.method.roles):
            raise ValueError(
                f"evaluate.goals.{goals[0]}: goals need evaluate.metric and a method with a teacher; remove the goals"
            )
        return self

    def role(self, role: Role) -> RoleConfig:
        """The role's section; a frozen role without one is ZeRO-3, and an average is held as what it is of."""
        need = self.method.roles.get(role)
        if isinstance(need, Start):
            return RoleConfig(path=self.role(need.of).path, zero=3)
        if isinstance(need, Average):
            held = self.role(need.of)
            unused = {"optimizer": None, "ema_decay": None, "ema_interval": 1, "gradient_checkpointing": False}
            return held.model_copy(update={"zero": 3 if held.zero == 3 else 0, **unused})
        return self.roles.get(role, RoleConfig(zero=3))

    @property
    def held_roles(self) -> tuple[Role, ...]:
        """The roles that training holds a network for."""
        return tuple(role for role, need in self.method.roles.items() if not isinstance(need, Start))

    def source(self, role: Role) -> Path:
        return self.role(role).path or self.model.path

    @property
    def shown_size(self) -> tuple[int, int, int]:
        """(frames, height, width) of the videos that evaluation makes."""
        shown, data = self.evaluate, self.data
        return shown.frames or data.frames, shown.height or data.height, shown.width or data.width

    @property
    def run_dir(self) -> Path:
        return self.output_dir / self.name

    @property
    def student_tensors(self) -> str:
        """The group of a checkpoint's tensors that is validated and published."""
        return self.sampled_tensors(STUDENT)

    def sampled_tensors(self, role: Role) -> str:
        """The average of a trained role, where one is kept."""
        return "ema" if self.role(role).ema_decay is not None else "weights"

    @property
    def validated(self) -> tuple[bool, ...]:
        """Whether validations sample averages, what is published first; both where both are asked for."""
        if self.student_tensors == "weights":
            return (True,)
        return {"average": (True,), "trained": (False,), "both": (True, False)}[self.evaluate.weights]

    def dump(self) -> dict[str, Any]:
        """Plain JSON types, enough to build this configuration again."""
        return self.model_dump(mode="json")
