"""RunConfig: all settings of a run, frozen and strict. Each default stands in its section and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, PlainSerializer, PlainValidator, model_validator

from ray_distill.config.evaluate import Evaluate
from ray_distill.config.keys import nearest
from ray_distill.config.measures import MEASURE_OF, check_names
from ray_distill.config.method import method_fields, read_method
from ray_distill.config.roles import RoleConfig, with_targets
from ray_distill.config.sections import Model, Publish, Track, Train
from ray_distill.config.shared_base import base_of, check_shared_base
from ray_distill.data.source import Source
from ray_distill.models.lora import LoRA
from ray_distill.models.lora_files import LoRAFile
from ray_distill.models.places import SECOND
from ray_distill.models.spec import of_clips
from ray_distill.secrets import mask_tree
from ray_distill.settings import Folder, Name, Section, Seed
from ray_distill.types import LOW, STUDENT, STUDENT_LOW, TEACHER, Average, Method, Role, Start

if TYPE_CHECKING:
    from ray_distill.models.pipeline import Pipeline


class RunConfig(Section):
    name: Name
    """Name of the run, of its folder within output_dir and of its MLflow run."""
    output_dir: Folder = Path("output")
    """Folder of all runs."""
    seed: Seed = 0
    """Seed of everything that the run draws."""
    model: Model
    method: Annotated[Method, PlainValidator(read_method), PlainSerializer(method_fields)]
    roles: dict[Role, RoleConfig]
    """The networks of the method, by role; a frozen role may be left out."""
    data: Source
    train: Train
    evaluate: Evaluate = Field(default_factory=Evaluate)
    track: Track = Field(
        default_factory=Track
    )  # a new one each time: its relative file belongs to the current working directory
    publish: Publish | None = None
    """Publication of the student on the hub; null: none."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _adapters_have_their_familys_targets(cls, data: Any) -> Any:
        return with_targets(data)

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
                raise ValueError(
                    f"roles.{role}: roles.{need.of} and the method determine this role; remove roles.{role}"
                )
            if isinstance(need, Start) and self.role(need.of).path is None:
                raise ValueError(
                    f"roles.{need.of}.path: method {self.method.name!r} also samples with this role's first weights; "
                    "give their folder, such as the export of the run that trained them"
                )
            if need == "trained" and (config is None or config.optimizer is None):
                raise ValueError(
                    f"roles.{role}.optimizer: method {self.method.name!r} trains this role; give at least learning_rate"
                )
            keys = [key for key in ("optimizer", "lora", "ema_decay") if config and getattr(config, key) is not None]
            if need == "frozen" and keys:
                raise ValueError(f"roles.{role}: this role is frozen; remove its {' and '.join(keys)}")
        return self

    @model_validator(mode="after")
    def _heads_are_made_anew(self) -> RunConfig:
        for role, heads in self.method.heads.items():
            section, nothing = self.role(role), RoleConfig(zero=3)
            fields = ("path", "init", "lora", "gradient_checkpointing", "ema_decay")
            if keys := [key for key in fields if getattr(section, key) != getattr(nothing, key)]:
                raise ValueError(
                    f"roles.{role}: this role has small heads on features of {heads.of}, which start at random and "
                    f"are never exported; remove its {' and '.join(keys)}"
                )
        return self

    @model_validator(mode="after")
    def _a_shared_base_is_one_network(self) -> RunConfig:
        if self.model.shared_base:
            check_shared_base(self)
        return self

    @model_validator(mode="after")
    def _a_cut_adapter_has_a_start(self) -> RunConfig:
        students = [role for role in (STUDENT, STUDENT_LOW) if role in self.method.roles]
        random = [role for role in students if self.role(role).init == "random"]
        if self.model.export_lora_rank is not None and random:
            raise ValueError(
                f"model.export_lora_rank = {self.model.export_lora_rank}: an adapter is added to published weights, "
                f"and roles.{random[0]}.init = random has none; remove model.export_lora_rank"
            )
        return self

    @model_validator(mode="after")
    def _goals_can_be_measured(self) -> RunConfig:
        settings, teacher = self.evaluate, TEACHER in self.method.roles
        goals = [goal for goal in settings.goals.names if not goal.startswith("within.")]
        if goals and (settings.metric is None or not teacher):
            raise ValueError(
                f"evaluate.goals.{goals[0]}: goals need evaluate.metric and a method with a teacher; remove the goals"
            )
        for name in settings.goals.within:
            if name not in MEASURE_OF:
                raise ValueError(
                    f"evaluate.goals.within.{name}: this is not a ratio; choose from {', '.join(MEASURE_OF)}"
                )
            try:
                check_names([name], settings.metrics, settings.metric is not None, teacher, settings.networks.folders)
            except ValueError as error:
                raise ValueError(f"evaluate.goals.within.{name}: {error}") from None
        return self

    def role(self, role: Role) -> RoleConfig:
        """The role's section. A frozen role without one gets ZeRO-3; an average gets its source's section without
        optimizer and average."""
        need = self.method.roles.get(role)
        if isinstance(need, Start):
            return RoleConfig(path=self.role(need.of).path, zero=3)
        if isinstance(need, Average):
            return self.role(need.of).frozen
        return self.roles.get(role, RoleConfig(zero=3))

    @property
    def adapters(self) -> dict[Role, LoRA]:
        """Adapters on a shared base, by role; the teachers are the bases and have none."""
        roles = [role for role in self.held_roles if role != base_of(role) and role not in self.method.heads]
        return {role: lora for role in roles if (lora := self.role(role).lora) is not None}

    @property
    def held_roles(self) -> tuple[Role, ...]:
        """Roles whose networks training holds."""
        return tuple(role for role, need in self.method.roles.items() if not isinstance(need, Start))

    @property
    def computes_in_bf16(self) -> bool:
        """True if the network of some role computes in bf16."""
        return any(self.role(role).dtype == "bfloat16" for role in self.held_roles)

    def source(self, role: Role) -> Path:
        """Folder of the pipeline, or single file, with the role's transformer. A role of the low-noise expert takes
        transformer_2, also from a path of its own if that has one."""
        own = self.role(role).path
        second = (own or self.model.path) / SECOND
        return second if role in LOW and (own is None or second.is_dir()) else own or self.model.path

    def loras(self, role: Role) -> tuple[LoRAFile, ...]:
        """LoRAs that are merged into the role's weights: those of ``model.loras`` for its expert, if its weights come
        from model.path."""
        section, expert = self.role(role), "low" if role in LOW else "high"
        if role in self.method.heads or section.path is not None or section.init == "random":
            return ()
        return tuple(lora for lora in self.model.loras if lora.expert in (None, "both", expert))

    def pipeline(self, role: Role) -> Pipeline:
        """The facts of the folder that a role's transformer comes from."""
        source, own = self.source(role), self.role(role).path
        if source == self.model.path:
            return self.model.pipeline
        return self.model.pipeline.beside(source, "model.path" if own is None else f"roles.{role}.path")

    @property
    def shown_size(self) -> tuple[int, int, int]:
        """(frames, height, width) of the evaluation's videos."""
        shown, data = self.evaluate, self.data
        return shown.frames or data.frames, shown.height or data.height, shown.width or data.width

    @property
    def begins_from_picture(self) -> bool:
        """True if videos begin from a picture."""
        return bool(of_clips(self.model.encoders.fields))

    @property
    def run_dir(self) -> Path:
        return self.output_dir / self.name

    @property
    def student_tensors(self) -> str:
        """Group of a checkpoint's tensors that validations and publication use."""
        return self.sampled_tensors(STUDENT)

    def sampled_tensors(self, role: Role) -> str:
        """Kind of a role's tensors for sampling: ``ema`` if it has an average, else ``weights``."""
        return "ema" if self.role(role).ema_decay is not None else "weights"

    @property
    def validation_students(self) -> tuple[bool, ...]:
        """Students that validations sample, the published one first: True for the average, False for trained
        weights."""
        if self.student_tensors == "weights":
            return (True,)
        return {"average": (True,), "trained": (False,), "both": (True, False)}[self.evaluate.weights]

    def dump(self, secrets: bool = False) -> dict[str, Any]:
        """Plain JSON types that rebuild this configuration, except passwords, which are ``***`` without ``secrets``."""
        tree = self.model_dump(mode="json")
        return tree if secrets else mask_tree(tree)
