"""The `roles` section: a role's storage (ZeRO, dtype, LoRA) and training (optimizer, EMA)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from ray_distill.config.keys import flatten
from ray_distill.methods import METHODS
from ray_distill.models import FAMILIES, family
from ray_distill.models.lora import LoRA
from ray_distill.settings import Fraction, Pipeline, Section
from ray_distill.types import FAKE_SCORE, FAKE_SCORE_LOW, STUDENT, STUDENT_LOW

FOLLOWED = (
    *("zero", "dtype", "gradient_dtype", "offload_optimizer", "offload_parameters"),
    *("attention", "compile", "gradient_checkpointing", "lora", "optimizer"),
)
"""Keys of a student's section that its fake score takes; the path, the start and the average are the student's own."""

NO_AVERAGE: dict[str, Any] = {"ema_decay": None, "ema_interval": 1, "ema_warmup": False}
"""Settings of a role that keeps no average."""


def with_targets(data: Any) -> Any:
    """A configuration's tree, in which adapters without ``targets`` get those of its family; other values unchanged."""
    if not isinstance(data, Mapping) or not isinstance(roles := data.get("roles"), Mapping):
        return data
    name = data["model"].get("family", "wan") if isinstance(data.get("model"), Mapping) else None
    bare = [
        role
        for role, section in roles.items()
        if isinstance(section, Mapping) and isinstance(section.get("lora"), Mapping)
    ]
    bare = [role for role in bare if "targets" not in roles[role]["lora"]]
    if not bare or name not in FAMILIES:
        return data
    targets = list(family(name).targets)
    changed = {role: {**roles[role], "lora": {**roles[role]["lora"], "targets": targets}} for role in bare}
    return {**data, "roles": {**roles, **changed}}


def follow_students(tree: Any) -> dict[str, str]:
    """Give each fake score without an optimizer the keys of its student's section that its own lacks, in ``tree``;
    returns the source of each key. A section with an optimizer stands as it is."""
    if not isinstance(tree, Mapping) or not isinstance(roles := tree.get("roles"), dict):
        return {}
    method = tree["method"].get("name") if isinstance(tree.get("method"), Mapping) else None
    needs: Any = METHODS[method].roles if method in METHODS else {}
    if not isinstance(needs, Mapping):  # a property, of methods whose roles depend on their keys; none has a fake score
        return {}
    sources: dict[str, str] = {}
    for role, student in ((FAKE_SCORE, STUDENT), (FAKE_SCORE_LOW, STUDENT_LOW)):
        own, first = roles.get(role, {}), roles.get(student)
        if role in needs and isinstance(own, dict) and "optimizer" not in own and isinstance(first, Mapping):
            section = {key: value for key, value in first.items() if key in FOLLOWED and key not in own}
            roles[role] = {**section, **own}
            sources |= dict.fromkeys(flatten({f"roles.{role}": section}), f"as roles.{student}")
    return sources


class Optimizer(Section):
    """AdamW with fp32 master weights. The schedule counts this role's own updates."""

    learning_rate: Annotated[float, Field(gt=0, le=1000)]
    """Peak learning rate of this role."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's decay of the mean and of the mean square of the gradient."""
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """AdamW's term in the denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay, times the learning rate at each update."""
    schedule: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_min_lr", "polynomial"] = (
        "constant"
    )
    """Learning rate over this role's updates, by diffusers' names."""
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    """Updates of the linear warm-up, before any schedule."""
    min_lr_ratio: Fraction = 0.0
    """End of a falling schedule, as a fraction of learning_rate."""
    power: Annotated[float, Field(gt=0)] = 1.0
    """Exponent of the polynomial schedule."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0, or a clip_value, turns it off."""
    clip_value: Annotated[float, Field(ge=0)] = 0.0
    """Largest absolute element of a gradient; 0 is off."""

    @model_validator(mode="before")
    @classmethod
    def _clip_value_alone(cls, fields: Any) -> Any:
        return {"clip_norm": 0.0} | fields if isinstance(fields, dict) and fields.get("clip_value") else fields

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> Optimizer:
        if self.clip_norm and self.clip_value:
            raise ValueError(
                f"clip_norm = {self.clip_norm:g} and clip_value = {self.clip_value:g}: only one of them may clip; "
                "remove the other"
            )
        if self.min_lr_ratio and self.schedule.startswith("constant"):
            raise ValueError(
                f"min_lr_ratio = {self.min_lr_ratio:g}: schedule {self.schedule!r} has no lowest rate; remove "
                "min_lr_ratio"
            )
        if not self.min_lr_ratio and self.schedule == "cosine_with_min_lr":
            raise ValueError("schedule = 'cosine_with_min_lr': give min_lr_ratio above 0, or take 'cosine'")
        if self.power != 1 and self.schedule != "polynomial":
            raise ValueError(f"power = {self.power:g}: only schedule 'polynomial' has a power; remove power")
        return self


class RoleConfig(Section):
    """Settings of one role. ``optimizer`` is for trained roles; ``ema_decay`` keeps a sharded fp32 average beside
    it."""

    path: Pipeline | None = None
    """Source in place of model.path: such a folder or name, or one .safetensors file."""
    init: Literal["pretrained", "random"] = "pretrained"
    """pretrained: weights of the source. random: its architecture with random weights."""
    lora: LoRA | None = None
    """Train adapters on the frozen weights of the source, in place of the weights."""
    zero: Literal[0, 1, 2, 3] = 2
    """DeepSpeed's stage. 0 keeps everything whole on each worker, including a trained role's gradients and moments (in
    float32): no gathering, if it fits."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of all weights that the role computes with, under every stage; buffers keep theirs. Master weights, moments
    and averages are float32, and the masters begin from the source's float32 weights if it has them."""
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which the gradients of a bf16 role's micro-batches add up; bf16 takes half the bytes, and loses
    small terms if several micro-batches make an update. The sum over ranks uses dtype."""
    base_precision: Literal["dtype", "int8"] = "dtype"
    """int8 keeps frozen weights in 8 bits, whole on each worker. Evaluation and export use the source's own weights."""
    offload_optimizer: bool = False
    """Keep masters and moments in CPU memory; AdamW then runs on the CPU."""
    offload_parameters: bool = False
    """Under ZeRO-3 also keep the shards of the weights in CPU memory; each layer fetches its own when it runs."""
    attention: str | None = None
    """Attention kernel of this role, in place of model.attention."""
    compile: bool = False
    """torch.compile of the repeated blocks; its first steps are slow."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    optimizer: Optimizer | None = None
    """Settings of AdamW, for a trained role."""
    ema_decay: Fraction | None = None
    """Decay of the role's average in each of its moves; validation, samples and export use the average. null:
    none."""
    ema_interval: PositiveInt = 1
    """Updates of this role per move of its average."""
    ema_warmup: bool = False
    """Let the average begin fast: after n updates of this role its decay is at most n / (n + 9), as that of diffusers
    and SimpleTuner always is. Without it a decay near 1 leaves a short run's average near its first weights."""

    @property
    def frozen(self) -> RoleConfig:
        """The same section without optimizer and average."""
        unused: dict[str, Any] = NO_AVERAGE | {
            "optimizer": None,
            "gradient_checkpointing": False,
            "offload_optimizer": False,
            "gradient_dtype": "float32",
        }
        return self.model_copy(update=unused)

    @model_validator(mode="after")
    def _lora_has_a_base(self) -> RoleConfig:
        if self.lora and self.init == "random":
            raise ValueError("init = 'random': lora adapts pretrained weights; remove init, or lora")
        return self

    @model_validator(mode="after")
    def _int8_is_frozen_and_whole(self) -> RoleConfig:
        if self.base_precision == "int8" and self.optimizer and not self.lora:
            raise ValueError(
                "base_precision = 'int8': only frozen weights can be int8; give the role a lora, or remove "
                "base_precision"
            )
        if self.base_precision == "int8" and self.zero == 3:
            raise ValueError(
                "base_precision = 'int8': ZeRO-3 cannot shard such weights; use zero: 0 for a frozen role, 1 or 2 "
                "for one with adapters, or remove base_precision"
            )
        return self

    @model_validator(mode="after")
    def _whole_weights_are_their_own_masters(self) -> RoleConfig:
        if self.zero == 0 and self.optimizer and self.dtype != "float32":
            raise ValueError(
                f"zero = 0: a role without shards trains in float32, and this one has dtype {self.dtype}; use zero: "
                "1, which adds fp32 masters"
            )
        if self.zero == 0 and self.offload_optimizer:
            raise ValueError(
                "offload_optimizer = true: only ZeRO moves the optimizer, and zero = 0; use zero: 1, 2 or 3, or "
                "remove offload_optimizer"
            )
        return self

    @model_validator(mode="after")
    def _offload_has_something_to_move(self) -> RoleConfig:
        if self.offload_optimizer and self.optimizer is None:
            raise ValueError("offload_optimizer = true: this role has no optimizer to move; remove offload_optimizer")
        if self.offload_parameters and self.zero != 3:
            raise ValueError(
                f"offload_parameters = true: only ZeRO-3's shards can be moved, and zero = {self.zero}; use zero: 3, "
                "or remove offload_parameters"
            )
        return self

    @model_validator(mode="after")
    def _gradients_are_no_rougher_than_their_role(self) -> RoleConfig:
        if self.gradient_dtype == "bfloat16" and (self.dtype == "float32" or self.zero == 0):
            raise ValueError(
                "gradient_dtype = 'bfloat16': only dtype bfloat16 under ZeRO-1, 2 or 3 has gradients in bfloat16, "
                f"and this role has dtype {self.dtype} and zero {self.zero}; remove gradient_dtype"
            )
        return self

    @model_validator(mode="after")
    def _compiled_blocks_are_whole(self) -> RoleConfig:
        if self.compile and self.zero == 3:
            raise ValueError(
                "compile = true: ZeRO-3 gathers weights inside the blocks, and compiled blocks cannot; use zero: 0, "
                "1 or 2, or remove compile"
            )
        return self

    @model_validator(mode="after")
    def _settings_of_an_average(self) -> RoleConfig:
        for key, alone in NO_AVERAGE.items():
            if (value := getattr(self, key)) != alone and self.ema_decay is None:
                text = str(value).lower()
                raise ValueError(f"{key} = {text}: the role keeps no average; give ema_decay, or remove {key}")
        return self
